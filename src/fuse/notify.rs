//! What the daemon tells the kernel unasked: that something it caches is no longer so.

use std::io::IoSlice;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use zerocopy::IntoBytes;

use crate::attr::InodeNo;
use crate::errno::{Errno, Result};
use crate::fuse::abi;
use crate::metrics::{Counter, Metrics};

/// Sends notifications. They travel over the device whatever the requests' transport is.
#[derive(Clone)]
pub struct Notifier {
    device: Arc<OwnedFd>,
    metrics: Arc<Metrics>,
}

impl Notifier {
    pub fn new(device: Arc<OwnedFd>, metrics: Arc<Metrics>) -> Notifier {
        Notifier { device, metrics }
    }

    /// The kernel asks for the attributes of `ino` before it uses them again. Waits for nobody, so
    /// that it may precede the reply to any request.
    pub fn attributes_changed(&self, ino: InodeNo) {
        self.tell(abi::NotifyInvalInode { ino: ino.0, offset: -1, len: 0 });
    }

    /// Has the kernel write out the pages of `ino` that it holds back. Returns when all pages that were
    /// dirty have been written; the others are forgotten. The WRITEs are requests like any other, so no
    /// thread that serves requests may call this.
    pub fn write_back(&self, ino: InodeNo) {
        self.tell(abi::NotifyInvalInode { ino: ino.0, offset: 0, len: 0 });
    }

    /// The kernel looks `name` in `parent` up before it uses the name again. Waits for whoever changes the directory, so
    /// no thread that serves requests may call this.
    pub fn entry_changed(&self, parent: InodeNo, name: &[u8]) {
        self.metrics.add(Counter::Invalidations, 1);
        let what = abi::NotifyInvalEntry { parent: parent.0, namelen: name.len() as u32, flags: 0 };
        match self.send(abi::NOTIFY_INVAL_ENTRY, &[what.as_bytes(), name, b"\0"]) {
            // It does not know the name (any more), or the connection ended.
            Ok(()) | Err(Errno::NOENT | Errno::NODEV | Errno::NOTCONN) => {}
            Err(errno) => tracing::debug!(parent = parent.0, %errno, "a name stays"),
        }
    }

    fn tell(&self, what: abi::NotifyInvalInode) {
        self.metrics.add(Counter::Invalidations, 1);
        match self.send(abi::NOTIFY_INVAL_INODE, &[what.as_bytes()]) {
            // It does not know the inode (any more), or the connection ended.
            Ok(()) | Err(Errno::NOENT | Errno::NODEV | Errno::NOTCONN) => {}
            // Pages that somebody dirtied meanwhile stay.
            Err(Errno::BUSY) => tracing::debug!(ino = what.ino, "pages stay"),
            Err(errno) => tracing::error!(ino = what.ino, %errno, "the kernel took no notice"),
        }
    }

    /// `code`: `NOTIFY_*`.
    fn send(&self, code: i32, what: &[&[u8]]) -> Result<()> {
        let len = size_of::<abi::OutHeader>() + what.iter().map(|part| part.len()).sum::<usize>();
        let header = abi::OutHeader { len: len as u32, error: code, unique: 0 };
        let mut parts: SmallVec<[IoSlice<'_>; 4]> = smallvec![IoSlice::new(header.as_bytes())];
        parts.extend(what.iter().map(|part| IoSlice::new(part)));
        rustix::io::retry_on_intr(|| rustix::io::writev(self.device.as_fd(), &parts)).map(drop)
    }
}
