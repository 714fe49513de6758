//! What an operation may wait for: a layer that does not answer, and space that is freed when the kernel forgets an
//! unlinked inode. The threads that serve requests ask here first, and hand such an operation over to a spare thread.

use super::Overlay;
use super::state::State;
use crate::attr::{InodeNo, LayerId};
use crate::errno::Errno;
use crate::upper::Dentry;
use parking_lot::{Condvar, Mutex};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

/// For how long after an unlink the kernel may still be about to forget the inode.
const FORGET_LIMIT: Duration = Duration::from_millis(24);

/// Room that comes when the kernel forgets an unlinked inode. The lock is a leaf.
#[derive(Debug, Default)]
pub(super) struct Room {
    events: Mutex<Events>,
    dropped: Condvar,
}

#[derive(Debug, Default)]
struct Events {
    /// When an inode lost its last name.
    unlinked: Option<Instant>,
    /// How many unlinked inodes were dropped.
    drops: u64,
}

impl Room {
    /// An inode lost its last name. The kernel forgets it soon, unless it is open.
    pub fn note_unlinked(&self) {
        self.events.lock().unlinked = Some(Instant::now());
    }

    /// An unlinked inode was dropped.
    pub fn note_dropped(&self) {
        self.events.lock().drops += 1;
        self.dropped.notify_all();
    }
}

/// A wait for room, begun before the operation that may find none.
pub struct RoomWait<'a> {
    overlay: &'a Overlay,
    /// Others may unlink again and again.
    end: Instant,
    drops: u64,
}

impl RoomWait<'_> {
    /// Waits until the kernel forgets an unlinked inode, and is true then, or at once if it did since the last
    /// wait. False when it has become unlikely that it does.
    pub fn wait(&mut self) -> bool {
        let is_pending = self.overlay.state.read().tree.unlinked() > 0;
        let room = &self.overlay.room;
        let mut events = room.events.lock();
        let unlinked = events.unlinked.filter(|_| is_pending);
        let deadline = unlinked.map_or(self.end, |unlinked| self.end.min(unlinked + FORGET_LIMIT));
        while events.drops == self.drops {
            if unlinked.is_none() || room.dropped.wait_until(&mut events, deadline).timed_out() {
                return false;
            }
        }
        self.drops = events.drops;
        true
    }
}

impl Overlay {
    /// Whether a layer lies on a file system that may not answer for long (FUSE, a network).
    pub fn has_blocking_layer(&self) -> bool {
        self.stack.any_may_block()
    }

    /// Whether an operation on `ino` may ask such a layer. Asks none.
    pub fn may_wait_for_layer(&self, ino: InodeNo) -> bool {
        self.has_blocking_layer() && self.lies_in_blocking_layer(&self.state.read(), ino)
    }

    /// Whether an operation on `name` in `parent` may ask such a layer. Asks none.
    pub fn may_wait_for_layer_at(&self, parent: InodeNo, name: &OsStr) -> bool {
        if !self.has_blocking_layer() {
            return false;
        }
        let st = self.state.read();
        self.lies_in_blocking_layer(&st, parent)
            || match st.tree.dentry(parent, name.as_bytes()) {
                Some(Dentry::Inode { ino, .. }) => self.lies_in_blocking_layer(&st, ino),
                _ => false,
            }
    }

    fn lies_in_blocking_layer(&self, st: &State, ino: InodeNo) -> bool {
        let blocks = |layer: LayerId| self.stack.may_block(layer);
        let lower = st.nodes.get(&ino).and_then(|node| node.lower.as_deref());
        let is_below = lower.is_some_and(|lower| {
            let dirs = lower.dir.as_ref().map(|dir| &*dir.dirs).unwrap_or_default();
            blocks(lower.at.layer) || dirs.iter().any(|dir| blocks(dir.layer))
        });
        // Where the origin's layer is not one of today's, others are asked for the file.
        let origin = st.tree.get(ino).and_then(|inode| inode.file()).and_then(|(_, origin)| origin);
        let is_origin =
            origin.is_some_and(|origin| self.layers.place(origin.image.layer).is_none_or(blocks));
        is_below || is_origin || self.ancestor_blocks(st, ino)
    }

