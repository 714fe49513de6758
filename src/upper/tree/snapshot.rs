//! The tree as records: what a checkpoint writes.

use super::{Below, Inode, InodeNo, Kind, Tree};
use crate::errno::Result;
use crate::journal::record::{BelowImage, Record};
use crate::upper::{Dentry, Source};

/// Bytes of a group of records, about.
const GROUP: usize = 64 << 10;

impl Tree {
    /// Hands the records that make this tree anew to `sink`, an encoded group at a time; a group is
    /// at most about 64 KiB unless one record is larger.
    ///
    /// # Errors
    /// Those of `sink`.
    pub fn snapshot(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut out = Vec::with_capacity(GROUP + GROUP / 4);
        let mut put = |record: Record<'_>| -> Result<()> {
            record.encode(&mut out);
            if out.len() >= GROUP {
                sink(&out)?;
                out.clear();
            }
            Ok(())
        };
        for (id, layer) in self.layers() {
            put(Record::Layer { id, identity: layer.identity, place: layer.place })?;
        }
        for (ino, inode) in self.inodes() {
            snapshot_inode(ino, inode, &mut put)?;
        }
        for (parent, inode) in self.inodes() {
            let Some(dir) = inode.dir() else { continue };
            for (_, name, dentry) in dir.entries_from(0) {
                put(match dentry {
                    Dentry::Whiteout => Record::Whiteout { parent, name },
                    Dentry::Inode { ino, hides_lower } => {
                        Record::Link { parent, ino, hides_lower, name }
                    }
                })?;
            }
        }
        // Last, as every new inode moves it.
        put(Record::NextInode { next: self.next })?;
        if out.is_empty() { Ok(()) } else { sink(&out) }
    }
}

fn snapshot_inode(
    ino: InodeNo,
    inode: &Inode,
    put: &mut dyn FnMut(Record<'_>) -> Result<()>,
) -> Result<()> {
    put(Record::Inode { ino, image: inode.image })?;
    if let Some(origin) = inode.origin() {
        put(Record::Origin { ino, origin: origin.image, path: &origin.path })?;
    }
    for (name, value) in inode.xattrs() {
        put(Record::SetXattr { ino, name, value })?;
    }
    match &inode.kind {
        Kind::Symlink(target) => put(Record::Target { ino, target })?,
        // After the attributes, which would count as a change.
        Kind::Dir(dir) => {
            let below = match &dir.below {
                Below::Nothing => return Ok(()),
                Below::SameName => BelowImage::SameName,
                Below::Path(path) => BelowImage::Path(path),
            };
            put(Record::Below { ino, below, untouched: dir.untouched })?;
        }
        Kind::File(map) => {
            for run in map.iter() {
                put(match run.source {
                    Source::Data(block) => Record::Map { ino, at: run.at, block, len: run.len },
                    _ => Record::Hole { ino, at: run.at, len: run.len },
                })?;
            }
        }
        Kind::Special => {}
    }
    Ok(())
}
