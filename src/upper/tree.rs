//! All inodes of the upper.

use super::dir::{Below, Dentry};
use super::inode::{Inode, Kind, Origin};
use crate::attr::{FileType, InodeNo, LayerId, RecordedLayer};
use crate::block::{FileBlock, blocks_for};
use crate::filestore::Extent;
use crate::journal::record::{BelowImage, InodeImage, OriginImage, Record};
use crate::name::check_name;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

mod faults;
mod snapshot;
#[cfg(test)]
mod tests;

/// File blocks a record may name: 2^51 of 4 KiB are the 8 EiB that an offset can reach.
const BLOCK_LIMIT: u64 = 1 << 51;

/// A record that does not fit the tree: the journal is damaged, or a caller has a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str, pub InodeNo);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (inode {:#x})", self.0, self.1.0)
    }
}

/// A layer that origins refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownLayer {
    /// A `layer::LayerIdentity`.
    pub identity: u64,
    /// Where in the stack it was when it was first recorded.
    pub place: LayerId,
}

#[derive(Debug)]
pub struct Tree {
    inodes: FxHashMap<InodeNo, Box<Inode>>,
    layers: BTreeMap<RecordedLayer, KnownLayer>,
    /// What the next new inode may be numbered.
    next: u64,
    data_blocks: u64,
    /// Inodes without a link.
    unlinked: usize,
    /// Inodes whose origin had several names.
    several_names: usize,
    /// About how many bytes a checkpoint of this tree takes.
    live_bytes: u64,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree {
            inodes: FxHashMap::default(),
            layers: BTreeMap::new(),
            next: InodeNo::MADE_HERE.start,
            data_blocks: 0,
            unlinked: 0,
            several_names: 0,
            live_bytes: 0,
        }
    }
}

// How long the records of a checkpoint are: somewhat more than most are.
const INODE_BYTES: u64 = 64;
const RUN_BYTES: u64 = 20;

fn entry_bytes(name: &[u8]) -> u64 {
    16 + name.len() as u64
}

fn origin_bytes(path: &[u8]) -> u64 {
    36 + path.len() as u64
}

fn below_bytes(below: &Below) -> u64 {
    match below {
        Below::Nothing => 0,
        Below::SameName => 10,
        Below::Path(path) => 12 + path.len() as u64,
    }
}

impl Tree {
    pub fn get(&self, ino: InodeNo) -> Option<&Inode> {
        self.inodes.get(&ino).map(|inode| &**inode)
    }

    pub fn contains(&self, ino: InodeNo) -> bool {
        self.inodes.contains_key(&ino)
    }

    /// Inodes in the upper.
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    pub fn inodes(&self) -> impl Iterator<Item = (InodeNo, &Inode)> {
        self.inodes.iter().map(|(ino, inode)| (*ino, &**inode))
    }

    /// Where the search for a number for the next new inode begins.
    pub fn next_number(&self) -> InodeNo {
        InodeNo(self.next)
    }

    /// A layer that origins refer to.
    pub fn layer(&self, id: RecordedLayer) -> Option<KnownLayer> {
        self.layers.get(&id).copied()
    }

    /// The layers that origins refer to.
    pub fn layers(&self) -> impl Iterator<Item = (RecordedLayer, KnownLayer)> {
        self.layers.iter().map(|(id, layer)| (*id, *layer))
    }

    /// Filestore blocks that files map.
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// An estimate of a checkpoint's size in bytes.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// What the upper says of an entry; `None`: nothing, so the lowers decide.
    pub fn dentry(&self, parent: InodeNo, name: &[u8]) -> Option<Dentry> {
        self.get(parent)?.dir()?.get(name)
    }