    /// Whether a directory that would have to be copied up with `ino` has its attributes from such a layer.
    fn ancestor_blocks(&self, st: &State, ino: InodeNo) -> bool {
        let mut at = ino;
        while !st.tree.contains(at) {
            let Some(node) = st.nodes.get(&at) else { return false };
            if node.lower.as_deref().is_some_and(|lower| self.stack.may_block(lower.at.layer)) {
                return true;
            }
            if node.parent == at {
                return false;
            }
            at = node.parent;
        }
        false
    }

    /// Whether an operation that failed with `errno` may succeed in a moment: there is no room, and an inode was
    /// unlinked so recently that the kernel may be about to forget it, or did just now.
    pub fn room_may_come(&self, errno: Errno) -> bool {
        let is_recent = |unlinked: Instant| unlinked.elapsed() < FORGET_LIMIT;
        errno == Errno::NOSPC && self.room.events.lock().unlinked.is_some_and(is_recent)
    }

    /// A wait for room, to be begun before the operation.
    pub fn room_wait(&self) -> RoomWait<'_> {
        let drops = self.room.events.lock().drops;
        RoomWait { overlay: self, end: Instant::now() + FORGET_LIMIT, drops }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::Caller;
    use crate::config::{Config, Durability, IdMap, Medium};

    fn full_overlay(dir: &std::path::Path) -> std::sync::Arc<Overlay> {
        let (lower, upper) = (dir.join("lower"), dir.join("upper"));
        std::fs::create_dir(&lower).unwrap();
        std::fs::create_dir(&upper).unwrap();
        let config = Config {
            lowers: vec![lower],
            upper: Some(upper),
            medium: Medium::OwnFile,
            size_limit: None,
            inode_limit: Some(3),
            durability: Durability::Volatile,
            idmap: IdMap::default(),
        };
        Overlay::new(&config).unwrap()
    }

    fn make(overlay: &Overlay, name: &str) -> crate::errno::Result<InodeNo> {
        let caller = Caller { uid: 0, gid: 0, pid: 0 };
        let made = overlay.mkdir(InodeNo::ROOT, OsStr::new(name), 0o755, 0, &caller);
        made.map(|entry| entry.attr.ino)
    }

    #[test]
    fn room_comes_when_the_kernel_forgets() {
        let dir = tempfile::tempdir().unwrap();
        let overlay = full_overlay(dir.path());
        let first = make(&overlay, "a").unwrap();
        make(&overlay, "b").unwrap();
        assert_eq!(make(&overlay, "c"), Err(Errno::NOSPC));
        assert!(!overlay.room_may_come(Errno::NOSPC), "nothing was unlinked");
        assert!(!overlay.room_wait().wait());
        let mut wait = overlay.room_wait();
        overlay.rmdir(InodeNo::ROOT, OsStr::new("a")).unwrap();
        assert_eq!(make(&overlay, "c"), Err(Errno::NOSPC), "the kernel knows it still");
        overlay.forget(first, 1);
        assert!(wait.wait(), "at once, however late it is");
        assert!(!wait.wait(), "nothing else is unlinked");
        make(&overlay, "c").unwrap();
        overlay.destroy();
    }

    #[test]
    fn what_stays_open_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let overlay = full_overlay(dir.path());
        make(&overlay, "a").unwrap();
        let begin = Instant::now();
        overlay.rmdir(InodeNo::ROOT, OsStr::new("a")).unwrap();
        assert!(overlay.room_may_come(Errno::NOSPC) || begin.elapsed() >= FORGET_LIMIT);
        assert!(!overlay.room_may_come(Errno::IO));
        assert!(!overlay.room_wait().wait());
        assert!(begin.elapsed() >= FORGET_LIMIT, "it might have been forgotten");
        assert!(!overlay.room_may_come(Errno::NOSPC));
        overlay.destroy();
    }
}
