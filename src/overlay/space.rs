//! fallocate, SEEK_DATA and SEEK_HOLE, copy_file_range.

use super::Overlay;
use super::attr_ops::{check_size, without_privilege};
use super::io::{View, covering, view};
use super::lower_files::LowerData;
use super::write::{Effect, Fresh, Writer};
use crate::attr::{Caller, InodeNo};
use crate::block::{BLOCK_SIZE, FileBlock, StoreBlock};
use crate::errno::{Errno, Result};
use crate::filestore::Extent;
use crate::layer::{LowerFile, Want};
use crate::upper::Source;
use std::ops::Range;

/// What fallocate(2) does with a range: the modes that the kernel's FUSE client lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallocateMode {
    /// Mode 0 or `FALLOC_FL_KEEP_SIZE`: every block of the range is allocated, its bytes stay.
    Allocate { keep_size: bool },
    /// `FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`: the range reads as zeros and takes no blocks.
    PunchHole,
    /// `FALLOC_FL_ZERO_RANGE`, with or without `FALLOC_FL_KEEP_SIZE`: the range reads as zeros, its
    /// blocks are allocated.
    ZeroRange { keep_size: bool },
}

impl FallocateMode {
    const KEEP_SIZE: u32 = libc::FALLOC_FL_KEEP_SIZE as u32;
    const PUNCH_HOLE: u32 = libc::FALLOC_FL_PUNCH_HOLE as u32;
    const ZERO_RANGE: u32 = libc::FALLOC_FL_ZERO_RANGE as u32;

    /// From the flags of fallocate(2).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for all other combinations, as fallocate(2) has it.
    pub fn from_raw(flags: u32) -> Result<FallocateMode> {
        let keep_size = flags & FallocateMode::KEEP_SIZE != 0;
        match flags & !FallocateMode::KEEP_SIZE {
            0 => Ok(FallocateMode::Allocate { keep_size }),
            FallocateMode::PUNCH_HOLE if keep_size => Ok(FallocateMode::PunchHole),
            FallocateMode::ZERO_RANGE => Ok(FallocateMode::ZeroRange { keep_size }),
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    fn keeps_size(self) -> bool {
        match self {
            FallocateMode::Allocate { keep_size } | FallocateMode::ZeroRange { keep_size } => {
                keep_size
            }
            FallocateMode::PunchHole => true,
        }
    }
}

/// What lseek(2) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`. The end of the file counts as one.
    Hole,
}

impl Whence {
    /// From the `whence` of lseek(2).
    ///
    /// # Errors
    /// `EINVAL` for others: the kernel does these itself.
    pub fn from_raw(whence: u32) -> Result<Whence> {
        match i32::try_from(whence) {
            Ok(libc::SEEK_DATA) => Ok(Whence::Data),
            Ok(libc::SEEK_HOLE) => Ok(Whence::Hole),
            _ => Err(Errno::INVAL),
        }
    }
}

/// No block, for a view that tells the size alone.
const NO_BLOCKS: Range<FileBlock> = FileBlock::ZERO..FileBlock::ZERO;

/// How many blocks lseek(2) looks at first; twice as many each time that it finds nothing. A file may have more extents
/// than one call should look at.
const SEEK_BLOCKS: u64 = 256;

/// How many bytes are copied at a time where data must move.
const COPY_CHUNK: u64 = 1 << 20;

/// The most bytes that one copy_file_range copies. A caller waits for its request whatever signal it gets, and a
/// sparse file can have as many as there are.
const COPY_MAX: u64 = 64 << 20;

/// An allocation of so many bytes is refused at once where the host has less room. The host would give all that it
/// has before it fails.
const LARGE_ALLOCATION: u64 = 1 << 30;

impl Overlay {
    /// fallocate(2) of `len` bytes from byte `offset`. Clears setuid, setgid and capabilities as a
    /// write would. Takes the file's I/O lock.
    ///
    /// # Errors
    /// `EROFS` on a read-only view, `EFBIG` beyond the largest file, `EINVAL` for an empty range or what
    /// is no regular file, `ESTALE` for an inode that the kernel does not know, `ENOSPC` at the limit, or
    /// what the host says.
    pub fn fallocate(
        &self,
        ino: InodeNo,
        offset: u64,
        len: u64,
        mode: FallocateMode,
        caller: &Caller,
    ) -> Result<()> {
        self.writable()?;
        let end = offset.checked_add(len).ok_or(Errno::FBIG)?;
        check_size(end)?;
        if len == 0 {
            return Err(Errno::INVAL);
        }
        let _io = self.io_lock(ino);
        let size = view(&self.state.read(), ino, NO_BLOCKS)?.size;
        let grow_to = if mode.keeps_size() { 0 } else { end };
        // Behind the end is nothing to keep, so what reaches it takes the last block too.
        let hole_end = if end < size { end } else { size.next_multiple_of(BLOCK_SIZE) };
        match mode {
            FallocateMode::Allocate { .. } => self.allocate(ino, offset, end, grow_to)?,
            FallocateMode::PunchHole => self.punch(ino, offset, hole_end)?,
            FallocateMode::ZeroRange { .. } => {
                self.punch(ino, offset, end)?;
                self.allocate(ino, offset, end, grow_to)?
            }
        }
        // Also where no block changed, the times do.
        let kill_suidgid = self.is_stripped_by(ino, caller)?.then_some(caller);
        let effect = Effect { kill_suidgid, ..Default::default() };
        self.commit_data(ino, Fresh::new(&self.store), effect)
    }

