//! All inodes of the upper.

use super::Source;
use super::dir::Dentry;
use super::inode::{Inode, Kind, Origin};
use crate::attr::{FileType, InodeNo, LowerPath};
use crate::block::{FileBlock, blocks_for};
use crate::errno::Result;
use crate::filestore::Extent;
use crate::journal::record::{InodeImage, Record};
use crate::name::check_name;
use rustc_hash::FxHashMap;
use std::collections::HashSet;
use std::sync::Arc;

/// Inode numbers made by the upper stay below this; lower ones carry a layer above it.
const UPPER_NUMBERS: u64 = 1 << 48;
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

#[derive(Debug)]
pub struct Tree {
    inodes: FxHashMap<InodeNo, Box<Inode>>,
    next: u64,
    data_blocks: u64,
    /// Inodes without a link.
    unlinked: usize,
    /// About how many bytes a checkpoint of this tree takes.
    live_bytes: u64,
    /// Paths of lower origins, shared among the records of one directory.
    last_path: Arc<[u8]>,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree {
            inodes: FxHashMap::default(),
            next: InodeNo::ROOT.0 + 1,
            data_blocks: 0,
            unlinked: 0,
            live_bytes: 0,
            last_path: Arc::from([]),
        }
    }
}

const INODE_BYTES: u64 = 110;
const RUN_BYTES: u64 = 33;

