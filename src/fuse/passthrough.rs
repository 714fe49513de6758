//! Passthrough: the kernel reads untouched lower files by itself, out of one page cache for all mounts.
//!
//! The kernel wants all opens of an inode to be of one kind at a time: passthrough, or through its
//! page cache. So opens are counted here, per node id. What needs the cache (an open for writing,
//! and every change of the data) while passthrough opens live is answered with ESTALE, and the
//! inode gets a fresh node id under the same inode number: the kernel looks the name up again, finds
//! that id, and asks again. The old id is retired: it serves who has it open with the bytes it had
//! then, and every open and every change through it is ESTALE. An inode gets one fresh id at most,
//! as files under such an id are not passed through.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustix::fs::MemfdFlags;

use crate::attr::InodeNo;
use crate::errno::{Errno, Result};
use crate::fuse::init::Negotiated;
use crate::overlay::Overlay;
use crate::sys::fuse_dev::{self, BackingId};

/// Files known to the kernel at a time; each holds an open file of the host.
const MOST: usize = 4096;

/// While no more than so many are known, those that nobody has open stay known: making one known
/// costs a system call, and most files are opened again.
const MOST_KEPT: usize = 1024;

/// Fresh node ids begin here: beyond all numbers of the upper, below all of layers.
const FRESH: u64 = 1 << 47;

const O_ACCMODE: u32 = libc::O_ACCMODE as u32;

/// Opens that are not passed through: those that write, and direct I/O, which the layer's file system may
/// not have.
const NOT_THROUGH: u32 = (libc::O_TRUNC | libc::O_DIRECT | libc::O_APPEND) as u32;

/// How a file was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    Cached,
    Through(BackingId),
}

impl Opened {
    /// What the kernel says at RELEASE.
    pub fn handle(self) -> u64 {
        match self {
            Opened::Cached => 0,
            Opened::Through(BackingId(id)) => u64::from(id.unsigned_abs()),
        }
    }

    pub fn of_handle(fh: u64) -> Opened {
        match i32::try_from(fh) {
            Ok(id) if id > 0 => Opened::Through(BackingId(id)),
            _ => Opened::Cached,
        }
    }
}

/// The opens of one node id.
#[derive(Debug)]
enum Opens {
    Cached(u64),
    /// None, where the file is kept for the next open.
    Through(u64, BackingId),
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
}

/// What the kernel has open, and by which node ids.
#[derive(Debug)]
pub struct Files {
    device: Arc<OwnedFd>,
    /// Its lock is taken before the overlay's state.
    table: Mutex<Table>,
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
        let reads = flags & (O_ACCMODE | NOT_THROUGH) == 0;
        // What asks the host comes before the lock.
        let file = if reads { overlay.untouched_file(node) } else { None };
        let mut table = self.table.lock();
        if table.fresh.contains_key(&node) {
            return Err(Errno::STALE);
        }
        // Nobody changes the data before being counted here, or it was so already.
        let file = file.filter(|_| overlay.is_untouched(node));
        if file.is_none() {
            self.drop_kept(&mut table, node);
        }
        let room = table.known < MOST;
        match (table.opens.get_mut(&node), file) {
            (Some(Opens::Cached(count)), _) => *count += 1,
            (Some(Opens::Through(count, id)), Some(_)) => {
                *count += 1;
                return Ok(Opened::Through(*id));
            }
            (Some(Opens::Through(..)), None) => return Err(self.retire(&mut table, node)),
            (None, Some(file)) if room => match self.make_known(&file) {
                Some(id) => {
                    table.opens.insert(node, Opens::Through(1, id));
                    table.known += 1;
                    return Ok(Opened::Through(id));
                }
                None => drop(table.opens.insert(node, Opens::Cached(1))),
            },
            (None, _) => drop(table.opens.insert(node, Opens::Cached(1))),
        }
        Ok(Opened::Cached)
    }

    /// Counts an open that made its inode, or found that somebody had.
    pub fn created(&self, ino: InodeNo) {
        let mut table = self.table.lock();
        self.drop_kept(&mut table, ino);
        if let Some(Opens::Through(..)) = table.opens.get(&ino)
            && !table.fresh.contains_key(&ino)
        {
            self.retire(&mut table, ino);
        }
        let node = table.fresh.get(&ino).copied().unwrap_or(ino);
        if let Opens::Cached(count) = table.opens.entry(node).or_insert(Opens::Cached(0)) {
            *count += 1;
        }
    }

    /// Before `node` changes in a way that who has it open must not see in part.
    pub fn make_way(&self, node: InodeNo) -> Result<()> {
        let mut table = self.table.lock();
        if table.fresh.contains_key(&node) {
            return Err(Errno::STALE);
        }
        self.drop_kept(&mut table, node);
        match table.opens.get(&node) {
            Some(Opens::Through(..)) => Err(self.retire(&mut table, node)),
            _ => Ok(()),
        }
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

    /// The end of one open.
    pub fn release(&self, node: InodeNo, opened: Opened) {
        let mut table = self.table.lock();
        let (count, id) = match (table.opens.get_mut(&node), opened) {
            (Some(Opens::Cached(count)), Opened::Cached) => (count, None),
            (Some(Opens::Through(count, id)), Opened::Through(_)) => {
                let id = *id;
                (count, Some(id))
            }
            _ => return tracing::error!(node = node.0, ?opened, "RELEASE of what is not open"),
        };
        *count -= 1;
        match (*count, id) {
            (0, None) => drop(table.opens.remove(&node)),
            (0, Some(_)) if table.known > MOST_KEPT || table.fresh.contains_key(&node) => {
                self.drop_kept(&mut table, node);
            }
            _ => {}
        }
    }

    /// Gives back the file of `node` if nobody has it open.
    fn drop_kept(&self, table: &mut Table, node: InodeNo) {
        if let Some(&Opens::Through(0, id)) = table.opens.get(&node) {
            table.opens.remove(&node);
            table.known -= 1;
            self.give_back(id);
        }
    }

    fn make_known(&self, file: &OwnedFd) -> Option<BackingId> {
        fuse_dev::open_backing(&self.device, file)
            .inspect_err(|errno| tracing::debug!(%errno, "a file is not passed through"))
            .ok()
    }

    /// Drops what is kept of an inode if the kernel knows it no more: `gone` is asked under the lock.
    /// Opens stay counted, as their RELEASE may be on its way by another worker. (One that
    /// is interrupted is never released; it costs its inode the fastest kind of open, no more.)
    pub fn forget_if(&self, ino: InodeNo, gone: impl FnOnce() -> bool) {
        let mut table = self.table.lock();
        if !gone() {
            return;
        }
        self.drop_kept(&mut table, ino);
        if let Some(fresh) = table.fresh.remove(&ino) {
            table.numbers.remove(&fresh);
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
