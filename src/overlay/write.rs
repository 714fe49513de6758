//! Writing: blocks that the upper has are written in place; all others get new blocks, filled up
//! from the origin at their edges, so that a write copies at most two blocks besides its own data.

use super::Overlay;
use super::attr_ops::{CAPABILITY, check_size, without_privilege};
use super::clock;
use super::io::{View, clip, covering};
use crate::attr::{Caller, InodeNo};
use crate::block::{BLOCK_SIZE, FileBlock, StoreBlock};
use crate::errno::{Errno, Result};
use crate::filestore::{Extent, Filestore};
use crate::journal::Urgency;
use crate::journal::record::Record;
use crate::upper::{Segment, Source};
use smallvec::SmallVec;
use std::io::IoSlice;

/// Blocks that no map refers to yet: freed when dropped, unless they were kept.
pub(super) struct Fresh<'a> {
    store: &'a Filestore,
    /// File block, and what it is to map to.
    pub maps: SmallVec<[(FileBlock, Extent); 2]>,
}

impl<'a> Fresh<'a> {
    pub fn new(store: &'a Filestore) -> Fresh<'a> {
        Fresh { store, maps: SmallVec::new() }
    }

    /// Takes `len` blocks for file blocks from `at`.
    ///
    /// # Errors
    /// As [`Filestore::alloc`].
    pub fn take(&mut self, mut at: FileBlock, len: u64, hint: Option<StoreBlock>) -> Result<()> {
        for extent in self.store.alloc(len, hint)? {
            self.maps.push((at, extent));
            at += extent.len;
        }
        Ok(())
    }

    /// The records that map them; then they are the file's.
    fn records(&self, ino: InodeNo, mut put: impl FnMut(Record<'_>)) {
        for &(at, Extent { start, len }) in &self.maps {
            put(Record::Map { ino, at, block: start, len });
        }
    }

    fn keep(mut self) {
        self.maps.clear();
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        self.maps.drain(..).for_each(|(_, extent)| self.store.free(extent));
    }
}

/// What a data operation changes of the inode besides its blocks.
#[derive(Clone, Copy, Default)]
pub(super) struct Effect<'a> {
    /// The file reaches at least this many bytes.
    pub grow_to: u64,
    /// Privileges go: the caller has no CAP_FSETID.
    pub kill_suidgid: Option<&'a Caller>,
    /// The times stay: the kernel holds newer ones and will send them.
    pub keep_times: bool,
    /// The file capabilities stay: who had the data written has dropped them, or has stored to a mapping.
    pub keep_capability: bool,
    /// These blocks become a hole: first, count.
    pub hole: Option<(FileBlock, u64)>,
}

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub enum Writer<'a> {
    /// The kernel writes back its pages. Nobody's privileges count: it has dropped what a write drops, and a
    /// store to a mapping drops nothing. `keeps_times`: it holds writes back, and the times with them; otherwise
    /// these are stores to mappings, whose time is known only here.
    PageCache {
        keeps_times: bool,
    },
    /// Somebody with CAP_FSETID: a setuid file stays one.
    Privileged,
    Unprivileged(&'a Caller),
}

impl Overlay {
    /// Writes all of `data`, a change by somebody or of pages that the kernel's cache held back. Takes the file's I/O lock.
    ///
    /// # Errors
    /// `EROFS` on a read-only view, `EFBIG` beyond the largest file, `ESTALE` for an inode that the kernel does not
    /// know, `ENOSPC` at the limit, or what the host says. Of blocks that the file had, some may have been written.
    pub fn write(&self, ino: InodeNo, offset: u64, data: &[u8], by: Writer<'_>) -> Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        self.writable()?;
        check_size(offset.saturating_add(data.len() as u64))?;
        self.with_room(|| self.write_once(ino, offset, data, by))
    }

    fn write_once(&self, ino: InodeNo, offset: u64, data: &[u8], by: Writer<'_>) -> Result<usize> {
        let end = offset + data.len() as u64;
        let _io = self.io_lock(ino);
        let mut fresh = Fresh::new(&self.store);
        self.store_range(ino, offset, data, &mut fresh)?;
        let kill_suidgid = match by {
            Writer::Unprivileged(caller) => Some(caller),
            _ => None,
        };
        let effect = Effect {
            grow_to: end,
            kill_suidgid,
            keep_times: matches!(by, Writer::PageCache { keeps_times: true }),
            keep_capability: matches!(by, Writer::PageCache { .. }),
            hole: None,
        };
        self.commit_data(ino, fresh, effect)?;
        Ok(data.len())
    }

