//! `fallocate(2)` by purpose, with the fallbacks that some file systems need.

use std::os::fd::BorrowedFd;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::errno::Result;

fn retry(fd: BorrowedFd<'_>, flags: FallocateFlags, offset: u64, len: u64) -> Result<()> {
    rustix::io::retry_on_intr(|| fallocate(fd, flags, offset, len))
}

/// Gives `len` bytes from `offset` back to the host; they read as zeros. The length stays.
///
/// # Errors
/// `EOPNOTSUPP` where the file system cannot.
pub fn punch(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    retry(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
}

/// Makes the host reserve space for `len` bytes from `offset`; what is written there stays, the
/// file grows to the range's end.
///
/// # Errors
/// `ENOSPC`; `EOPNOTSUPP` where the file system cannot.
pub fn allocate(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    retry(fd, FallocateFlags::empty(), offset, len)
}

/// [`allocate`], and the range reads as zeros afterwards.
///
/// # Errors
/// `ENOSPC`; `EOPNOTSUPP` where the file system has no way to do so (then zeros must be written).
pub fn allocate_zeroed(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    match retry(fd, FallocateFlags::ZERO_RANGE, offset, len) {
        Err(Errno::OPNOTSUPP) => {
            punch(fd, offset, len)?;
            allocate(fd, offset, len)
        }
        done => done,
    }
}