    /// Whether a change of the data by `caller` may take setuid or setgid away. (Of WRITE and a new
    /// size the kernel says so itself.)
    fn is_stripped_by(&self, ino: InodeNo, caller: &Caller) -> Result<bool> {
        let mode = self.getattr(ino)?.mode;
        Ok(mode != without_privilege(mode, false) && !caller.keeps_setid())
    }

    /// Makes sure that every block of the range has its place: holes get zeroed blocks, what is only
    /// in the origin is copied.
    fn allocate(&self, ino: InodeNo, offset: u64, end: u64, grow_to: u64) -> Result<()> {
        self.clear_tail(ino, grow_to)?;
        let view = view(&self.state.read(), ino, covering(offset, end))?;
        let shown = FileBlock::at_or_after(view.origin.as_ref().map_or(0, |(_, len)| *len));
        let missing = view.segments.iter().filter(|s| !matches!(s.source, Source::Data(_)));
        let missing = missing.map(|segment| segment.len).sum::<u64>().saturating_mul(BLOCK_SIZE);
        if missing >= LARGE_ALLOCATION && missing > self.store.usage()?.host_available {
            return Err(Errno::NOSPC);
        }
        let mut fresh = Fresh::new(&self.store);
        for segment in &view.segments {
            let split = match segment.source {
                Source::Data(_) => continue,
                Source::Hole => segment.at,
                Source::Unmapped => shown.clamp(segment.at, segment.at + segment.len),
            };
            let mut at = segment.at;
            while at < split {
                let data = self.next_data_below(ino, &view.origin, at..split)?;
                self.reserve(at..data.start, view.hint, &mut fresh)?;
                self.copy_origin(ino, &view.origin, data.clone(), &mut fresh)?;
                at = data.end;
            }
            self.reserve(split..segment.at + segment.len, view.hint, &mut fresh)?;
        }
        let effect = Effect { grow_to, ..Default::default() };
        self.commit_data(ino, fresh, effect)
    }

    /// Gives these blocks of the file zeroed blocks that hold no data.
    fn reserve(
        &self,
        blocks: Range<FileBlock>,
        hint: Option<StoreBlock>,
        fresh: &mut Fresh<'_>,
    ) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let from = fresh.maps.len();
        fresh.take(blocks.start, blocks.end - blocks.start, hint)?;
        fresh.maps[from..].iter().try_for_each(|(_, extent)| self.store.reserve(*extent))
    }

    /// The first of these blocks that the lower file has data in, and those behind it that have, too. Empty
    /// at the end if there are none.
    fn next_data_below(
        &self,
        ino: InodeNo,
        origin: &Option<(LowerData, u64)>,
        blocks: Range<FileBlock>,
    ) -> Result<Range<FileBlock>> {
        let Range { start, end } = blocks;
        let Some((at, valid)) = origin.as_ref().filter(|(_, valid)| *valid > 0) else {
            return Ok(end..end);
        };
        let file = self.lower_file(ino, at)?;
        let seek =
            |from: FileBlock, want| seek_below(&*file, *valid, from.offset()..end.offset(), want);
        let Some(data) = seek(start, Whence::Data)? else { return Ok(end..end) };
        let first = FileBlock::containing(data);
        let hole = seek(first, Whence::Hole)?.map_or(end, FileBlock::at_or_after);
        Ok(first..hole.max(first + 1))
    }

