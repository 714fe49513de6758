//! The whole listing of a merged directory.

use super::dir::{Dir, Seen, marks_of};
use super::merge::is_filestore;
use super::stack::Stack;
use super::tree::{LOOK, Layer};
use super::whiteout::{AufsName, aufs_name};
use crate::attr::{FileType, InodeNo, LowerPath};
use crate::errno::{Errno, Result};
use rustix::fd::AsFd;
use rustix::fs::OFlags;

/// One name of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub file_type: FileType,
    /// The number that a lookup of the name shows; `None` where only a lookup can tell.
    pub ino: Option<InodeNo>,
}

/// Names in byte order, each once: 16 bytes an entry and the bytes of the names.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    names: Box<[u8]>,
    entries: Box<[Slot]>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Zero: unknown.
    ino: u64,
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

    #[cfg(test)]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Entry<'_>> + DoubleEndedIterator {
        self.entries.iter().map(|slot| self.entry(slot))
    }

    /// Bytes of memory taken.
    #[cfg(test)]
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
            ino: (slot.ino != 0).then_some(InodeNo(slot.ino)),
        }
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
    Some((first, Slot { ino, offset: 0, len: first.len, dtype }))
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
        let mut all = Collector::default();
        for (rank, at) in dirs.iter().enumerate() {
            let rank = u16::try_from(rank).map_err(|_| Errno::OVERFLOW)?;
            self.collect(&mut all, rank, at)?;
        }
        Ok(all.merge())
    }

    fn collect(&self, all: &mut Collector, rank: u16, at: &LowerPath) -> Result<()> {
        let layer = self.layer(at.layer)?;
        let dir = self.dir(at)?;
        let mut any_aufs = false;
        dir.read(layer, |name, kind, ino| {
            match aufs_name(name) {
                AufsName::Ordinary => {}
                AufsName::Hides(hidden) => {
                    any_aufs = true;
                    return all.add(hidden, rank, Kind::HidesBelow, 0);
                }
                AufsName::Opaque | AufsName::Metadata => {
                    any_aufs = true;
                    return Ok(());
                }
            }
            if is_filestore(at, name) {
                return Ok(());
            }
            let kind = match (dir.needs_a_look(kind), dtype(kind)) {
                (false, Some(dtype)) => Kind::Object(dtype),
                _ => match dir.see(layer, name)? {
                    None => return Ok(()),
                    Some(Seen::Whiteout) => Kind::Whiteout,
                    Some(Seen::Object(st)) => Kind::Object((st.stx_mode >> 12) as u8),
                },
            };
            let ino = self.dirent_number(layer, &dir, name, kind, ino)?;
            all.add(name, rank, kind, ino)
        })?;
        dir.remember_aufs(any_aufs);
        Ok(())
    }

    /// The number that a lookup shows if no other layer has the name; 0 if only a lookup can tell.
    fn dirent_number(
        &self,
        layer: &Layer,
        dir: &Dir,
        name: &[u8],
        kind: Kind,
        ino: u64,
    ) -> Result<u64> {
        let is_dir = kind == Kind::Object(DT_DIR);
        if !layer.dirent_number_is_exact(is_dir) {
            return Ok(0);
        }
        if is_dir && !layer.is_bottom() && is_redirected(layer, dir, name)? {
            return Ok(0);
        }
        Ok(self.number(layer, layer.dev, ino).0)
    }
}

/// Is the directory `name` merged with one of another name?
fn is_redirected(layer: &Layer, dir: &Dir, name: &[u8]) -> Result<bool> {
    let Some(fd) = dir.fd(layer) else { return Ok(false) };
    match layer.open_name(fd, name, LOOK | OFlags::DIRECTORY) {
        Ok(child) => Ok(marks_of(child.as_fd())?.redirect.is_some()),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The `d_type` of an entry, if the host tells it.
fn dtype(kind: rustix::fs::FileType) -> Option<u8> {
    FileType::from_mode(kind.as_raw_mode()).map(FileType::dtype)
}
