//! The whole listing of a merged directory.

use super::source::Listed;
use super::stack::Stack;
use crate::attr::{FileType, InodeNo, LowerPath};
use crate::errno::{Errno, Result};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One name of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub file_type: FileType,
    /// The number that a lookup of the name shows; `None` where only a lookup can tell, and none did yet: see
    /// [`Stack::find_numbers`].
    pub ino: Option<InodeNo>,
}

/// Names in byte order, each once: 16 bytes an entry and the bytes of the names.
#[derive(Debug, Default)]
pub struct Listing {
    names: Box<[u8]>,
    entries: Box<[Slot]>,
}

#[derive(Debug)]
struct Slot {
    /// Zero: unknown. Set once.
    ino: AtomicU64,
    offset: u32,
    len: u8,
    dtype: u8,
}

impl Listing {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry at `index` in byte order of the names.
    pub fn at(&self, index: usize) -> Option<Entry<'_>> {
        self.entries.get(index).map(|slot| self.entry(slot))
    }

    /// The entry of this name, by binary search.
    pub fn get(&self, name: &[u8]) -> Option<Entry<'_>> {
        self.at(self.position(name).ok()?)
    }

    /// The index of `name`, or where it would stand.
    pub fn position(&self, name: &[u8]) -> std::result::Result<usize, usize> {
        self.entries.binary_search_by(|slot| self.name(slot).cmp(name))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        self.entries.iter().map(|slot| self.entry(slot))
    }

    /// Bytes of memory taken.
    #[cfg(feature = "internals")]
    pub fn memory(&self) -> usize {
        size_of_val(&*self.names) + size_of_val(&*self.entries)
    }

    fn name(&self, slot: &Slot) -> &[u8] {
        let start = slot.offset as usize;
        &self.names[start..start + usize::from(slot.len)]
    }

    fn entry(&self, slot: &Slot) -> Entry<'_> {
        Entry {
            name: self.name(slot),
            file_type: FileType::from_dtype(slot.dtype).unwrap_or(FileType::Regular),
            ino: slot.number(),
        }
    }
}

impl Slot {
    fn number(&self) -> Option<InodeNo> {
        let ino = self.ino.load(Relaxed);
        (ino != 0).then_some(InodeNo(ino))
    }
}

/// What one layer says of one name.
#[derive(Clone, Copy)]
struct Raw {
    /// The first eight bytes of the name, big-endian: decides most comparisons.
    prefix: u64,
    ino: u64,
    offset: u32,
    /// 0 is the top directory.
    rank: u16,
    len: u8,
    kind: Kind,
}

/// Ordered: in one directory, what is there comes before what hides below it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Object(u8),
    /// Hides the name here and below.
    Whiteout,
    /// Hides the name below.
    HidesBelow,
}

const DT_DIR: u8 = 4;

/// What all layers say, before it is merged.
#[derive(Default)]
struct Collector {
    names: Vec<u8>,
    raw: Vec<Raw>,
}

impl Collector {
    fn add(&mut self, name: &[u8], rank: u16, kind: Kind, ino: u64) -> Result<()> {
        let offset = u32::try_from(self.names.len()).map_err(|_| Errno::OVERFLOW)?;
        let len = u8::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        self.names.extend_from_slice(name);
        self.raw.push(Raw { prefix: prefix(name), ino, offset, rank, len, kind });
        Ok(())
    }

    fn merge(mut self) -> Listing {
        let names = &self.names;
        let name = |r: &Raw| &names[r.offset as usize..r.offset as usize + usize::from(r.len)];
        self.raw.sort_unstable_by(|a, b| {
            a.prefix
                .cmp(&b.prefix)
                .then_with(|| name(a).cmp(name(b)))
                .then_with(|| (a.rank, a.kind).cmp(&(b.rank, b.kind)))
        });
        let same = |a: &Raw, b: &Raw| a.prefix == b.prefix && name(a) == name(b);
        let shown = || self.raw.chunk_by(same).filter_map(top);
        let bytes = shown().map(|(raw, _)| usize::from(raw.len)).sum();
        let mut sorted = Vec::with_capacity(bytes);
        let mut entries = Vec::with_capacity(shown().count());
        for (raw, slot) in shown() {
            // No longer than what was collected, so it fits.
            entries.push(Slot { offset: sorted.len() as u32, ..slot });
            sorted.extend_from_slice(name(raw));
        }
        Listing { names: sorted.into(), entries: entries.into() }
    }
}

/// What shows of one name, given all that the layers say of it, topmost first.
fn top(said: &[Raw]) -> Option<(&Raw, Slot)> {
    let (first, below) = said.split_first()?;
    let Kind::Object(dtype) = first.kind else { return None };
    // A directory that may be merged with another has the number of the lowest.
    let merged = dtype == DT_DIR
        && below.first().is_some_and(|next| matches!(next.kind, Kind::Object(DT_DIR)));
    let ino = if merged { 0 } else { first.ino };
    Some((first, Slot { ino: ino.into(), offset: 0, len: first.len, dtype }))
}

fn prefix(name: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = name.len().min(8);
    bytes[..len].copy_from_slice(&name[..len]);
    u64::from_be_bytes(bytes)
}

impl Stack {
    /// All names of the merged directory made of `dirs` (topmost first), in byte order; whiteouts and
    /// marks are left out.
    ///
    /// # Errors
    /// `ESTALE` where one of `dirs` is gone; `EOVERFLOW` beyond 4 GiB of names; the host's.
    pub fn list(&self, dirs: &[LowerPath]) -> Result<Listing> {
        let collected = self.with_descriptors(|| {
            let mut all = Collector::default();
            for (rank, at) in dirs.iter().enumerate() {
                let rank = u16::try_from(rank).map_err(|_| Errno::OVERFLOW)?;
                self.collect(&mut all, rank, at)?;
            }
            Ok(all)
        })?;
        Ok(collected.merge())
    }

    /// Looks up the numbers that the entries at these places of `listing`, which [`Stack::list`] made of `dirs`, do not have
    /// yet. What cannot be looked up (any more) stays without. Numbers are kept in the listing.
    pub fn find_numbers(&self, dirs: &[LowerPath], listing: &Listing, places: Range<usize>) {
        let end = places.end.min(listing.len());
        for slot in &listing.entries[places.start.min(end)..end] {
            if slot.number().is_some() {
                continue;
            }
            if let Ok(Some(node)) = self.lookup(dirs, listing.name(slot)) {
                slot.ino.store(node.attr.ino.0, Relaxed);
            }
        }
    }

    fn collect(&self, all: &mut Collector, rank: u16, at: &LowerPath) -> Result<()> {
        let layer = self.layer(at.layer)?;
        let root_dev = layer.layer.facts().root_dev;
        let dir = self.dir(at)?;
        dir.list(&mut |name, listed| {
            let (file_type, ino) = match listed {
                Listed::HidesBelow => return all.add(name, rank, Kind::HidesBelow, 0),
                Listed::Whiteout => return all.add(name, rank, Kind::Whiteout, 0),
                Listed::Object { file_type, ino } => (file_type, ino),
            };
            // A directory that is merged with one of another name has the number of that.
            let is_redirected = file_type == FileType::Directory
                && !layer.is_bottom()
                && ino.is_some()
                && dir.is_redirected(name)?;
            let number = match ino.filter(|_| !is_redirected) {
                Some(ino) => self.number(root_dev, ino).0,
                None => 0,
            };
            all.add(name, rank, Kind::Object(file_type.dtype()), number)
        })
    }
}