    /// Applies one record. Extents that nothing maps any more are pushed on `freed`.
    ///
    /// # Errors
    /// [`Broken`] for a record that does not fit; the tree is as it was before it then.
    pub fn apply(
        &mut self,
        record: &Record<'_>,
        freed: &mut Vec<Extent>,
    ) -> std::result::Result<(), Broken> {
        match *record {
            Record::Inode { ino, image } => self.put_inode(ino, image),
            Record::Drop { ino } => {
                self.drop_inode(ino, freed);
                Ok(())
            }
            Record::Times { ino, mtime, ctime } => {
                let inode = self.inode(ino)?;
                inode.image.mtime = mtime;
                inode.image.ctime = ctime;
                note_change(inode);
                Ok(())
            }
            Record::Target { ino, target } => match &mut self.inode(ino)?.kind {
                Kind::Symlink(own) => {
                    *own = target.into();
                    self.live_bytes += target.len() as u64;
                    Ok(())
                }
                _ => Err(Broken("a target for what is no symlink", ino)),
            },
            Record::Origin { ino, origin, path } => self.put_origin(ino, origin, path),
            Record::Below { ino, below, untouched } => self.set_below(ino, below, untouched),
            Record::Layer { id, identity, place } => {
                self.layers.insert(id, KnownLayer { identity, place });
                Ok(())
            }
            Record::Link { parent, ino, hides_lower, name } => {
                self.set_entry(parent, name, Some(Dentry::Inode { ino, hides_lower }))
            }
            Record::Whiteout { parent, name } => {
                self.set_entry(parent, name, Some(Dentry::Whiteout))
            }
            Record::Unlink { parent, name } => self.set_entry(parent, name, None),
            Record::SetXattr { ino, name, value } => self.set_xattr(ino, name, Some(value)),
            Record::RemoveXattr { ino, name } => self.set_xattr(ino, name, None),
            Record::Map { ino, at, block, len } => {
                check_range(ino, at, len)?;
                let end = block.0.checked_add(len);
                if len == 0 || block.0 == 0 || end.is_none_or(|end| end > BLOCK_LIMIT) {
                    return Err(Broken("an extent out of range", ino));
                }
                let to = Extent { start: block, len };
                self.edit_map(ino, freed, |map, freed| map.map(at, to, freed))
            }
            Record::Hole { ino, at, len } => {
                check_range(ino, at, len)?;
                self.punch(ino, at, len, freed)
            }
            Record::Size { ino, size, origin_len } => self.set_size(ino, size, origin_len, freed),
            Record::NextInode { next } => {
                self.set_next(next);
                Ok(())
            }
            Record::SyncPoint => Ok(()),
        }
    }

    fn inode(&mut self, ino: InodeNo) -> std::result::Result<&mut Inode, Broken> {
        self.inodes.get_mut(&ino).map(|b| &mut **b).ok_or(Broken("no such inode", ino))
    }

    fn put_inode(&mut self, ino: InodeNo, image: InodeImage) -> std::result::Result<(), Broken> {
        if FileType::from_mode(image.mode).is_none() || ino.0 == 0 {
            return Err(Broken("an unknown file type", ino));
        }
        check_size(ino, image.size)?;
        let unlinked = usize::from(image.nlink == 0);
        if let Some(inode) = self.inodes.get_mut(&ino) {
            if inode.image.mode & 0o170000 != image.mode & 0o170000 {
                return Err(Broken("an inode changes its type", ino));
            }
            self.unlinked -= usize::from(inode.image.nlink == 0);
            self.unlinked += unlinked;
            inode.image = image;
            note_change(inode);
            return Ok(());
        }
        self.unlinked += unlinked;
        self.inodes.insert(ino, Box::new(Inode::new(image)));
        self.live_bytes += INODE_BYTES;
        self.set_next(ino.0.saturating_add(1));
        Ok(())
    }

    /// The last new number decides, so that numbers come round. One of a layer says nothing.
    fn set_next(&mut self, next: u64) {
        if InodeNo::MADE_HERE.contains(&next) || InodeNo::MADE_HERE_TOO.contains(&next) {
            self.next = next;
        }
    }

