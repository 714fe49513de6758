//! `/dev/fuse`: the ioctls that give one connection a further descriptor, or a file to read from.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};

use crate::errno::{Errno, Result};

/// The device of FUSE connections.
pub const PATH: &str = "/dev/fuse";

/// `_IOR(229, 0, uint32_t)`.
const FUSE_DEV_IOC_CLONE: libc::c_ulong = 0x8004_e500;

/// `_IOW(229, 1, struct fuse_backing_map)`.
const FUSE_DEV_IOC_BACKING_OPEN: libc::c_ulong = 0x4010_e501;

/// `_IOW(229, 2, uint32_t)`.
const FUSE_DEV_IOC_BACKING_CLOSE: libc::c_ulong = 0x4004_e502;

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: RawFd,
    flags: u32,
    padding: u64,
}

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

/// A file known to a connection, for passthrough: OPEN is answered with its number. Numbers start
/// at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackingId(pub i32);

/// Lets the kernel take what it reads of a FUSE file from `file`. `EPERM` without CAP_SYS_ADMIN on the
/// host or where INIT did not agree on passthrough, `ELOOP` for a file on a stacked file system.
///
/// The kernel opens the file anew for each open of the FUSE file, *with that one's access mode*,
/// whatever the mode of `file`. So no open for writing may be answered with it.
pub fn open_backing(connection: impl AsFd, file: impl AsFd) -> Result<BackingId> {
    let map = BackingMap { fd: file.as_fd().as_raw_fd(), flags: 0, padding: 0 };
    let device = connection.as_fd().as_raw_fd();
    // SAFETY: both descriptors are open; the kernel reads a `fuse_backing_map` from the pointer,
    // which outlives the call, and changes no memory of ours.
    let id = unsafe { libc::ioctl(device, FUSE_DEV_IOC_BACKING_OPEN as _, &raw const map) };
    if id > 0 {
        return Ok(BackingId(id));
    }
    Err(crate::errno::of_io(&std::io::Error::last_os_error()))
}

/// Gives a file's number back; who has opened it keeps it.
pub fn close_backing(connection: impl AsFd, BackingId(id): BackingId) -> Result<()> {
    let id = id as u32;
    let device = connection.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open; the kernel reads a u32 from the pointer, which outlives the
    // call, and changes no memory of ours.
    let done = unsafe { libc::ioctl(device, FUSE_DEV_IOC_BACKING_CLOSE as _, &raw const id) };
    if done == 0 {
        return Ok(());
    }
    Err(crate::errno::of_io(&std::io::Error::last_os_error()))
}

/// Whether reading or writing the device with this error should simply be tried again.
pub fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::INTR | Errno::AGAIN)
}
