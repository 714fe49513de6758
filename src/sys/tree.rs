//! Private copies of a mount: one directory tree in no namespace, with nothing mounted inside.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::mount::{OpenTreeFlags, open_tree};

/// A copy of the mount that a directory lies on, rooted at that directory, attached nowhere,
/// read-only, without devices, and cut off from mount propagation. What is mounted below the
/// directory on the host is not part of it.
#[derive(Debug)]
pub struct PrivateTree {
    pub root: OwnedFd,
    /// Access times are never updated through this copy, whatever the flags of an open.
    pub keeps_atime: bool,
}

impl PrivateTree {
    /// Copies the mount around `dir` (`O_PATH` will do).
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN; `EINVAL` where a user namespace may not look below its mounts;
    /// `ENOSYS` before Linux 5.12.
    pub fn copy_of(dir: impl AsFd) -> Result<PrivateTree> {
        let root = clone(dir)?;
        // A user namespace may be forbidden to change how access times are kept.
        let with_atime = |keep| seal(root.as_fd(), keep);
        let keeps_atime = match with_atime(true) {
            Ok(()) => true,
            Err(_) => with_atime(false).map(|()| false)?,
        };
        Ok(PrivateTree { root, keeps_atime })
    }
}

/// A copy of the mount that `dir` lies on, rooted at that directory, attached nowhere, cut off from mount
/// propagation, and writable where that mount is. What is opened through it does not keep the host's mount busy.
///
/// # Errors
/// As [`PrivateTree::copy_of`].
pub fn writable_copy_of(dir: impl AsFd) -> Result<OwnedFd> {
    let copy = clone(dir)?;
    set_attributes(copy.as_fd(), 0, 0)?;
    Ok(copy)
}

fn clone(dir: impl AsFd) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(dir, c"", flags)
}

/// Makes a detached mount read-only, nodev and private; `noatime` too on demand.
fn seal(mount: BorrowedFd<'_>, noatime: bool) -> Result<()> {
    let mut attr_set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV;
    let mut attr_clr = 0;
    if noatime {
        attr_set |= libc::MOUNT_ATTR_NOATIME;
        attr_clr |= libc::MOUNT_ATTR__ATIME;
    }
    set_attributes(mount, attr_set, attr_clr)
}

/// Makes a detached mount private, and sets and clears attributes of it (mount_setattr(2)).
fn set_attributes(mount: BorrowedFd<'_>, attr_set: u64, attr_clr: u64) -> Result<()> {
    let attr = libc::mount_attr { attr_set, attr_clr, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    // SAFETY: the descriptor is borrowed for the call, the path is a NUL-terminated constant, and the
    // kernel reads `size_of_val(&attr)` bytes of `attr`, which outlives the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    if ret == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
