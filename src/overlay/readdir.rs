//! Listing a merged directory: first the names of the lowers in their fixed order, each as the
//! upper has it now, then the names that only the upper has, in the order in which they came. A
//! cookie thus keeps its meaning whatever is added, removed, raised or replaced in between.

use super::{Entry, Overlay};
use crate::attr::{FileType, InodeNo};
use crate::errno::{Errno, Result};
use crate::layer::Listing;
use crate::upper::Dentry;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

/// One name of a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    pub ino: InodeNo,
    /// The cookie of what follows.
    pub next: u64,
    /// DT_*.
    pub dtype: u8,
    pub name: &'a [u8],
}

/// Cookies: 0 `.`, 1 `..`, then the lower names, then from here on the upper's.
const FIRST_LOWER: u64 = 2;
const FIRST_UPPER: u64 = 1 << 40;

/// The inode number of a lower name that can no longer be looked up.
const UNKNOWN: InodeNo = InodeNo(u64::MAX);

/// How many entries the layers are asked for numbers of at a time.
const NUMBERS_BATCH: usize = 256;

/// How far a listing came.
enum Emitted {
    /// To the end of what was asked for.
    All,
    /// To the lower name at this index, whose number is not known.
    UpTo(usize),
}

/// How many entries readdirplus looks up at a time: what fits a 32 KiB reply.
const PLUS_BATCH: usize = 200;

/// Of a directory with more names than these only the first reply brings what was looked up. Who
/// wants names alone (`ls -f`) pays 6 µs a name for the rest, who stats them saves a round trip each.
const PLUS_MOST: usize = 10_000;

impl Overlay {
    /// The cookie behind the last entry that a directory has now: what is added comes after it.
    pub fn listing_end(&self, ino: InodeNo) -> u64 {
        let st = self.state.read();
        let dir = st.tree.get(ino).and_then(|inode| inode.dir());
        FIRST_UPPER + dir.map_or(0, |dir| dir.end())
    }

    /// Emits the entries of these cookies (0 is the start) until `emit` returns false.
    ///
    /// # Errors
    /// `ENOTDIR`, `ESTALE` for what the kernel does not know; what the host says of the layers.
    pub fn readdir(
        &self,
        ino: InodeNo,
        Range { start: mut offset, end }: Range<u64>,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let listing = self.listing(ino)?;
        // Of entries before this one the layers have been asked for numbers.
        let mut asked_to = 0;
        loop {
            let emitted =
                self.readdir_known(ino, offset..end, listing.as_deref(), asked_to, emit)?;
            let (Emitted::UpTo(index), Some(listing)) = (emitted, &listing) else { return Ok(()) };
            asked_to = index + NUMBERS_BATCH;
            offset = FIRST_LOWER + index as u64;
            let dirs = self.state.read().lower_dirs(ino)?;
            self.stack.find_numbers(&dirs, listing, index..asked_to);
        }
    }

