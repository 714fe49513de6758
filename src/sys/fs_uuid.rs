//! The UUID of a mounted file system.

use std::os::fd::{AsFd, AsRawFd};

use crate::errno::Result;

/// `_IOR(0x15, 0, struct fsuuid2)`: `FS_IOC_GETFSUUID` of the kernel's include/uapi/linux/fs.h.
const FS_IOC_GETFSUUID: libc::c_ulong = 0x8011_1500;

/// `struct fsuuid2`.
#[repr(C)]
struct FsUuid2 {
    len: u8,
    uuid: [u8; 16],
}

/// The UUID of the file system that `file` lies on; `file` may not be open with `O_PATH` only. A UUID shorter
/// than 16 bytes is filled up with zeros.
///
/// # Errors
/// `ENOTTY` where the file system has no UUID, and before Linux 6.9.
pub fn fs_uuid(file: impl AsFd) -> Result<[u8; 16]> {
    let mut answer = FsUuid2 { len: 0, uuid: [0; 16] };
    // SAFETY: the descriptor is borrowed for the call, and the kernel writes no more than the 17 bytes of
    // `struct fsuuid2`, which `answer` has and which outlive the call.
    let done =
        unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_GETFSUUID as _, &raw mut answer) };
    if done != 0 {
        return Err(crate::errno::of_io(&std::io::Error::last_os_error()));
    }
    let len = usize::from(answer.len).min(answer.uuid.len());
    answer.uuid[len..].fill(0);
    Ok(answer.uuid)
}
