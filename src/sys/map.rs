//! A window of a file mapped shared, for writing only.

use std::os::fd::BorrowedFd;

use memmap2::{MmapOptions, MmapRaw};

use crate::errno::{Result, of_io};
use std::sync::Arc;

/// A range of a file mapped `MAP_SHARED`. What is written here is in the page cache at once, so it
/// survives the death of the process.
///
/// The caller must have made the host reserve the range first (`sys::fallocate::allocate`), and the
/// file must not get shorter than the window's end, or a write raises SIGBUS.
#[derive(Debug)]
pub struct Window {
    map: Arc<MmapRaw>,
}

/// Flushes a window, which somebody else may write meanwhile.
#[derive(Clone, Debug)]
pub struct Flusher {
    map: Arc<MmapRaw>,
}

impl Flusher {
    /// Writes `len` bytes from `at` to stable storage, and returns when they are there (msync(2)).
    ///
    /// # Errors
    /// What `msync(2)` says.
    pub fn flush(&self, at: usize, len: usize) -> Result<()> {
        self.map.flush_range(at, len).map_err(|err| of_io(&err))
    }
}

impl Window {
    /// What flushes this window.
    pub fn flusher(&self) -> Flusher {
        Flusher { map: Arc::clone(&self.map) }
    }

    /// Maps `len` bytes from `offset`, a multiple of the page size.
    ///
    /// # Errors
    /// What `mmap(2)` says.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Window> {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&fd);
        let map = MmapOptions::new().offset(offset).len(len).map_raw(fd).map_err(|e| of_io(&e))?;
        Ok(Window { map: Arc::new(map) })
    }

    /// Copies `bytes` to `offset` within the window. False, and nothing written, when they do not
    /// fit. `&mut` keeps two writers of one window apart.
    #[must_use]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> bool {
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.map.len()) {
            return false;
        }
        // SAFETY: offset + bytes.len() is within the mapping (checked above), which lives as long as
        // `self`; `bytes` is ordinary memory of this process, apart from a mapping nobody borrows.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.map.as_mut_ptr().add(offset),
                bytes.len(),
            );
        }
        true
    }
}
