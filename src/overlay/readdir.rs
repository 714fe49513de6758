//! Listing a merged directory: first the names of the lowers in their fixed order, each as the
//! upper has it now, then the names that only the upper has, in the order in which they came. A
//! cookie thus keeps its meaning whatever is added, removed, copied up or replaced in between.

use super::lower::LowerDir;
use super::state::State;
use super::{Entry, Overlay};
use crate::attr::{DirCookie, FileType, InodeNo};
use crate::errno::{Errno, Result};
use crate::layer::{self, Listing};
use crate::upper::Dentry;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

/// One name of a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    pub ino: InodeNo,
    /// The cookie of what follows.
    pub next: DirCookie,
    /// DT_*.
    pub dtype: u8,
    pub name: &'a [u8],
}

/// Cookies: 0 `.`, 1 `..`, then the lower names, then from here on the upper's.
const FIRST_LOWER: u64 = 2;
const FIRST_UPPER: u64 = 1 << 30;

/// How many entries the layers are asked for numbers of at a time.
const NUMBERS_BATCH: usize = 256;

/// How many entries readdirplus looks up at a time: what fits a 32 KiB reply.
const PLUS_BATCH: usize = 200;

/// Of a directory with more names than these only the first reply brings what was looked up. Who
/// wants names alone (`ls -f`) pays 6 µs a name for the rest, who stats them saves a round trip each.
const PLUS_MOST: usize = 10_000;

impl Overlay {
    /// The cookie behind the last entry that a directory has now: what is added comes after it.
    pub fn listing_end(&self, ino: InodeNo) -> DirCookie {
        let st = self.state.read();
        let dir = st.tree.get(ino).and_then(|inode| inode.dir());
        DirCookie(FIRST_UPPER + dir.map_or(0, |dir| dir.end()))
    }