    fn copy_origin(
        &self,
        ino: InodeNo,
        origin: &Option<(LowerData, u64)>,
        blocks: Range<FileBlock>,
        fresh: &mut Fresh<'_>,
    ) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let from = fresh.maps.len();
        fresh.take(blocks.start, blocks.end - blocks.start, None)?;
        let mut buf = vec![0; COPY_CHUNK.min((blocks.end - blocks.start) * BLOCK_SIZE) as usize];
        for &(at, Extent { start, len }) in &fresh.maps[from..] {
            let mut done = 0;
            while done < len * BLOCK_SIZE {
                let n = (len * BLOCK_SIZE - done).min(buf.len() as u64) as usize;
                self.read_origin(ino, origin, at.offset() + done, &mut buf[..n])?;
                self.store.gate().write_at(start.offset() + done, &buf[..n])?;
                done += n as u64;
            }
        }
        Ok(())
    }

    /// Whole blocks become a hole; the edges are overwritten with zeros where they hold anything.
    fn punch(&self, ino: InodeNo, offset: u64, end: u64) -> Result<()> {
        if offset >= end {
            return Ok(());
        }
        let (first, last) = (FileBlock::at_or_after(offset), FileBlock::containing(end));
        if first > last {
            return self.zero_edge(ino, offset, end);
        }
        self.zero_edge(ino, offset, first.offset())?;
        self.zero_edge(ino, last.offset(), end)?;
        let hole = (first < last).then(|| (first, last - first));
        let effect = Effect { hole, ..Default::default() };
        self.commit_data(ino, Fresh::new(&self.store), effect)
    }

    /// Zeroes a range within one block.
    fn zero_edge(&self, ino: InodeNo, offset: u64, end: u64) -> Result<()> {
        if offset >= end {
            return Ok(());
        }
        let block = FileBlock::containing(offset);
        let view = view(&self.state.read(), ino, block.run(1))?;
        let end = end.min(view.size);
        let valid = view.origin.as_ref().map_or(0, |(_, len)| *len);
        let holds_data = match view.segments.first().map(|segment| segment.source) {
            Some(Source::Data(_)) => true,
            Some(Source::Unmapped) if offset < valid => {
                !self.next_data_below(ino, &view.origin, block..block + 1)?.is_empty()
            }
            _ => false,
        };
        if !holds_data || offset >= end {
            return Ok(());
        }
        let zeros = [0; BLOCK_SIZE as usize];
        let mut fresh = Fresh::new(&self.store);
        self.store_range(ino, offset, &zeros[..(end - offset) as usize], &mut fresh)?;
        self.commit_data(ino, fresh, Effect::default())
    }

    /// The first byte of data, or of a hole, at byte `offset` or behind it: lseek(2).
    ///
    /// # Errors
    /// `ENXIO` beyond the end or where no data follow, `ESTALE`, `EINVAL` for what is no regular file, or what
    /// the host says.
    pub fn lseek(&self, ino: InodeNo, offset: u64, whence: Whence) -> Result<u64> {
        let size = view(&self.state.read(), ino, NO_BLOCKS)?.size;
        if offset >= size {
            return Err(Errno::NXIO);
        }
        let Range { mut start, end } = covering(offset, size);
        let mut count = SEEK_BLOCKS;
        while start < end {
            let blocks = start..end.min(start.run(count).end);
            let view = view(&self.state.read(), ino, blocks.clone())?;
            if let Some(found) = self.seek_in(ino, offset, &view, whence)? {
                return Ok(found);
            }
            (start, count) = (blocks.end, count.saturating_mul(2));
        }
        match whence {
            Whence::Data => Err(Errno::NXIO),
            Whence::Hole => Ok(size),
        }
    }

    /// [`Overlay::lseek`] in the blocks of `view`; `None` where they have nothing of the kind.
    fn seek_in(
        &self,
        ino: InodeNo,
        offset: u64,
        view: &View,
        whence: Whence,
    ) -> Result<Option<u64>> {
        for segment in &view.segments {
            let segment_start = segment.at.offset();
            let start = segment_start.max(offset);
            let end = (segment.at + segment.len).offset().min(view.size);
            let found = match (segment.source, &view.origin) {
                // No gate: blocks that are reused meanwhile tell of a change that is being made.
                (Source::Data(block), _) => {
                    let at = block.offset() + (start - segment_start);
                    let want_data = whence == Whence::Data;
                    let found = self.store.seek(at..at + (end - start), want_data)?;
                    found.map(|found| found - at + start)
                }
                (Source::Unmapped, Some((at, valid))) if *valid > 0 => {
                    let file = self.lower_file(ino, at)?;
                    seek_below(&*file, *valid, start..end, whence)?
                }
                _ => (whence == Whence::Hole).then_some(start),
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Copies up to `len` bytes between two regular files, at most 64 MiB; short at the source's end. Privileges of
    /// `to` go as with [`Overlay::fallocate`].
    ///
    /// # Errors
    /// As [`Overlay::read`] and [`Overlay::write`], where nothing was copied.
    pub fn copy_file_range(
        &self,
        from: InodeNo,
        from_off: u64,
        to: InodeNo,
        to_off: u64,
        len: u64,
        caller: &Caller,
    ) -> Result<usize> {
        self.writable()?;
        let by = match self.is_stripped_by(to, caller)? {
            true => Writer::Unprivileged(caller),
            false => Writer::Privileged,
        };
        // The end is where it was at the start, also of a file that is copied to its own end.
        let len = len.min(COPY_MAX).min(self.getattr(from)?.size.saturating_sub(from_off));
        let mut buf = vec![0; len.min(COPY_CHUNK) as usize];
        let mut done = 0;
        while done < len {
            let want = (len - done).min(buf.len() as u64) as usize;
            let copied = self.read(from, from_off + done, &mut buf[..want]).and_then(|n| {
                if n == 0 { Ok(0) } else { self.write(to, to_off + done, &buf[..n], by) }
            });
            match copied {
                Ok(0) => break,
                Ok(n) => done += n as u64,
                Err(err) if done == 0 => return Err(err),
                Err(_) => break,
            }
        }
        Ok(done as usize)
    }
}

/// The first byte of `range` that is data (or hole) where the first `valid` bytes of `file`, at least one, are
/// what shows, and zeros behind them. The block of the last is one: what it is, it is to its end.
fn seek_below(
    file: &dyn LowerFile,
    valid: u64,
    range: Range<u64>,
    whence: Whence,
) -> Result<Option<u64>> {
    let Range { start, end } = range;
    let want_data = whence == Whence::Data;
    let valid_blocks = valid.next_multiple_of(BLOCK_SIZE);
    if start >= valid_blocks {
        return Ok((!want_data).then_some(start));
    }
    let from = start.min(valid - 1);
    let want = if want_data { Want::Data } else { Want::Hole };
    let found = match file.seek(want, from)? {
        Some(found) if found < valid => Some(found.max(start)),
        Some(_) | None if want_data => None,
        Some(_) | None => Some(valid_blocks),
    };
    Ok(found.filter(|found| *found < end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_done_is_a_mode() {
        let known = [
            (0, FallocateMode::Allocate { keep_size: false }),
            (1, FallocateMode::Allocate { keep_size: true }),
            (3, FallocateMode::PunchHole),
            (0x10, FallocateMode::ZeroRange { keep_size: false }),
            (0x11, FallocateMode::ZeroRange { keep_size: true }),
        ];
        for (raw, mode) in known {
            assert_eq!(FallocateMode::from_raw(raw), Ok(mode));
        }
        for raw in [2, 4, 8, 9, 0x12, 0x13, 0x20, 0x40, 0x43, 1 << 31] {
            assert_eq!(FallocateMode::from_raw(raw), Err(Errno::OPNOTSUPP), "{raw:#x}");
        }
    }

    #[test]
    fn only_data_and_holes_are_sought() {
        assert_eq!(Whence::from_raw(3), Ok(Whence::Data));
        assert_eq!(Whence::from_raw(4), Ok(Whence::Hole));
        for raw in [0, 1, 2, 5, u32::MAX] {
            assert_eq!(Whence::from_raw(raw), Err(Errno::INVAL));
        }
    }
}