fn entry_bytes(name: &[u8]) -> u64 {
    20 + name.len() as u64
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

    /// The number the next new inode gets; it is taken once an `Inode` record with it was applied.
    pub fn next_number(&self) -> InodeNo {
        InodeNo(self.next)
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
            Record::Origin { ino, layer, len, path } => self.put_origin(ino, layer, len, path),
            Record::Link { parent, ino, covers, name } => {
                self.set_entry(parent, name, Some(Dentry::Inode { ino, covers }))
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
                self.next = self.next.max(next.min(UPPER_NUMBERS));
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
            return Ok(());
        }
        self.unlinked += unlinked;
        self.inodes.insert(ino, Box::new(Inode::new(image)));
        self.live_bytes += INODE_BYTES;
        if ino.0 < UPPER_NUMBERS {
            self.next = self.next.max(ino.0 + 1);
        }
        Ok(())
    }

    fn drop_inode(&mut self, ino: InodeNo, freed: &mut Vec<Extent>) {
        let Some(mut inode) = self.inodes.remove(&ino) else { return };
        self.unlinked -= usize::from(inode.image.nlink == 0);
        let mut bytes = INODE_BYTES;
        bytes += inode.xattrs().map(|(n, v)| (16 + n.len() + v.len()) as u64).sum::<u64>();
        bytes += inode.origin().map_or(0, |o| 21 + o.at.path.len() as u64);
        match &mut inode.kind {
            Kind::File(map) => {
                bytes += map.runs() as u64 * RUN_BYTES;
                self.data_blocks -= map.data_blocks();
                map.remove_from(FileBlock::ZERO, freed);
            }
            Kind::Dir(dir) => {
                bytes += dir.entries_from(0).map(|(_, n, _)| entry_bytes(n)).sum::<u64>();
                bytes += dir.lowers.iter().map(|l| 21 + l.path.len() as u64).sum::<u64>();
            }
            Kind::Symlink(target) => bytes += target.len() as u64,
            Kind::Special => {}
        }
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
    }

    fn put_origin(
        &mut self,
        ino: InodeNo,
        layer: crate::attr::LayerId,
        len: u64,
        path: &[u8],
    ) -> std::result::Result<(), Broken> {
        if path.split(|b| *b == b'/').any(|c| c == b"." || c == b".." || c.contains(&0)) {
            return Err(Broken("an origin that leaves its layer", ino));
        }
        // Layers of one merged directory mostly have it under the same path.
        if *self.last_path != *path {
            self.last_path = path.into();
        }
        let at = LowerPath { layer, path: self.last_path.clone() };
        let inode = self.inode(ino)?;
        match &mut inode.kind {
            Kind::Dir(dir) => dir.lowers.push(at),
            _ => inode.origin = Some(Box::new(Origin { at, len })),
        }
        self.live_bytes += 21 + path.len() as u64;
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
        let is_dir = |tree: &Tree, d: Option<Dentry>| match d {
            Some(Dentry::Inode { ino, .. }) => tree.get(ino).is_some_and(Inode::is_dir),
            _ => false,
        };
        match dentry {
            Some(Dentry::Inode { ino, .. }) if !self.contains(ino) => {
                return Err(Broken("an entry for an unknown inode", ino));
            }
            _ => {}
        }
        let gains = is_dir(self, dentry);
        let loses = is_dir(self, self.dentry(parent, name));
        let Kind::Dir(dir) = &mut self.inode(parent)?.kind else {
            return Err(Broken("an entry in what is no directory", parent));
        };
        let old = match dentry {
            Some(dentry) => dir.set(name, dentry),
            None => dir.remove(name),
        };
        // A journal may be hostile: it can take away what it never gave.
        dir.subdirs = (dir.subdirs + u32::from(gains)).saturating_sub(u32::from(loses));
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
        let shown = FileBlock(origin.map_or(0, |o| blocks_for(o.len)));
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
            origin.len = origin.len.min(origin_len.unwrap_or(u64::MAX));
        }
        if shrinks {
            let end = FileBlock::at_or_after(size);
            self.edit_map(ino, freed, |map, freed| map.remove_from(end, freed))?;
        }
        Ok(())
    }

    /// Hands the records that make this tree anew to `sink`, an encoded group at a time; a group is
    /// at most about 64 KiB unless one record is larger.
    ///
    /// # Errors
    /// Those of `sink`.
    pub fn snapshot(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut out = Vec::with_capacity(80 << 10);
        let mut put = |record: Record<'_>| -> Result<()> {
            record.encode(&mut out);
            if out.len() >= 64 << 10 {
                sink(&out)?;
                out.clear();
            }
            Ok(())
        };
        put(Record::NextInode { next: self.next })?;
        for (ino, inode) in self.inodes() {
            snapshot_inode(ino, inode, &mut put)?;
        }
        for (parent, inode) in self.inodes() {
            let Some(dir) = inode.dir() else { continue };
            for (_, name, dentry) in dir.entries_from(0) {
                put(match dentry {
                    Dentry::Whiteout => Record::Whiteout { parent, name },
                    Dentry::Inode { ino, covers } => Record::Link { parent, ino, covers, name },
                })?;
            }
        }
        if out.is_empty() { Ok(()) } else { sink(&out) }
    }

    /// Whether there are inodes without a link, which somebody has open or is about to forget.
    pub fn has_unlinked(&self) -> bool {
        self.unlinked > 0
    }

    /// Inodes that no entry refers to and nobody has open: what a remount leaves behind.
    /// A raised lower inode has no entry in the upper, so its link count decides.
    pub fn orphans(&self) -> Vec<InodeNo> {
        self.inodes().filter(|(_, inode)| inode.image.nlink == 0).map(|(ino, _)| ino).collect()
    }

    /// What is wrong with the tree as a whole: entries to nowhere, link counts of upper files,
    /// directories with two parents. Blocks are the filestore's to check.
    pub fn faults(&self) -> Vec<Broken> {
        let mut faults = Vec::new();
        let mut links: FxHashMap<InodeNo, u32> = FxHashMap::default();
        let mut dirs = HashSet::new();
        for (_, inode) in self.inodes() {
            let Some(dir) = inode.dir() else { continue };
            for (_, _, dentry) in dir.entries_from(0) {
                let Dentry::Inode { ino, .. } = dentry else { continue };
                *links.entry(ino).or_default() += 1;
                match self.get(ino) {
                    None => faults.push(Broken("an entry for an unknown inode", ino)),
                    Some(child) if child.is_dir() && !dirs.insert(ino) => {
                        faults.push(Broken("a directory with two parents", ino));
                    }
                    Some(_) => {}
                }
            }
        }
        for (ino, inode) in self.inodes() {
            let found = links.get(&ino).copied().unwrap_or(0);
            let made_here = ino.0 < UPPER_NUMBERS && ino != InodeNo::ROOT;
            if made_here && !inode.is_dir() && inode.image.nlink != found {
                faults.push(Broken("a link count that is not the number of entries", ino));
            }
            if made_here && inode.is_dir() && inode.image.nlink > 0 && found == 0 {
                faults.push(Broken("a directory without a parent", ino));
            }
        }
        faults
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

fn snapshot_inode(
    ino: InodeNo,
    inode: &Inode,
    put: &mut dyn FnMut(Record<'_>) -> Result<()>,
) -> Result<()> {
    put(Record::Inode { ino, image: inode.image })?;
    if let Some(Origin { at: LowerPath { layer, path }, len }) = inode.origin() {
        put(Record::Origin { ino, layer: *layer, len: *len, path })?;
    }
    match &inode.kind {
        Kind::Symlink(target) => put(Record::Target { ino, target })?,
        Kind::Dir(dir) => {
            for LowerPath { layer, path } in &dir.lowers {
                put(Record::Origin { ino, layer: *layer, len: 0, path })?;
            }
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
    for (name, value) in inode.xattrs() {
        put(Record::SetXattr { ino, name, value })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
