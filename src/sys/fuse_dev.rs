//! `/dev/fuse`: the ioctl that gives one connection a further descriptor.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::errno::{Errno, Result};

/// The device of FUSE connections.
pub const PATH: &str = "/dev/fuse";

/// `_IOR(229, 0, uint32_t)`.
const FUSE_DEV_IOC_CLONE: libc::c_ulong = 0x8004_e500;

/// Opens the device: a descriptor of no connection yet. Fails as `open` does.
pub fn open() -> Result<OwnedFd> {
    rustix::fs::open(PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// A further descriptor of `connection`. Replies must be written to the descriptor that the request
/// was read from. Fails where the device cannot be opened again.
pub fn clone(connection: impl AsFd) -> Result<OwnedFd> {
    let fresh = open()?;
    let source = connection.as_fd().as_raw_fd() as u32;
    // SAFETY: both descriptors are open; the kernel reads a u32 from the pointer, which outlives
    // the call, and changes no memory of ours.
    let done =
        unsafe { libc::ioctl(fresh.as_raw_fd(), FUSE_DEV_IOC_CLONE as _, &raw const source) };
    if done == 0 {
        return Ok(fresh);
    }
    Err(crate::errno::of_io(&std::io::Error::last_os_error()))
}

/// Whether reading or writing the device with this error should simply be tried again.
pub fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::INTR | Errno::AGAIN)
}