    /// Puts `data` where the file will find it: in place, or in fresh blocks that the caller maps.
    /// The caller holds the file's I/O lock, so that its map stays as it is.
    ///
    /// # Errors
    /// `ENOSPC` at the limit, or what the host and the layer say: blocks that the file has may be changed then.
    pub(super) fn store_range(
        &self,
        ino: InodeNo,
        offset: u64,
        data: &[u8],
        fresh: &mut Fresh<'_>,
    ) -> Result<()> {
        self.clear_tail(ino, offset)?;
        let blocks = covering(offset, offset + data.len() as u64);
        let (mut view, mut io) = self.view_for_io(ino, blocks.clone())?;
        let gaps = gaps(&view);
        if !gaps.is_empty() {
            // An allocation may wait for I/O, and the origin's file system may be slow.
            drop(io);
            gaps.iter()
                .try_for_each(|gap| self.store_fresh(ino, &view, *gap, offset, data, fresh))?;
            (view, io) = self.view_for_io(ino, blocks)?;
        }
        for segment in &view.segments {
            if let (Source::Data(block), Some((range, skip))) =
                (segment.source, clip(segment, offset, data.len()))
            {
                io.write_at(block.offset() + skip, &data[range])?;
            }
        }
        Ok(())
    }

    /// Takes blocks for `gap` and fills them: `data` where it reaches, at the edges what was there.
    fn store_fresh(
        &self,
        ino: InodeNo,
        view: &View,
        gap: Segment,
        offset: u64,
        data: &[u8],
        fresh: &mut Fresh<'_>,
    ) -> Result<()> {
        let from = fresh.maps.len();
        fresh.take(gap.at, gap.len, view.hint)?;
        let (start, end) = (gap.at.offset(), (gap.at + gap.len).offset());
        let data_end = offset + data.len() as u64;
        // Whole blocks go straight from the request; an edge is put together first.
        let fill = |block: &mut [u8], pos: u64| {
            if reads_origin(view, FileBlock::containing(pos)) {
                self.read_origin(ino, &view.origin, pos, block)?;
            }
            let (lo, hi) = (offset.max(pos), data_end.min(pos + BLOCK_SIZE));
            block[(lo - pos) as usize..(hi - pos) as usize]
                .copy_from_slice(&data[(lo - offset) as usize..(hi - offset) as usize]);
            Ok::<_, Errno>(())
        };
        let mut edges = [0; 2 * BLOCK_SIZE as usize];
        let (head, tail) = edges.split_at_mut(BLOCK_SIZE as usize);
        let has_head = offset > start || data_end < start + BLOCK_SIZE;
        let middle = if has_head { start + BLOCK_SIZE } else { start };
        let has_tail = middle < end && data_end < end;
        let middle_end = if has_tail { end - BLOCK_SIZE } else { end };
        if has_head {
            fill(head, start)?;
        }
        if has_tail {
            fill(tail, middle_end)?;
        }
        let head = if has_head { &*head } else { &[] };
        let tail = if has_tail { &*tail } else { &[] };
        let whole = match middle < middle_end {
            true => &data[(middle - offset) as usize..(middle_end - offset) as usize],
            false => &[],
        };
        if let [(_, extent)] = fresh.maps[from..] {
            let mut parts = [IoSlice::new(head), IoSlice::new(whole), IoSlice::new(tail)];
            return self.store.gate().write_vectored_at(extent.start.offset(), &mut parts);
        }
        let parts = [(start, head), (middle, whole), (middle_end, tail)];
        parts
            .into_iter()
            .try_for_each(|(pos, part)| self.write_fresh(&fresh.maps[from..], pos, part))
    }

