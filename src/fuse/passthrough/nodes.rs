//! Node ids with and without passthrough. Without it a node id is the inode's number.

use crate::attr::InodeNo;
use crate::errno::{Errno, Result};
use crate::fuse::notify::Notifier;
use crate::fuse::passthrough::{Files, Opened};
use crate::overlay::Overlay;

/// Which inode a node id stands for, and what the kernel has open.
pub struct Nodes {
    /// `None` without passthrough.
    files: Option<Files>,
    notifier: Notifier,
}

impl Nodes {
    pub fn new(files: Option<Files>, notifier: Notifier) -> Nodes {
        Nodes { files, notifier }
    }

    /// The inode that a node id stands for.
    pub fn number(&self, node: InodeNo) -> InodeNo {
        self.files.as_ref().map_or(node, |files| files.number(node))
    }

    /// The node id that stands for an inode from now on.
    pub fn node_id(&self, ino: InodeNo) -> u64 {
        self.files.as_ref().map_or(ino.0, |files| files.node_id(ino))
    }

    /// Whether the inode got a fresh node id.
    pub fn is_retired(&self, node: InodeNo) -> bool {
        self.files.as_ref().is_some_and(|files| files.is_retired(node))
    }

    /// Makes a change that is asked for by a node id: see [`Files::change`].
    pub fn change<T>(
        &self,
        node: InodeNo,
        of_data: bool,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        match &self.files {
            Some(files) => self.drop_retired(node, files.change(node, of_data, change)),
            None => change(),
        }
    }

    /// Counts one more open of `node`: see [`Files::open`].
    pub fn open(&self, node: InodeNo, flags: u32, overlay: &Overlay) -> Result<Opened> {
        match &self.files {
            Some(files) => self.drop_retired(node, files.open(node, flags, overlay)),
            None => Ok(Opened::default()),
        }
    }

    /// Counts an open that made its inode, or found it made.
    pub fn created(&self, ino: InodeNo) -> Opened {
        self.files.as_ref().map_or_else(Opened::default, |files| files.created(ino))
    }

    /// The end of one open. False where the inode has been forgotten since, and the open with it.
    pub fn release(&self, node: InodeNo, opened: Opened) -> bool {
        self.files.as_ref().is_none_or(|files| files.release(node, opened))
    }

    /// The kernel drops `count` lookups of `node`.
    pub fn forget(&self, node: InodeNo, count: u64, overlay: &Overlay) {
        let ino = self.number(node);
        overlay.forget(ino, count);
        if let Some(files) = &self.files {
            files.forget_if(ino, || !overlay.knows(ino));
        }
    }

    /// The kernel is to drop what it caches of a retired id.
    fn drop_retired<T>(&self, node: InodeNo, done: Result<T>) -> Result<T> {
        if done.as_ref().is_err_and(|err| *err == Errno::STALE) {
            self.notifier.attributes_changed(node);
        }
        done
    }
}
