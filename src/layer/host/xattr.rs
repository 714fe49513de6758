//! Extended attributes of an open object: from the descriptor, or through `/proc/self/fd` where it
//! was opened with `O_PATH` only (symbolic links, devices). Either way the object that was checked is
//! the one that is read.

use crate::errno::{Errno, Result};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{
    fgetxattr, fgetxattr_query, flistxattr, flistxattr_query, getxattr, getxattr_query, listxattr,
    listxattr_query,
};

/// What the first attempt has room for; most lists are empty.
const FIRST_TRY: usize = 512;
/// The object may be given longer attributes between the asking for a length and the reading.
const ATTEMPTS: usize = 8;

/// The path by which an open object is reached again.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The names of all attributes, each terminated by NUL. Empty where the host lists none.
pub(super) fn list(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    match read(|buf| flistxattr(fd, buf), || flistxattr_query(fd)) {
        Err(Errno::BADF) => list_by_path(fd),
        Err(Errno::NOTSUP) => Ok(Vec::new()),
        names => names,
    }
}

/// The same of an object that is known to be open with `O_PATH` only.
pub(super) fn list_by_path(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let path = proc_path(fd);
    match read(|buf| listxattr(&path, buf), || listxattr_query(&path)) {
        Err(Errno::NOTSUP) => Ok(Vec::new()),
        names => names,
    }
}

/// The value of attribute `name`.
///
/// # Errors
/// `ENODATA` where there is none.
pub(super) fn get(fd: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    match read(|buf| fgetxattr(fd, name, buf), || fgetxattr_query(fd, name)) {
        Err(Errno::BADF) => get_by_path(fd, name),
        Err(Errno::NOTSUP) => Err(Errno::NODATA),
        value => value,
    }
}

/// The same of an object that is known to be open with `O_PATH` only.
///
/// # Errors
/// As [`get`].
pub(super) fn get_by_path(fd: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    let path = proc_path(fd);
    match read(|buf| getxattr(&path, name, buf), || getxattr_query(&path, name)) {
        Err(Errno::NOTSUP) => Err(Errno::NODATA),
        value => value,
    }
}

fn read(
    fill: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    query: impl Fn() -> rustix::io::Result<usize>,
) -> Result<Vec<u8>> {
    super::super::host_calls::check();
    let mut first = [0; FIRST_TRY];
    match fill(&mut first) {
        Ok(len) => return Ok(first[..len].to_vec()),
        Err(Errno::RANGE) => {}
        Err(e) => return Err(e),
    }
    for _ in 0..ATTEMPTS {
        // At least one byte: an empty buffer would ask for the length.
        let mut buf = vec![0; query()?.max(1)];
        match fill(&mut buf) {
            Ok(len) => {
                buf.truncate(len);
                return Ok(buf);
            }
            Err(Errno::RANGE) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Errno::RANGE)
}