    /// As [`Overlay::readdir`], up to a lower name at the index `asked_to` or beyond whose number is not known.
    fn readdir_known(
        &self,
        ino: InodeNo,
        Range { start: offset, end }: Range<u64>,
        listing: Option<&Listing>,
        asked_to: usize,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<Emitted> {
        let st = self.state.read();
        if !st.attr(ino)?.is_dir() {
            return Err(Errno::NOTDIR);
        }
        let parent = st.node(ino).map_or(ino, |node| node.parent);
        let dtype = FileType::Directory.dtype();
        let dots = [(ino, 1, b".".as_slice()), (parent, 2, b"..")];
        for (ino, next, name) in dots.into_iter().skip(offset as usize) {
            if !emit(DirEntry { ino, next, dtype, name }) {
                return Ok(Emitted::All);
            }
        }
        let dir = st.tree.get(ino).and_then(|inode| inode.dir());
        let upper_entry = |ino: InodeNo, next, name| {
            let mode = st.tree.get(ino).map_or(0, |inode| inode.image().mode);
            DirEntry { ino, next, dtype: (mode >> 12 & 15) as u8, name }
        };
        let count = listing.map_or(0, Listing::len) as u64;
        let skip = offset.max(FIRST_LOWER) - FIRST_LOWER;
        for index in skip.min(count)..count {
            let Some(below) = listing.and_then(|l| l.at(index as usize)) else { break };
            let next = FIRST_LOWER + index + 1;
            let entry = match dir.and_then(|dir| dir.get(below.name)) {
                Some(Dentry::Whiteout) => continue,
                Some(Dentry::Inode { ino, .. }) => upper_entry(ino, next, below.name),
                None => {
                    if below.ino.is_none() && index as usize >= asked_to {
                        return Ok(Emitted::UpTo(index as usize));
                    }
                    let ino = below.ino.unwrap_or(UNKNOWN);
                    DirEntry { ino, next, dtype: below.file_type.dtype(), name: below.name }
                }
            };
            if !emit(entry) {
                return Ok(Emitted::All);
            }
        }
        let from = offset.max(FIRST_UPPER) - FIRST_UPPER;
        for (cookie, name, dentry) in dir.iter().flat_map(|dir| dir.entries_from(from)) {
            // What covers a lower name was emitted in its place.
            let Dentry::Inode { ino, covers: false } = dentry else { continue };
            if FIRST_UPPER + cookie >= end {
                break;
            }
            if !emit(upper_entry(ino, FIRST_UPPER + cookie + 1, name)) {
                return Ok(Emitted::All);
            }
        }
        Ok(Emitted::All)
    }

    /// As [`Overlay::readdir`], with each entry looked up (`None` for `.`, `..`, what cannot be, and
    /// most of a very large directory). The look-up is the kernel's where `emit` returned true.
    pub fn readdirplus(
        &self,
        ino: InodeNo,
        Range { start: mut offset, end }: Range<u64>,
        emit: &mut dyn FnMut(DirEntry<'_>, Option<&Entry>) -> bool,
    ) -> Result<()> {
        if offset > 0 && self.names(ino)? > PLUS_MOST {
            return self.readdir(ino, offset..end, &mut |entry| emit(entry, None));
        }
        let mut names = Vec::new();
        let mut batch: Vec<(InodeNo, u64, u8, usize)> = Vec::new();
        loop {
            names.clear();
            batch.clear();
            self.readdir(ino, offset..end, &mut |entry| {
                names.extend_from_slice(entry.name);
                batch.push((entry.ino, entry.next, entry.dtype, names.len()));
                batch.len() < PLUS_BATCH
            })?;
            let mut start = 0;
            for &(child, next, dtype, name_end) in &batch {
                let name = &names[start..name_end];
                start = name_end;
                offset = next;
                let dot = matches!(name, b"." | b"..");
                let found = if dot { None } else { self.lookup_listed(ino, name) };
                let entry = DirEntry { ino: child, next, dtype, name };
                if found.is_none() && !dot && self.is_gone(ino, name) {
                    continue;
                }
                if !emit(entry, found.as_ref()) {
                    if let Some(found) = found {
                        self.forget(found.attr.ino, 1);
                    }
                    return Ok(());
                }
            }
            if batch.len() < PLUS_BATCH {
                return Ok(());
            }
        }
    }

    /// How many names a directory has in its layers and its upper, those of both counted twice.
    fn names(&self, ino: InodeNo) -> Result<usize> {
        let below = self.listing(ino)?.map_or(0, |listing| listing.len());
        let st = self.state.read();
        let above = st.tree.get(ino).and_then(|inode| inode.dir()).map_or(0, |dir| dir.live());
        Ok(below + above)
    }

    fn lookup_listed(&self, dir: InodeNo, name: &[u8]) -> Option<Entry> {
        self.lookup(dir, OsStr::from_bytes(name)).ok().flatten()
    }

    /// Whether a listed name was removed before it could be looked up.
    fn is_gone(&self, dir: InodeNo, name: &[u8]) -> bool {
        let st = self.state.read();
        match st.tree.dentry(dir, name) {
            Some(dentry) => dentry == Dentry::Whiteout,
            None => {
                let listing = st.nodes.get(&dir).and_then(|node| node.listing.as_deref());
                listing.and_then(|listing: &Listing| listing.get(name)).is_none()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Durability, IdMap, Medium};

    #[test]
    fn numbers_of_merged_directories_are_those_of_look_ups_and_asked_for_without_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let lowers = ["top", "bottom"].map(|name| dir.path().join(name));
        let merged: Vec<String> = (0..NUMBERS_BATCH + 10).map(|i| format!("d{i}")).collect();
        for (lower, name) in lowers.iter().flat_map(|l| merged.iter().map(move |n| (l, n))) {
            std::fs::create_dir_all(lower.join(name)).unwrap();
        }
        let overlay = Overlay::new(&Config {
            lowers: lowers.into(),
            upper: None,
            medium: Medium::Memory,
            size_limit: None,
            inode_limit: None,
            durability: Durability::Volatile,
            idmap: IdMap::default(),
        })
        .unwrap();
        let mut listed = Vec::new();
        // In a debug build a host call under the state lock is a panic.
        overlay
            .readdir(InodeNo::ROOT, 0..u64::MAX, &mut |entry| {
                listed.push((entry.name.to_vec(), entry.ino));
                true
            })
            .unwrap();
        assert_eq!(listed.len(), 2 + merged.len());
        for (name, ino) in &listed[2..] {
            let found = overlay.lookup(InodeNo::ROOT, OsStr::from_bytes(name)).unwrap();
            assert_eq!(found.map(|entry| entry.attr.ino), Some(*ino));
        }
        overlay.destroy();
    }
}
