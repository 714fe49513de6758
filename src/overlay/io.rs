//! open, read, fsync.

use super::Overlay;
use super::lower_files::LowerData;
use super::state::State;
use crate::attr::{Caller, InodeNo, SetAttr};
use crate::block::{FileBlock, StoreBlock};
use crate::config::Durability;
use crate::errno::{Errno, Result};
use crate::filestore::Io;
use crate::upper::{ExtentMap, Segment, Source};
use smallvec::SmallVec;
use std::ops::Range;

const O_TRUNC: u32 = libc::O_TRUNC as u32;
const O_ACCMODE: u32 = libc::O_ACCMODE as u32;

/// How a range of a file reads, taken under the state lock.
pub(super) struct View {
    /// Bytes.
    pub size: u64,
    pub segments: SmallVec<[Segment; 6]>,
    /// The lower file, and how many bytes of it are valid.
    pub origin: Option<(LowerData, u64)>,
    /// Where blocks for the range would best be taken: behind the extent before it.
    pub hint: Option<StoreBlock>,
}

impl Overlay {
    /// Opens a regular file. O_TRUNC is done here; everything else the kernel has checked.
    ///
    /// # Errors
    /// `EROFS` for a change of a read-only view, `ESTALE` for an inode that the kernel does not know, what a
    /// truncation fails with, or what the layer's file system says.
    pub fn open(
        &self,
        ino: InodeNo,
        flags: u32,
        kill_suidgid: bool,
        caller: &Caller,
    ) -> Result<()> {
        self.prepare_open(ino, flags, kill_suidgid, caller)?;
        self.count_writer(ino, flags);
        Ok(())
    }

    fn prepare_open(
        &self,
        ino: InodeNo,
        flags: u32,
        kill_suidgid: bool,
        caller: &Caller,
    ) -> Result<()> {
        if flags & O_ACCMODE != 0 || flags & O_TRUNC != 0 {
            self.writable()?;
        }
        if flags & O_TRUNC != 0 {
            let set = SetAttr { size: Some(0), kill_suidgid, ..Default::default() };
            return self.setattr(ino, &set, caller).map(drop);
        }
        // A lower file that cannot be read should fail here and not at the first read.
        let origin = view(&self.state.read(), ino, FileBlock::ZERO..FileBlock::ZERO)?.origin;
        match origin {
            Some((data, valid)) if valid > 0 => self.lower_file(ino, &data).map(drop),
            _ => Ok(()),
        }
    }

    /// How these blocks of a file read, and the filestore's I/O gate: no block of the view is used for anything else before
    /// the guard is dropped.
    ///
    /// # Errors
    /// As [`view`].
    pub(super) fn view_for_io(
        &self,
        ino: InodeNo,
        blocks: Range<FileBlock>,
    ) -> Result<(View, Io<'_>)> {
        let st = self.state.read();
        let view = view(&st, ino, blocks)?;
        // Entered before the state lock is let go.
        Ok((view, self.store.gate()))
    }

    /// Reads into `buf`; short only at the end of the file. Takes no lock for the transfer.
    ///
    /// # Errors
    /// `ESTALE` for an inode that the kernel does not know, `EINVAL` for what is no regular file, or what the host says.
    pub fn read(&self, ino: InodeNo, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let blocks = covering(offset, offset.saturating_add(buf.len() as u64));
        let (view, io) = self.view_for_io(ino, blocks)?;
        if offset >= view.size {
            return Ok(0);
        }
        let len = (buf.len() as u64).min(view.size - offset) as usize;
        let buf = &mut buf[..len];
        for segment in &view.segments {
            if let (Source::Data(block), Some((range, skip))) =
                (segment.source, clip(segment, offset, len))
            {
                io.read_at(block.offset() + skip, &mut buf[range])?;
            }
        }
        drop(io);
        for segment in &view.segments {
            let Some((range, _)) = clip(segment, offset, len) else { continue };
            match segment.source {
                Source::Data(_) => {}
                Source::Hole => buf[range].fill(0),
                Source::Unmapped => {
                    let at = offset + range.start as u64;
                    self.read_origin(ino, &view.origin, at, &mut buf[range])?;
                }
            }
        }
        Ok(len)
    }