    fn drop_inode(&mut self, ino: InodeNo, freed: &mut Vec<Extent>) {
        let Some(mut inode) = self.inodes.remove(&ino) else { return };
        self.unlinked -= usize::from(inode.image.nlink == 0);
        let mut bytes = INODE_BYTES;
        bytes += inode.xattrs().map(|(n, v)| (16 + n.len() + v.len()) as u64).sum::<u64>();
        bytes += inode.origin().map_or(0, |o| origin_bytes(&o.path));
        self.several_names -= usize::from(inode.origin().is_some_and(|o| o.image.several_names));
        match &mut inode.kind {
            Kind::File(map) => {
                bytes += map.runs() as u64 * RUN_BYTES;
                self.data_blocks -= map.data_blocks();
                map.remove_from(FileBlock::ZERO, freed);
            }
            Kind::Dir(dir) => {
                bytes += dir.entries_from(0).map(|(_, n, _)| entry_bytes(n)).sum::<u64>();
                bytes += below_bytes(&dir.below);
            }
            Kind::Symlink(target) => bytes += target.len() as u64,
            Kind::Special => {}
        }
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
    }

    fn put_origin(
        &mut self,
        ino: InodeNo,
        image: OriginImage,
        path: &[u8],
    ) -> std::result::Result<(), Broken> {
        check_path(ino, path)?;
        check_size(ino, image.len)?;
        let inode = self.inode(ino)?;
        if inode.is_dir() {
            return Err(Broken("an origin of a directory", ino));
        }
        let old = inode.origin.replace(Box::new(Origin { path: path.into(), image }));
        self.live_bytes += origin_bytes(path);
        self.live_bytes -= old.as_ref().map_or(0, |old| origin_bytes(&old.path));
        self.several_names += usize::from(image.several_names);
        self.several_names -= usize::from(old.is_some_and(|old| old.image.several_names));
        Ok(())
    }

    fn set_below(
        &mut self,
        ino: InodeNo,
        below: BelowImage<'_>,
        untouched: bool,
    ) -> std::result::Result<(), Broken> {
        let below = match below {
            BelowImage::Nothing => Below::Nothing,
            BelowImage::SameName => Below::SameName,
            BelowImage::Path(path) => {
                check_path(ino, path)?;
                Below::Path(path.into())
            }
        };
        let Kind::Dir(dir) = &mut self.inode(ino)?.kind else {
            return Err(Broken("something below what is no directory", ino));
        };
        let bytes = below_bytes(&below);
        let old = std::mem::replace(&mut dir.below, below);
        dir.untouched = untouched;
        self.live_bytes = (self.live_bytes + bytes).saturating_sub(below_bytes(&old));
        Ok(())
    }

    /// Sets or removes an entry, and keeps the count of subdirectories.
    fn set_entry(
        &mut self,
        parent: InodeNo,
        name: &[u8],
        dentry: Option<Dentry>,
    ) -> std::result::Result<(), Broken> {
        if check_name(name).is_err() {
            return Err(Broken("an impossible name", parent));
        }
        let gains = match dentry {
            Some(Dentry::Inode { ino, .. }) => {
                let inode = self.get(ino).ok_or(Broken("an entry for an unknown inode", ino))?;
                inode.is_dir()
            }
            _ => false,
        };
        let Kind::Dir(dir) = &mut self.inode(parent)?.kind else {
            return Err(Broken("an entry in what is no directory", parent));
        };
        let old = match dentry {
            Some(dentry) => dir.set(name, dentry),
            None => dir.remove(name),
        };
        dir.subdirs += u32::from(gains);
        let loses = match old {
            Some(Dentry::Inode { ino, .. }) => self.get(ino).is_some_and(Inode::is_dir),
            _ => false,
        };
        if loses {
            if let Kind::Dir(dir) = &mut self.inode(parent)?.kind {
                // A journal may be hostile: it can take away what it never gave.
                dir.subdirs = dir.subdirs.saturating_sub(1);
            }
        }
        match (old.is_some(), dentry.is_some()) {
            (false, true) => self.live_bytes += entry_bytes(name),
            (true, false) => self.live_bytes = self.live_bytes.saturating_sub(entry_bytes(name)),
            _ => {}
        }
        Ok(())
    }

