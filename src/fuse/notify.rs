//! What the daemon tells the kernel unasked: that something it caches is no longer so.

use std::io::IoSlice;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use zerocopy::IntoBytes;

use crate::attr::InodeNo;
use crate::errno::{Errno, Result};
use crate::fuse::abi;

/// Sends notifications. They travel over the device whatever the requests' transport is.
#[derive(Clone, Debug)]
pub struct Notifier {
    device: Arc<OwnedFd>,
}

impl Notifier {
    pub fn new(device: Arc<OwnedFd>) -> Notifier {
        Notifier { device }
    }

    /// The kernel asks for the attributes of `ino` before it uses them again. Waits for nobody, so
    /// that it may precede the reply to any request.
    pub fn attributes_changed(&self, ino: InodeNo) {
        self.tell(abi::NotifyInvalInode { ino: ino.0, offset: -1, len: 0 });
    }

    /// The kernel writes out the pages of `ino` that it holds back, and forgets the others. Returns
    /// when the WRITEs have been answered, so somebody else must be there to serve them.
    pub fn write_back(&self, ino: InodeNo) {
        self.tell(abi::NotifyInvalInode { ino: ino.0, offset: 0, len: 0 });
    }

    fn tell(&self, what: abi::NotifyInvalInode) {
        match self.send(&what) {
            // It does not know the inode (any more), or the connection ended.
            Ok(()) | Err(Errno::NOENT | Errno::NODEV | Errno::NOTCONN) => {}
            // Pages that somebody dirtied meanwhile stay.
            Err(Errno::BUSY) => tracing::debug!(ino = what.ino, "pages stay"),
            Err(errno) => tracing::error!(ino = what.ino, %errno, "the kernel took no notice"),
        }
    }

    fn send(&self, what: &abi::NotifyInvalInode) -> Result<()> {
        let len = size_of::<abi::OutHeader>() + size_of_val(what);
        let header = abi::OutHeader { len: len as u32, error: abi::NOTIFY_INVAL_INODE, unique: 0 };
        let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(what.as_bytes())];
        rustix::io::retry_on_intr(|| rustix::io::writev(self.device.as_fd(), &parts)).map(drop)
    }
}