    /// Reads the lower file where it is valid, zeros beyond. The caller is not in the I/O gate.
    ///
    /// # Errors
    /// What the layer's file system says.
    pub(super) fn read_origin(
        &self,
        ino: InodeNo,
        origin: &Option<(LowerData, u64)>,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        let valid = match origin {
            Some((_, len)) => (len.saturating_sub(offset)).min(buf.len() as u64) as usize,
            None => 0,
        };
        let (head, tail) = buf.split_at_mut(valid);
        tail.fill(0);
        if let Some((at, _)) = origin.as_ref().filter(|_| !head.is_empty()) {
            let file = self.lower_file(ino, at)?;
            // Short where the file was truncated on the host meanwhile.
            let len = file.read_at(head, offset)?;
            head[len..].fill(0);
        }
        Ok(())
    }

    /// Makes what was written and changed so far durable, as the mount's durability promises.
    ///
    /// # Errors
    /// What the host says, and `EIO` ever after.
    pub fn fsync(&self, ino: InodeNo, _datasync: bool) -> Result<()> {
        let touched = self.state.read().tree.contains(ino);
        if touched { self.syncfs() } else { Ok(()) }
    }

    /// Whether the upper has the inode: [`Overlay::fsync`] does something then.
    #[cfg(test)]
    pub(crate) fn is_in_upper(&self, ino: InodeNo) -> bool {
        self.state.read().tree.contains(ino)
    }

    /// [`Overlay::fsync`] of a directory.
    ///
    /// # Errors
    /// As [`Overlay::fsync`].
    pub fn fsyncdir(&self, ino: InodeNo, datasync: bool) -> Result<()> {
        self.fsync(ino, datasync)
    }

    /// [`Overlay::fsync`] of everything.
    ///
    /// # Errors
    /// As [`Overlay::fsync`].
    pub fn syncfs(&self) -> Result<()> {
        if self.durability == Durability::Volatile || self.read_only {
            return Ok(());
        }
        self.sync()
    }
}

/// The blocks that hold the bytes from `offset` to `end` of a file.
pub(super) fn covering(offset: u64, end: u64) -> Range<FileBlock> {
    FileBlock::containing(offset)..FileBlock::at_or_after(end)
}

/// How these blocks of a file read.
///
/// # Errors
/// `ESTALE` for an inode that the kernel does not know, `EINVAL` for what is no regular file.
pub(super) fn view(st: &State, ino: InodeNo, blocks: Range<FileBlock>) -> Result<View> {
    let Range { start: first, end } = blocks;
    let count = end.0.saturating_sub(first.0);
    if let Some(inode) = st.tree.get(ino) {
        let (map, origin) = inode.file().ok_or(Errno::INVAL)?;
        let mut segments = SmallVec::new();
        map.segments(first, count, |segment| segments.push(segment));
        let origin = origin.map(|o| (LowerData::Origin(o.clone()), o.image.len));
        let hint = map.hint_before(first);
        return Ok(View { size: inode.image().size, segments, origin, hint });
    }
    let lower = st.node(ino)?.lower.as_deref().ok_or(Errno::STALE)?;
    if !lower.attr.is_regular() {
        return Err(Errno::INVAL);
    }
    let mut segments = SmallVec::new();
    ExtentMap::default().segments(first, count, |segment| segments.push(segment));
    let size = lower.attr.size;
    Ok(View {
        size,
        segments,
        origin: Some((LowerData::Place(lower.at.clone()), size)),
        hint: None,
    })
}

/// The part of a segment that lies in `len` bytes from `offset`: its place in that buffer, and how
/// many bytes into the segment it begins.
pub(super) fn clip(segment: &Segment, offset: u64, len: usize) -> Option<(Range<usize>, u64)> {
    let segment_start = segment.at.offset();
    let start = segment_start.max(offset);
    let end = (segment.at + segment.len).offset().min(offset + len as u64);
    (start < end)
        .then(|| ((start - offset) as usize..(end - offset) as usize, start - segment_start))
}
