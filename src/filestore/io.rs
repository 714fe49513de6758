//! Reads and writes of the host file, which happen in the I/O gate by construction.

use std::io::{IoSlice, IoSliceMut};

use rustix::io::Errno;

use super::Backing;
use super::flush::Flush;
use super::gate::IoGuard;
use crate::block::StoreOffset;
use crate::errno::Result;

/// An I/O under way: see [`super::Filestore::gate`].
#[derive(Debug)]
#[must_use = "the I/O has ended when this is dropped"]
pub struct Io<'a> {
    pub(super) backing: &'a dyn Backing,
    pub(super) flush: &'a Flush,
    pub(super) _guard: IoGuard<'a>,
}

impl Io<'_> {
    /// Fills `buf` from byte `offset`; zeros beyond the file's end.
    ///
    /// # Errors
    /// What the host says.
    pub fn read_at(&self, offset: StoreOffset, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let rest = &mut buf[done..];
            let n = self.backing.read_at(&mut [IoSliceMut::new(rest)], offset.0 + done as u64)?;
            if n == 0 {
                buf[done..].fill(0);
                break;
            }
            done += n;
        }
        Ok(())
    }

    /// Writes all of `data` at byte `offset`. Blocks that were just allocated must be written whole: they
    /// may hold old bytes.
    ///
    /// # Errors
    /// What the host says; `ENOSPC` may be met by a sync, a reclaim and another try.
    pub fn write_at(&self, offset: StoreOffset, data: &[u8]) -> Result<()> {
        self.write_vectored_at(offset, &mut [IoSlice::new(data)])
    }

    /// [`Io::write_at`] for several buffers, one after the other. The slices are used up.
    ///
    /// # Errors
    /// As [`Io::write_at`]. `EIO` when the host takes no bytes without saying why.
    pub fn write_vectored_at(&self, offset: StoreOffset, data: &mut [IoSlice<'_>]) -> Result<()> {
        let written = self.write_frame_at(offset, data, &mut 0);
        self.flush.note_write();
        written
    }

    /// [`Io::write_vectored_at`] of what no sync point counts on: a frame of the journal vouches for itself. Adds to
    /// `done` the bytes that the host took.
    ///
    /// # Errors
    /// As [`Io::write_vectored_at`].
    pub(crate) fn write_frame_at(
        &self,
        offset: StoreOffset,
        mut data: &mut [IoSlice<'_>],
        done: &mut u64,
    ) -> Result<()> {
        let StoreOffset(mut at) = offset;
        IoSlice::advance_slices(&mut data, 0);
        while !data.is_empty() {
            let n = self.backing.write_at(data, at)?;
            if n == 0 {
                return Err(Errno::IO);
            }
            IoSlice::advance_slices(&mut data, n);
            at += n as u64;
            *done += n as u64;
        }
        Ok(())
    }
}
