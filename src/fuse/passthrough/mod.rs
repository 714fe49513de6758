//! Passthrough: the kernel reads untouched lower files by itself, out of one page cache for all mounts.
//!
//! The kernel wants all opens of an inode to be of one kind at a time: passthrough, or through its
//! page cache. So opens are counted here, per node id. What needs the cache (an open for writing,
//! and every change of the data) while passthrough opens live is answered with ESTALE, and the
//! inode gets a fresh node id under the same inode number: the kernel looks the name up again, finds
//! that id, and asks again. The old id is retired: it serves who has it open with the bytes it had
//! then, and every open and every change through it is ESTALE. What else is asked of it is answered for the
//! inode as it is now, and its attributes are not to be kept: a listing that was on its way may have given
//! the old id to the name once more, until the next open. An inode gets one fresh id at most, as files under
//! such an id are not passed through.

mod nodes;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use rustix::fs::MemfdFlags;

use crate::attr::InodeNo;
use crate::errno::{Errno, Result};
use crate::fuse::init::Negotiated;
use crate::overlay::Overlay;
use crate::sys::fuse_dev::{self, BackingId};

pub use nodes::Nodes;

/// Files known to the kernel at a time; each holds an open file of the host.
const MOST: usize = 4096;

/// While no more than so many are known, those that nobody has open stay known: making one known
/// costs a system call, and most files are opened again.
const MOST_KEPT: usize = 1024;

/// Fresh node ids begin here: beyond all numbers of the upper, below all of layers.
const FRESH: u64 = 1 << 47;

const O_ACCMODE: u32 = libc::O_ACCMODE as u32;

/// Flags of opens that are for writing whatever the access mode says.
const O_TRUNC: u32 = libc::O_TRUNC as u32;

/// Direct I/O, which the layer's file system may not have: passed through only where others are.
const O_DIRECT: u32 = libc::O_DIRECT as u32;

/// How a file was opened. RELEASE brings it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// None where the kernel reads through its page cache.
    pub through: Option<BackingId>,
    /// Which of the times that the inode was open: a RELEASE may come after the FORGET of its inode.
    term: u32,
}

impl Opened {
    /// What the kernel says at RELEASE.
    pub fn handle(self) -> u64 {
        let id = self.through.map_or(0, |BackingId(id)| id.unsigned_abs());
        u64::from(self.term) << 32 | u64::from(id)
    }

    pub fn of_handle(fh: u64) -> Opened {
        let id = i32::try_from(fh & u64::from(u32::MAX)).unwrap_or(0);
        Opened { through: (id > 0).then_some(BackingId(id)), term: (fh >> 32) as u32 }
    }
}

/// The opens of one node id.
#[derive(Debug)]
struct Opens {
    /// Zero where a file is kept for the next open.
    count: u64,
    how: Opened,
}

#[derive(Debug, Default)]
struct Table {
    opens: FxHashMap<InodeNo, Opens>,
    /// How many of `opens` have a file known to the kernel.
    known: usize,
    /// The node id of an inode whose number is retired as one, and back.
    fresh: FxHashMap<InodeNo, InodeNo>,
    numbers: FxHashMap<InodeNo, InodeNo>,
    last_fresh: u64,
    last_term: u32,
    /// Inodes that are being changed by an id of theirs: see [`Files::change`].
    changing: Vec<InodeNo>,
}

impl Table {
    fn begin(&mut self, node: InodeNo, through: Option<BackingId>) -> Opened {
        self.last_term = self.last_term.wrapping_add(1);
        let how = Opened { through, term: self.last_term };
        self.known += usize::from(through.is_some());
        self.opens.insert(node, Opens { count: 1, how });
        how
    }

    fn end(&mut self, node: InodeNo) -> Option<BackingId> {
        let through = self.opens.remove(&node)?.how.through;
        self.known -= usize::from(through.is_some());
        through
    }
}