    fn set_xattr(
        &mut self,
        ino: InodeNo,
        name: &[u8],
        value: Option<&[u8]>,
    ) -> std::result::Result<(), Broken> {
        let inode = self.inode(ino)?;
        let mut delta = 0i64;
        let size = |value: &[u8]| (16 + name.len() + value.len()) as i64;
        let map = inode.xattrs.get_or_insert_default();
        let old = match value {
            Some(value) => {
                delta += size(value);
                map.insert(name.into(), value.into())
            }
            None => map.remove(name),
        };
        if map.is_empty() {
            inode.xattrs = None;
        }
        note_change(inode);
        delta -= old.map_or(0, |old| size(&old));
        self.live_bytes = self.live_bytes.saturating_add_signed(delta);
        Ok(())
    }

    fn edit_map(
        &mut self,
        ino: InodeNo,
        freed: &mut Vec<Extent>,
        edit: impl FnOnce(&mut super::ExtentMap, &mut Vec<Extent>),
    ) -> std::result::Result<(), Broken> {
        let Kind::File(map) = &mut self.inode(ino)?.kind else {
            return Err(Broken("an extent of what is no file", ino));
        };
        let before = (map.data_blocks(), map.runs() as u64);
        edit(map, freed);
        let after = (map.data_blocks(), map.runs() as u64);
        self.data_blocks = self.data_blocks + after.0 - before.0;
        self.live_bytes =
            (self.live_bytes + after.1 * RUN_BYTES).saturating_sub(before.1 * RUN_BYTES);
        Ok(())
    }

    /// A hole needs to be told only where the origin would show through.
    fn punch(
        &mut self,
        ino: InodeNo,
        at: FileBlock,
        len: u64,
        freed: &mut Vec<Extent>,
    ) -> std::result::Result<(), Broken> {
        let origin = self.get(ino).and_then(Inode::file).and_then(|(_, origin)| origin);
        let shown = FileBlock(origin.map_or(0, |o| blocks_for(o.image.len)));
        self.edit_map(ino, freed, |map, freed| {
            map.remove(at, len, freed);
            if at < shown {
                map.punch(at, len.min(shown - at), freed);
            }
        })
    }

    fn set_size(
        &mut self,
        ino: InodeNo,
        size: u64,
        origin_len: Option<u64>,
        freed: &mut Vec<Extent>,
    ) -> std::result::Result<(), Broken> {
        check_size(ino, size)?;
        let inode = self.inode(ino)?;
        let Kind::File(_) = inode.kind else {
            return Err(Broken("a size for what is no file", ino));
        };
        let shrinks = size < inode.image.size;
        inode.image.size = size;
        if let Some(origin) = &mut inode.origin {
            let valid = &mut origin.image.len;
            *valid = (*valid).min(origin_len.unwrap_or(*valid));
        }
        if shrinks {
            let end = FileBlock::at_or_after(size);
            self.edit_map(ino, freed, |map, freed| map.remove_from(end, freed))?;
        }
        Ok(())
    }

    /// Whether there are inodes of lower files with several names.
    pub fn has_several_names(&self) -> bool {
        self.several_names > 0
    }

    /// How many inodes have no link: they are open, or the kernel is about to forget them.
    pub fn unlinked(&self) -> usize {
        self.unlinked
    }
}

fn check_size(ino: InodeNo, size: u64) -> std::result::Result<(), Broken> {
    if size > i64::MAX as u64 { Err(Broken("a size that no offset reaches", ino)) } else { Ok(()) }
}

fn check_range(ino: InodeNo, at: FileBlock, len: u64) -> std::result::Result<(), Broken> {
    match at.0.checked_add(len) {
        Some(end) if end <= BLOCK_LIMIT => Ok(()),
        _ => Err(Broken("a file range out of bounds", ino)),
    }
}

/// The path of a lower object must stay in its layer.
pub(super) fn check_path(ino: InodeNo, path: &[u8]) -> std::result::Result<(), Broken> {
    let is_fine = path.is_empty() || path.split(|b| *b == b'/').all(|c| check_name(c).is_ok());
    if is_fine { Ok(()) } else { Err(Broken("a path that leaves its layer", ino)) }
}

/// A directory that something is changed of was not copied up for an entry's sake only.
fn note_change(inode: &mut Inode) {
    if let Kind::Dir(dir) = &mut inode.kind {
        dir.untouched = false;
    }
}
