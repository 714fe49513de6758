//! What the daemon tells the kernel unasked: that something it caches is no longer so.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, mpsc};

use zerocopy::IntoBytes;

use crate::attr::InodeNo;
use crate::errno::{Errno, Result};
use crate::fuse::abi;

/// Sends notifications. They travel over the device whatever the requests' transport is.
#[derive(Clone, Debug)]
pub struct Notifier {
    sender: Sender,
    jobs: mpsc::Sender<(InodeNo, Job)>,
}

/// What is to be done after a write-back.
type Job = Box<dyn FnOnce() + Send>;

#[derive(Clone, Debug)]
struct Sender {
    device: Arc<OwnedFd>,
}

impl Notifier {
    /// Starts the thread that waits for write-backs, which ends with the last clone of the
    /// `Notifier`.
    pub fn start(device: Arc<OwnedFd>) -> io::Result<Notifier> {
        let sender = Sender { device };
        let (jobs, work) = mpsc::channel::<(InodeNo, Job)>();
        let writer = sender.clone();
        std::thread::Builder::new().name("write-back".to_owned()).spawn(move || {
            for (ino, job) in work {
                writer.write_back(ino);
                job();
            }
        })?;
        Ok(Notifier { sender, jobs })
    }

    /// The kernel asks for the attributes of `ino` before it uses them again. Waits for nobody, so
    /// that it may precede the reply to any request.
    pub fn attributes_changed(&self, ino: InodeNo) {
        self.sender.tell(abi::NotifyInvalInode { ino: ino.0, offset: -1, len: 0 });
    }

    /// Has the kernel write out the pages of `ino` that it holds back, and then runs `job`. One
    /// after another, in a thread of their own: the WRITEs need those who serve requests.
    pub fn after_write_back(&self, ino: InodeNo, job: Job) {
        if self.jobs.send((ino, job)).is_err() {
            tracing::error!("a request is lost: nobody waits for write-backs");
        }
    }
}

impl Sender {
    /// Returns when all pages that were dirty have been written; the others are forgotten.
    fn write_back(&self, ino: InodeNo) {
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