    /// Writes whole blocks at byte `pos` of the file into the fresh extents that stand for them.
    fn write_fresh(&self, maps: &[(FileBlock, Extent)], pos: u64, data: &[u8]) -> Result<()> {
        for &(at, extent) in maps {
            let segment = Segment { at, len: extent.len, source: Source::Unmapped };
            if let Some((range, skip)) = clip(&segment, pos, data.len()) {
                self.store.gate().write_at(extent.start.offset() + skip, &data[range])?;
            }
        }
        Ok(())
    }

    /// Journals what a data operation did, and lets the file have its fresh blocks.
    pub(super) fn commit_data(
        &self,
        ino: InodeNo,
        fresh: Fresh<'_>,
        effect: Effect<'_>,
    ) -> Result<()> {
        let in_group = match effect.kill_suidgid {
            Some(caller) => self.counts_as_in_group(ino, caller)?,
            None => true,
        };
        let prepared = self.prepare(ino)?;
        let mut tx =
            if effect.keep_times { self.begin_at(clock::coarse())? } else { self.begin()? };
        let image = tx.copy_up(ino, &prepared)?;
        let has_capability = tx.xattr(ino, CAPABILITY).is_some();
        let now = tx.now;
        fresh.records(ino, |record| tx.put(record));
        if let Some((at, len)) = effect.hole {
            tx.put(Record::Hole { ino, at, len });
        }
        if effect.grow_to > image.size {
            tx.put(Record::Size { ino, size: effect.grow_to, origin_len: None });
        }
        let mode = match effect.kill_suidgid {
            Some(_) => without_privilege(image.mode, in_group),
            None => image.mode,
        };
        if has_capability && !effect.keep_capability {
            tx.put(Record::RemoveXattr { ino, name: CAPABILITY });
        }
        if mode != image.mode {
            let size = image.size.max(effect.grow_to);
            let image =
                crate::journal::record::InodeImage { mode, size, mtime: now, ctime: now, ..image };
            tx.put(Record::Inode { ino, image });
        } else if !effect.keep_times && (image.mtime, image.ctime) != (now, now) {
            tx.put(Record::Times { ino, mtime: now, ctime: now });
        }
        let urgency = match effect.hole {
            Some(_) if fresh.maps.is_empty() => Urgency::Freeing,
            _ => Urgency::Normal,
        };
        let committed = tx.commit(urgency).map(drop);
        if committed.is_ok() {
            fresh.keep();
        }
        committed
    }

    /// Before a file grows from its present size to reach `offset` or beyond: zeroes what an earlier
    /// truncation left behind the end in its last block. Those bytes are nobody's, so this needs no
    /// record. The caller holds the file's I/O lock.
    pub(super) fn clear_tail(&self, ino: InodeNo, offset: u64) -> Result<()> {
        let (io, block, skip) = {
            let st = self.state.read();
            let Some(inode) = st.tree.get(ino) else { return Ok(()) };
            let Some((map, _)) = inode.file() else { return Ok(()) };
            let size = inode.image().size;
            if offset <= size || size % BLOCK_SIZE == 0 {
                return Ok(());
            }
            let mut data = None;
            map.segments(FileBlock::containing(size), 1, |segment| data = Some(segment.source));
            match data {
                Some(Source::Data(block)) => (self.store.gate(), block, size % BLOCK_SIZE),
                _ => return Ok(()),
            }
        };
        let zeros = [0; BLOCK_SIZE as usize];
        io.write_at(block.offset() + skip, &zeros[skip as usize..])
    }
}

/// The runs of a view that have no blocks yet. Neighbouring holes and unmapped runs are one.
fn gaps(view: &View) -> SmallVec<[Segment; 2]> {
    let mut gaps: SmallVec<[Segment; 2]> = SmallVec::new();
    for segment in view.segments.iter().filter(|s| !matches!(s.source, Source::Data(_))) {
        match gaps.last_mut().filter(|gap| gap.at + gap.len == segment.at) {
            Some(gap) => gap.len += segment.len,
            None => gaps.push(*segment),
        }
    }
    gaps
}

/// Whether a block that is not mapped shows the origin (and not a hole).
fn reads_origin(view: &View, block: FileBlock) -> bool {
    view.origin.is_some()
        && view
            .segments
            .iter()
            .any(|s| s.source == Source::Unmapped && s.at <= block && block < s.at + s.len)
}
