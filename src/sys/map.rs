//! A window of a file mapped shared, for writing only.

use std::os::fd::BorrowedFd;

use memmap2::{MmapOptions, MmapRaw};

use super::sigbus::Guarded;
use crate::errno::{Errno, Result, of_io};
use std::sync::Arc;

/// The mapping, and what tells whether a write to it was lost.
#[derive(Debug)]
struct Mapped {
    /// Dropped before the mapping is.
    guarded: Guarded,
    map: MmapRaw,
}

/// A range of a file mapped `MAP_SHARED`. What is written here is in the page cache at once, so it
/// survives the death of the process.
///
/// The caller must have made the host reserve the range first (`sys::fallocate::allocate`), and the
/// file must not get shorter than the window's end. A write that the host cannot carry out all the same is noticed:
/// see [`Window::write`].
#[derive(Debug)]
pub struct Window {
    mapped: Arc<Mapped>,
}

/// Flushes a window, which somebody else may write meanwhile.
#[derive(Clone, Debug)]
pub struct Flusher {
    mapped: Arc<Mapped>,
}

impl Flusher {
    /// Writes `len` bytes from `at` to stable storage, and returns when they are there (msync(2)).
    ///
    /// # Errors
    /// What `msync(2)` says; `EIO` where a write was lost.
    pub fn flush(&self, at: usize, len: usize) -> Result<()> {
        self.mapped.map.flush_range(at, len).map_err(|err| of_io(&err))?;
        if self.mapped.guarded.has_lost() { Err(Errno::IO) } else { Ok(()) }
    }
}

impl Window {
    /// Maps `len` bytes from `offset`, a multiple of the page size.
    ///
    /// # Errors
    /// What `mmap(2)` says; `ENOBUFS` where too many windows are open.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Window> {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&fd);
        let map = MmapOptions::new().offset(offset).len(len).map_raw(fd).map_err(|e| of_io(&e))?;
        let guarded = Guarded::new(map.as_mut_ptr() as usize, map.len())?;
        Ok(Window { mapped: Arc::new(Mapped { guarded, map }) })
    }

    /// What flushes this window.
    pub fn flusher(&self) -> Flusher {
        Flusher { mapped: Arc::clone(&self.mapped) }
    }

    /// Copies `bytes` to `offset` within the window. `&mut` keeps two writers of one window apart.
    ///
    /// # Errors
    /// `EFBIG`, and nothing written, when they do not fit. `EIO` when the host could not carry out this write or an
    /// earlier one (no space, a file system that was shut down): the window is of no use any more.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        let map = &self.mapped.map;
        if offset.checked_add(bytes.len()).is_none_or(|end| end > map.len()) {
            return Err(Errno::FBIG);
        }
        // SAFETY: offset + bytes.len() is within the mapping (checked above), which lives as long as
        // `self`; `bytes` is ordinary memory of this process, apart from a mapping nobody borrows.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                map.as_mut_ptr().add(offset),
                bytes.len(),
            );
        }
        // A fault happens on this thread, before the copy ends.
        if self.mapped.guarded.has_lost() { Err(Errno::IO) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_write_that_the_host_cannot_carry_out_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let mut window = Window::new(file.as_fd(), 0, 8192).unwrap();
        window.write(0, b"kept").unwrap();
        assert_eq!(window.write(8190, b"too long"), Err(Errno::FBIG));
        // Behind the end of its file, a mapping raises SIGBUS.
        file.set_len(4096).unwrap();
        assert_eq!(window.write(4000, &[1; 200]), Err(Errno::IO));
        assert_eq!(window.write(0, b"late"), Err(Errno::IO), "it is of no use any more");
        assert_eq!(window.flusher().flush(0, 4), Err(Errno::IO));
        let mut other = Window::new(file.as_fd(), 0, 4096).unwrap();
        other.write(0, b"more").unwrap();
        other.flusher().flush(0, 4).unwrap();
    }
}
