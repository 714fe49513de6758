//! Mounting and unmounting: the system calls, and receiving a descriptor from a mount helper.

use std::ffi::{CStr, OsStr};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};

use crate::errno::{Errno, Result};

/// mount(2).
pub fn mount(
    source: &OsStr,
    target: &Path,
    kind: &str,
    flags: MountFlags,
    data: &CStr,
) -> Result<()> {
    rustix::mount::mount(source, target, kind, flags, data)
}

/// Detaches what is mounted at `target`: it disappears from the tree at once and ends when its last
/// user leaves. A symlink at `target` is not followed.
pub fn detach(target: &Path) -> Result<()> {
    rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
}

/// As [`detach`]; before, requests that wait for the file system's daemon fail, and later ones do at once
/// (`umount_begin` of the file system, fs/fuse/inode.c). `EPERM` without CAP_SYS_ADMIN.
pub fn detach_by_force(target: &Path) -> Result<()> {
    let flags = UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    rustix::mount::unmount(target, flags)
}

/// Which mount it is that a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Major and minor number, which later mounts may get again.
    pub device: (u32, u32),
    /// Never used again (Linux 6.8); before, a number that may be; 0 before Linux 5.8.
    pub mount: u64,
}

/// Which mount `path` lies on. Asks the file system nothing, so that its own daemon may call it.
pub fn identity(path: &Path) -> Result<Identity> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    let wanted = StatxFlags::MNT_ID.union(MNT_ID_UNIQUE);
    let stat = rustix::fs::statx(CWD, path, flags, wanted)?;
    Ok(Identity { device: (stat.stx_dev_major, stat.stx_dev_minor), mount: stat.stx_mnt_id })
}

/// STATX_MNT_ID_UNIQUE.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// Two connected stream sockets, closed on exec.
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Receives a message's descriptor. `EPROTO` where the peer closed or sent none.
pub fn receive_descriptor(socket: impl AsFd) -> Result<OwnedFd> {
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut data = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let rights = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    rights.ok_or(Errno::PROTO)
}