/// What the kernel has open, and by which node ids.
#[derive(Debug)]
pub struct Files {
    device: Arc<OwnedFd>,
    /// Its lock is taken before the overlay's state, and not held while the host is asked.
    table: Mutex<Table>,
    changed: Condvar,
    /// Whether an inode ever got a fresh node id. Set before anybody can know the id.
    any_fresh: AtomicBool,
}

impl Files {
    /// Whether this connection takes files; if not, why.
    pub fn probe(
        device: &Arc<OwnedFd>,
        agreed: &Negotiated,
    ) -> std::result::Result<Files, &'static str> {
        if !agreed.passthrough() {
            return Err("the kernel has no passthrough (Linux 6.9)");
        }
        let file = rustix::fs::memfd_create(c"overcoat", MemfdFlags::CLOEXEC)
            .map_err(|_| "no file to try passthrough with")?;
        let id = fuse_dev::open_backing(device, file).map_err(|errno| match errno {
            Errno::PERM => "passthrough needs CAP_SYS_ADMIN on the host",
            _ => "the kernel refuses files for passthrough",
        })?;
        let files = Files {
            device: Arc::clone(device),
            table: Mutex::default(),
            changed: Condvar::new(),
            any_fresh: AtomicBool::new(false),
        };
        files.give_back(id);
        Ok(files)
    }

    /// The inode that a node id stands for.
    pub fn number(&self, node: InodeNo) -> InodeNo {
        if node.0 >> FRESH.trailing_zeros() != 1 {
            return node;
        }
        self.table.lock().numbers.get(&node).copied().unwrap_or(node)
    }

    /// The node id that stands for an inode from now on.
    pub fn node_id(&self, ino: InodeNo) -> u64 {
        if !self.any_fresh.load(Ordering::Acquire) {
            return ino.0;
        }
        self.table.lock().fresh.get(&ino).map_or(ino.0, |fresh| fresh.0)
    }

    pub fn is_retired(&self, node: InodeNo) -> bool {
        self.any_fresh.load(Ordering::Acquire) && self.table.lock().fresh.contains_key(&node)
    }

    /// Counts one more open of `node`. ESTALE where it is retired, or has to be for this.
    pub fn open(&self, node: InodeNo, flags: u32, overlay: &Overlay) -> Result<Opened> {
        let reads = flags & (O_ACCMODE | O_TRUNC) == 0;
        // What asks the host comes before the lock.
        let file = if reads { overlay.untouched_file(node) } else { None };
        let mut table = self.settled(node);
        if table.fresh.contains_key(&node) {
            return Err(Errno::STALE);
        }
        // Nobody changes the data before being counted here, or it was so already.
        let file = file.filter(|_| overlay.is_untouched(node));
        if file.is_none() {
            self.drop_kept(&mut table, node);
        }
        match (table.opens.get_mut(&node), &file) {
            (Some(Opens { how: Opened { through: Some(_), .. }, .. }), None) => {
                return Err(self.retire(&mut table, node));
            }
            (Some(opens), _) => {
                opens.count += 1;
                return Ok(opens.how);
            }
            (None, _) => {}
        }
        let file = file.filter(|_| table.known < MOST && flags & O_DIRECT == 0);
        let through = file.as_ref().and_then(|file| self.make_known(file.passthrough_fd()?));
        Ok(table.begin(node, through))
    }

    /// Counts an open that made its inode, or found that somebody had.
    pub fn created(&self, ino: InodeNo) -> Opened {
        let mut table = self.settled(ino);
        self.drop_kept(&mut table, ino);
        let through = table.opens.get(&ino).is_some_and(|opens| opens.how.through.is_some());
        if through && !table.fresh.contains_key(&ino) {
            self.retire(&mut table, ino);
        }
        let node = table.fresh.get(&ino).copied().unwrap_or(ino);
        match table.opens.get_mut(&node) {
            Some(opens) => {
                opens.count += 1;
                opens.how
            }
            None => table.begin(node, None),
        }
    }

    /// Makes a change of `node`: of its data (`of_data`), which opens must not see in part, or of its
    /// attributes. Until the change is made the inode is not opened, nor does it get a fresh id: a look-up
    /// would show the fresh id with attributes from before. Other inodes do not wait: `change` may ask a layer
    /// that does not answer.
    ///
    /// # Errors
    /// `ESTALE` where `node` is retired, or has to be for this; those of `change`.
    pub fn change<T>(
        &self,
        node: InodeNo,
        of_data: bool,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let mut table = self.settled(node);
        if table.fresh.contains_key(&node) {
            return Err(Errno::STALE);
        }
        if of_data {
            self.drop_kept(&mut table, node);
            if table.opens.get(&node).is_some_and(|opens| opens.how.through.is_some()) {
                return Err(self.retire(&mut table, node));
            }
        }
        table.changing.push(node);
        drop(table);
        let done = change();
        self.table.lock().changing.retain(|&changing| changing != node);
        self.changed.notify_all();
        done
    }

    /// The table, while `node` is not being changed.
    fn settled(&self, node: InodeNo) -> MutexGuard<'_, Table> {
        let mut table = self.table.lock();
        while table.changing.contains(&node) {
            self.changed.wait(&mut table);
        }
        table
    }

    fn retire(&self, table: &mut Table, ino: InodeNo) -> Errno {
        self.any_fresh.store(true, Ordering::Release);
        table.last_fresh += 1;
        let fresh = InodeNo(FRESH + table.last_fresh);
        table.fresh.insert(ino, fresh);
        table.numbers.insert(fresh, ino);
        tracing::debug!(ino = ino.0, node = fresh.0, "a file gets a fresh node id");
        Errno::STALE
    }

    /// The end of one open. False where the inode has been forgotten since, and the open with it.
    pub fn release(&self, node: InodeNo, opened: Opened) -> bool {
        let mut table = self.table.lock();
        let Some(opens) = table.opens.get_mut(&node).filter(|opens| opens.how == opened) else {
            return false;
        };
        opens.count = opens.count.saturating_sub(1);
        if opens.count == 0 {
            let keep = opened.through.is_some()
                && table.known <= MOST_KEPT
                && !table.fresh.contains_key(&node);
            if !keep {
                self.drop_kept(&mut table, node);
            }
        }
        true
    }

    /// Ends what is counted of `node` if nobody has it open.
    fn drop_kept(&self, table: &mut Table, node: InodeNo) {
        if table.opens.get(&node).is_some_and(|opens| opens.count == 0) {
            self.drop_all(table, node);
        }
    }

    fn drop_all(&self, table: &mut Table, node: InodeNo) {
        if let Some(id) = table.end(node) {
            self.give_back(id);
        }
    }

    fn make_known(&self, file: BorrowedFd<'_>) -> Option<BackingId> {
        fuse_dev::open_backing(&self.device, file)
            .inspect_err(|errno| tracing::debug!(%errno, "a file is not passed through"))
            .ok()
    }

    /// Drops the opens of an inode if the kernel knows it no more: `gone` is asked under the lock. The
    /// RELEASE of what was open may still be on its way by another worker, or, of an open that was
    /// interrupted, never come. A fresh node id stays with its inode: who was sent to look the
    /// name up again, and let go of the inode for it, must not find readers at the old id once more.
    pub fn forget_if(&self, ino: InodeNo, gone: impl FnOnce() -> bool) {
        let mut table = self.table.lock();
        if !gone() {
            return;
        }
        self.drop_all(&mut table, ino);
        if let Some(&fresh) = table.fresh.get(&ino) {
            self.drop_all(&mut table, fresh);
        }
    }

    fn give_back(&self, id: BackingId) {
        match fuse_dev::close_backing(&self.device, id) {
            Ok(()) => {}
            // The connection is gone, and with it its files.
            Err(Errno::PERM | Errno::NOTCONN | Errno::NODEV) => {}
            Err(errno) => tracing::warn!(id = id.0, %errno, "a backing file was not given back"),
        }
    }
}