    /// Emits the entries of these cookies until `emit` returns false.
    ///
    /// # Errors
    /// `ENOTDIR`; `ESTALE` for what the kernel has forgotten; what the host says of a layer.
    pub fn readdir(
        &self,
        ino: InodeNo,
        Range { start: DirCookie(offset), end: DirCookie(end) }: Range<DirCookie>,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let listing = self.listing(ino)?;
        let below = {
            let st = self.state.read();
            if !st.attr(ino)?.is_dir() {
                return Err(Errno::NOTDIR);
            }
            let parent = st.node(ino).map_or(ino, |node| node.parent);
            let dtype = FileType::Directory.dtype();
            let dots = [(ino, 1, b".".as_slice()), (parent, 2, b"..")];
            for (ino, next, name) in dots.into_iter().skip(offset as usize) {
                if !emit(DirEntry { ino, next: DirCookie(next), dtype, name }) {
                    return Ok(());
                }
            }
            st.lower_dir(ino)?.cloned()
        };
        let mut index = (offset.max(FIRST_LOWER) - FIRST_LOWER) as usize;
        // Of entries before this one the layers have been asked for numbers.
        let mut asked_to = 0;
        if let (Some(dir), Some(listing)) = (&below, &listing) {
            loop {
                match self.emit_lower(ino, dir, listing, index, emit)? {
                    Emitted::All => break,
                    Emitted::Enough => return Ok(()),
                    // No question is put to the host under the lock.
                    Emitted::UpTo(unknown) if unknown >= asked_to => {
                        index = unknown;
                        asked_to = unknown + NUMBERS_BATCH;
                        self.stack.find_numbers(&dir.dirs, listing, unknown..asked_to);
                    }
                    Emitted::UpTo(unknown) => {
                        let number = self.ask_number(dir, listing, unknown)?;
                        if !self.emit_numbered(ino, listing, unknown, number, emit) {
                            return Ok(());
                        }
                        index = unknown + 1;
                    }
                }
            }
        }
        let st = self.state.read();
        let dir = st.tree.get(ino).and_then(|inode| inode.dir());
        let from = offset.max(FIRST_UPPER) - FIRST_UPPER;
        for (cookie, name, dentry) in dir.iter().flat_map(|dir| dir.entries_from(from)) {
            let Dentry::Inode { ino, .. } = dentry else { continue };
            if FIRST_UPPER + cookie >= end {
                break;
            }
            // What the layers have too was emitted in its place.
            let is_listed = listing.as_ref().is_some_and(|listing| listing.get(name).is_some());
            if !is_listed && !emit(upper_entry(&st, ino, FIRST_UPPER + cookie + 1, name)) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Emits the names of the layers from `index` on, as the upper has them now.
    fn emit_lower(
        &self,
        ino: InodeNo,
        dir: &LowerDir,
        listing: &Listing,
        index: usize,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<Emitted> {
        let st = self.state.read();
        let upper = st.tree.get(ino).and_then(|inode| inode.dir());
        for index in index..listing.len() {
            let Some(below) = listing.at(index) else { break };
            let next = FIRST_LOWER + index as u64 + 1;
            let entry = match upper.and_then(|dir| dir.get(below.name)) {
                Some(Dentry::Whiteout) => continue,
                Some(Dentry::Inode { ino, .. }) => upper_entry(&st, ino, next, below.name),
                None => match st.number_of_listed(dir, &below) {
                    Some(ino) => lower_entry(&below, ino, next),
                    None => return Ok(Emitted::UpTo(index)),
                },
            };
            if !emit(entry) {
                return Ok(Emitted::Enough);
            }
        }
        Ok(Emitted::All)
    }

    /// The number of a lower name that only a look-up tells; `None` where it is gone.
    fn ask_number(
        &self,
        dir: &LowerDir,
        listing: &Listing,
        index: usize,
    ) -> Result<Option<InodeNo>> {
        let Some(below) = listing.at(index) else { return Ok(None) };
        let Some(mut found) = self.find_in(dir, below.name)? else { return Ok(None) };
        self.state.write().give_number(&mut found);
        Ok(Some(found.lower.attr.ino))
    }

    /// Emits one name of the layers whose number was asked for. False where no more is wanted.
    fn emit_numbered(
        &self,
        ino: InodeNo,
        listing: &Listing,
        index: usize,
        number: Option<InodeNo>,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> bool {
        let Some(below) = listing.at(index) else { return true };
        let next = FIRST_LOWER + index as u64 + 1;
        let st = self.state.read();
        match (st.tree.dentry(ino, below.name), number) {
            (Some(Dentry::Whiteout), _) | (None, None) => true,
            (Some(Dentry::Inode { ino, .. }), _) => emit(upper_entry(&st, ino, next, below.name)),
            (None, Some(number)) => emit(lower_entry(&below, number, next)),
        }
    }

    /// As [`Overlay::readdir`], with each entry looked up (`None` for `.`, `..`, what cannot be, and
    /// most of a very large directory). The look-up is the kernel's where `emit` returned true.
    ///
    /// # Errors
    /// As [`Overlay::readdir`].
    pub fn readdirplus(
        &self,
        ino: InodeNo,
        Range { start: mut offset, end }: Range<DirCookie>,
        emit: &mut dyn FnMut(DirEntry<'_>, Option<&Entry>) -> bool,
    ) -> Result<()> {
        if offset > DirCookie::START && self.names(ino)? > PLUS_MOST {
            return self.readdir(ino, offset..end, &mut |entry| emit(entry, None));
        }
        let mut names = Vec::new();
        let mut batch: Vec<(InodeNo, DirCookie, u8, usize)> = Vec::new();
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
                let child = found.as_ref().map_or(child, |found| found.attr.ino);
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

/// How far the names of the layers were emitted.
enum Emitted {
    All,
    /// No more is wanted.
    Enough,
    /// The number of the name at this index has to be asked for.
    UpTo(usize),
}

fn upper_entry<'a>(st: &State, ino: InodeNo, next: u64, name: &'a [u8]) -> DirEntry<'a> {
    let mode = st.tree.get(ino).map_or(0, |inode| inode.image().mode);
    DirEntry { ino, next: DirCookie(next), dtype: (mode >> 12 & 15) as u8, name }
}

fn lower_entry<'a>(below: &layer::Entry<'a>, ino: InodeNo, next: u64) -> DirEntry<'a> {
    DirEntry { ino, next: DirCookie(next), dtype: below.file_type.dtype(), name: below.name }
}
