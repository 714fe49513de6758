//! Who has files open for writing: the kernel's cache may hold data of those, and of no others.

use super::Overlay;
use crate::attr::InodeNo;
use std::sync::atomic::Ordering;

const O_ACCMODE: u32 = libc::O_ACCMODE as u32;

fn writes(flags: u32) -> bool {
    flags & O_ACCMODE != libc::O_RDONLY as u32
}

impl Overlay {
    /// A descriptor with these flags came to be; [`Overlay::release`] ends it.
    pub(super) fn count_writer(&self, ino: InodeNo, flags: u32) {
        if !writes(flags) {
            return;
        }
        if let Some(node) = self.state.read().nodes.get(&ino) {
            node.writers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The last user of a descriptor, mappings included, is gone, and has written what it had.
    pub fn release(&self, ino: InodeNo, flags: u32) {
        if !writes(flags) {
            return;
        }
        if let Some(node) = self.state.read().nodes.get(&ino) {
            let one_less = |writers: u32| writers.checked_sub(1);
            if node.writers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
                tracing::debug!(ino = ino.0, "more writers ended than began");
            }
        }
    }

    /// Whether somebody has the file open for writing.
    pub fn has_writers(&self, ino: InodeNo) -> bool {
        let st = self.state.read();
        st.nodes.get(&ino).is_some_and(|node| node.writers.load(Ordering::Relaxed) > 0)
    }
}
