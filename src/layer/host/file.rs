//! An open regular file of the host.

use super::super::host_calls;
use super::super::source::{LowerFile, Want};
use crate::errno::{Errno, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{SeekFrom, seek};

/// Open for reading; reading it changes no access time where the layer says so.
#[derive(Debug)]
pub(super) struct HostFile {
    pub fd: OwnedFd,
    pub may_block: bool,
    /// Whoever reads through the descriptor, no access time changes.
    pub keeps_atime: bool,
}

impl Drop for HostFile {
    fn drop(&mut self) {
        // The last close of a file on FUSE or NFS waits for its server.
        host_calls::check();
    }
}

impl LowerFile for HostFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        host_calls::check();
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&self.fd, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(done)
    }

    fn seek(&self, want: Want, offset: u64) -> Result<Option<u64>> {
        host_calls::check();
        let from = match want {
            Want::Data => SeekFrom::Data(offset),
            Want::Hole => SeekFrom::Hole(offset),
        };
        match (seek(&self.fd, from), want) {
            (Ok(found), _) => Ok(Some(found)),
            (Err(Errno::NXIO), _) | (Err(Errno::INVAL), Want::Hole) => Ok(None),
            // The file system does not tell.
            (Err(Errno::INVAL), Want::Data) => Ok(Some(offset)),
            (Err(err), _) => Err(err),
        }
    }

    fn passthrough_fd(&self) -> Option<BorrowedFd<'_>> {
        self.keeps_atime.then(|| self.fd.as_fd())
    }

    fn may_block(&self) -> bool {
        self.may_block
    }
}
