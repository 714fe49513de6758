//! fallocate, SEEK_DATA and SEEK_HOLE, copy_file_range.

use super::attr_ops::{check_size, without_privilege};
use super::io::view;
use super::write::{Effect, Fresh, Writer};
use super::{BLOCK, Overlay};
use crate::attr::{Caller, InodeNo, LowerPath};
use crate::errno::{Errno, Result};
use crate::filestore::Extent;
use crate::upper::Source;
use rustix::fs::SeekFrom;
use std::ops::Range;
use std::os::fd::OwnedFd;

const KEEP_SIZE: u32 = 0x01;
const PUNCH_HOLE: u32 = 0x02;
const ZERO_RANGE: u32 = 0x10;

/// How much is copied at a time where data must move.
const COPY_CHUNK: u64 = 1 << 20;

impl Overlay {
    /// Modes 0, KEEP_SIZE, PUNCH_HOLE and ZERO_RANGE of fallocate(2), which is what the kernel's FUSE
    /// client lets through; EOPNOTSUPP for others. Clears setuid, setgid and capabilities as a write
    /// would.
    pub fn fallocate(
        &self,
        ino: InodeNo,
        offset: u64,
        len: u64,
        mode: u32,
        caller: &Caller,
    ) -> Result<()> {
        self.writable()?;
        let end = offset.checked_add(len).ok_or(Errno::FBIG)?;
        check_size(end)?;
        if len == 0 {
            return Err(Errno::INVAL);
        }
        let keep_size = mode & KEEP_SIZE != 0;
        let _io = self.io_lock(ino);
        let size = view(&self.state.read(), ino, 0, 0)?.size;
        let grow_to = if keep_size { 0 } else { end };
        // Behind the end is nothing to keep, so what reaches it takes the last block too.
        let hole_end = if end < size { end } else { size.next_multiple_of(BLOCK) };
        match mode & !KEEP_SIZE {
            0 => self.allocate(ino, offset, end, grow_to)?,
            PUNCH_HOLE if keep_size => self.punch(ino, offset, hole_end)?,
            ZERO_RANGE => {
                self.punch(ino, offset, end)?;
                self.allocate(ino, offset, end, grow_to)?
            }
            _ => return Err(Errno::OPNOTSUPP),
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
        let first = offset / BLOCK;
        let count = end.div_ceil(BLOCK) - first;
        let view = view(&self.state.read(), ino, first, count)?;
        let shown = view.origin.as_ref().map_or(0, |(_, len)| len.div_ceil(BLOCK));
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
    fn reserve(&self, blocks: Range<u64>, hint: Option<u64>, fresh: &mut Fresh<'_>) -> Result<()> {
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
        origin: &Option<(LowerPath, u64)>,
        blocks: Range<u64>,
    ) -> Result<Range<u64>> {
        let Range { start, end } = blocks;
        let Some((at, valid)) = origin.as_ref().filter(|(_, valid)| *valid > 0) else {
            return Ok(end..end);
        };
        let file = self.lower_file(ino, at)?;
        let seek =
            |from: u64, want_data| seek_below(&file, *valid, from * BLOCK..end * BLOCK, want_data);
        let Some(data) = seek(start, true)? else { return Ok(end..end) };
        let first = data / BLOCK;
        let hole = seek(first, false)?.map_or(end, |hole| hole.div_ceil(BLOCK));
        Ok(first..hole.max(first + 1))
    }

    fn copy_origin(
        &self,
        ino: InodeNo,
        origin: &Option<(LowerPath, u64)>,
        blocks: Range<u64>,
        fresh: &mut Fresh<'_>,
    ) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let from = fresh.maps.len();
        fresh.take(blocks.start, blocks.end - blocks.start, None)?;
        let mut buf = vec![0; COPY_CHUNK.min((blocks.end - blocks.start) * BLOCK) as usize];
        for &(at, Extent { start, len }) in &fresh.maps[from..] {
            let mut done = 0;
            while done < len * BLOCK {
                let n = (len * BLOCK - done).min(buf.len() as u64) as usize;
                self.read_origin(ino, origin, at * BLOCK + done, &mut buf[..n])?;
                self.store.write_at(start * BLOCK + done, &buf[..n])?;
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
        let (first, last) = (offset.div_ceil(BLOCK), end / BLOCK);
        if first > last {
            return self.zero_edge(ino, offset, end);
        }
        self.zero_edge(ino, offset, first * BLOCK)?;
        self.zero_edge(ino, last * BLOCK, end)?;
        let hole = (first < last).then(|| (first, last - first));
        let effect = Effect { hole, ..Default::default() };
        self.commit_data(ino, Fresh::new(&self.store), effect)
    }

    /// Zeroes a range within one block.
    fn zero_edge(&self, ino: InodeNo, offset: u64, end: u64) -> Result<()> {
        if offset >= end {
            return Ok(());
        }
        let view = view(&self.state.read(), ino, offset / BLOCK, 1)?;
        let end = end.min(view.size);
        let valid = view.origin.as_ref().map_or(0, |(_, len)| *len);
        let block = offset / BLOCK;
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
        let zeros = [0; BLOCK as usize];
        let mut fresh = Fresh::new(&self.store);
        self.store_range(ino, offset, &zeros[..(end - offset) as usize], &mut fresh)?;
        self.commit_data(ino, fresh, Effect::default())
    }

    /// SEEK_DATA (3) and SEEK_HOLE (4) of lseek(2). ENXIO beyond the end or where no data follow.
    pub fn lseek(&self, ino: InodeNo, offset: u64, whence: u32) -> Result<u64> {
        let want_data = match whence {
            3 => true,
            4 => false,
            _ => return Err(Errno::INVAL),
        };
        let first = offset / BLOCK;
        let view = {
            let st = self.state.read();
            let size = view(&st, ino, 0, 0)?.size;
            if offset >= size {
                return Err(Errno::NXIO);
            }
            view(&st, ino, first, size.div_ceil(BLOCK) - first)?
        };
        for segment in &view.segments {
            let start = (segment.at * BLOCK).max(offset);
            let end = ((segment.at + segment.len) * BLOCK).min(view.size);
            let found = match (segment.source, &view.origin) {
                // No gate: blocks that are reused meanwhile tell of a change that is being made.
                (Source::Data(block), _) => {
                    let at = block * BLOCK + (start - segment.at * BLOCK);
                    let found = self.store.seek(at..at + (end - start), want_data)?;
                    found.map(|found| found - at + start)
                }
                (Source::Unmapped, Some((at, valid))) if *valid > 0 => {
                    let file = self.lower_file(ino, at)?;
                    seek_below(&file, *valid, start..end, want_data)?
                }
                _ => (!want_data).then_some(start),
            };
            if let Some(found) = found {
                return Ok(found);
            }
        }
        if want_data { Err(Errno::NXIO) } else { Ok(view.size) }
    }

    /// Copies up to `len` bytes between two regular files; short at the source's end. Privileges of
    /// `to` go as with [`Overlay::fallocate`].
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
        let len = len.min(self.getattr(from)?.size.saturating_sub(from_off));
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
    file: &OwnedFd,
    valid: u64,
    range: Range<u64>,
    want_data: bool,
) -> Result<Option<u64>> {
    let Range { start, end } = range;
    let valid_blocks = valid.next_multiple_of(BLOCK);
    if start >= valid_blocks {
        return Ok((!want_data).then_some(start));
    }
    let from = start.min(valid - 1);
    let whence = if want_data { SeekFrom::Data(from) } else { SeekFrom::Hole(from) };
    let found = match rustix::fs::seek(file, whence) {
        Ok(found) if found < valid => Some(found.max(start)),
        Ok(_) | Err(Errno::NXIO) if want_data => None,
        Ok(_) | Err(Errno::NXIO) => Some(valid_blocks),
        // A file system that does not tell: no holes.
        Err(Errno::INVAL) => Some(if want_data { start } else { valid_blocks }),
        Err(err) => return Err(err),
    };
    Ok(found.filter(|found| *found < end))
}
