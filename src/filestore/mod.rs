//! One sparse host file, handed out in blocks of 4 KiB. Knows no inode and no journal.
//!
//! All bytes, read or written, go through the I/O gate ([`Filestore::gate`]). Block numbers come from a map that a
//! lock protects (the overlay's state lock); the gate is entered while that lock is held, and left when the
//! I/O has ended. Blocks that no map names yet belong to whoever allocated them: the gate is entered
//! without a lock then. Freed blocks are given back to the host, and become free, only after the
//! I/O that began before the free has ended (see `space` for a block's life).
//!
//! Lock order: reclaim → allocator → hook. Neither is held while the caller's locks are taken, except that
//! the sync hook runs on the reclaimer's thread with no lock held. [`Filestore::alloc`] and
//! [`Filestore::reclaim_now`] may wait for I/O under way, so whoever calls them must not be in the
//! gate (debug builds check it).

mod allocator;
mod backing;
mod extent;
#[cfg(test)]
pub mod faulty;
mod flush;
mod gate;
mod io;
mod medium;
mod reclaim;
mod space;
mod wait;

use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use crate::block::{BLOCK_SIZE, StoreBlock, StoreOffset, blocks_for};
use crate::errno::Result;
use crate::sys::map::{Flusher, Window};

pub use allocator::{Extents, MAX_BLOCKS};
pub use backing::{Backing, HostFile};
pub use extent::Extent;
pub use io::Io;
pub use medium::{Access, Claim, OpenError, claim, open_claimed, open_dir};
pub(crate) use medium::{create_named, open_named, unnamed};

use flush::Flush;
use gate::Gate;
use space::{Budget, Space};

/// What a filestore is opened with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Blocks that may be used, of data and metadata together.
    pub block_limit: Option<u64>,
    /// Whether [`Filestore::sync`] makes things durable, and blocks that durable records refer to
    /// are kept until they no longer do.
    pub durable: bool,
}

/// How full a filestore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Blocks allocated: data, journal, superblock.
    pub used: u64,
    /// Blocks freed and not yet given back to the host.
    pub pending: u64,
    /// Of these, the blocks that wait for a sync.
    pub pending_old: u64,
    /// Blocks that may be used.
    pub limit: Option<u64>,
    /// Bytes the file takes on the host (`st_blocks` × 512).
    pub host_bytes: u64,
    /// The file's length in bytes.
    pub host_len: u64,
    /// Bytes the host file system has available.
    pub host_available: u64,
    /// Bytes of the host file system.
    pub host_total: u64,
}

/// What the reclaimer calls when old blocks have waited for a sync long enough: it should append a
/// sync point and call [`Filestore::sync`]. False ends the calls (the owner is gone).
pub type SyncHook = Box<dyn Fn() -> bool + Send + Sync>;

/// What the callers and the reclaimer's thread share.
pub(in crate::filestore) struct Shared {
    backing: Box<dyn Backing>,
    durable: bool,
    space: Mutex<Space>,
    /// The reclaimer sleeps here (with `space`).
    wake: Condvar,
    /// Held by the one reclaim pass under way.
    reclaim: Mutex<reclaim::State>,
    gate: Gate,
    flush: Flush,
    hook: Mutex<Option<Arc<SyncHook>>>,
}

/// One sparse host file.
///
/// The reclaimer's thread runs from [`Filestore::start_reclaimer`] to [`Filestore::shutdown`] or the
/// drop. (A process that forks must do so before it starts.)
pub struct Filestore {
    shared: Arc<Shared>,
    reclaimer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl std::fmt::Debug for Filestore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filestore").field("backing", &self.shared.backing).finish_non_exhaustive()
    }
}

/// The first byte and the length in bytes. `EINVAL` for a range that no extent has.
fn bytes(e: Extent) -> Result<(u64, u64)> {
    let valid = e.len > 0 && e.len <= MAX_BLOCKS && e.start.0 <= MAX_BLOCKS - e.len;
    valid.then(|| (e.start.offset().0, e.len * BLOCK_SIZE)).ok_or(Errno::INVAL)
}

impl Filestore {
    /// A filestore over `backing`, all of whose blocks count as free.
    pub fn new(backing: Box<dyn Backing>, options: Options) -> Filestore {
        Filestore {
            shared: Arc::new(Shared {
                backing,
                durable: options.durable,
                space: Mutex::new(Space::new(options.block_limit, options.durable)),
                wake: Condvar::new(),
                reclaim: Mutex::default(),
                gate: Gate::default(),
                flush: Flush::default(),
                hook: Mutex::new(None),
            }),
            reclaimer: Mutex::new(None),
        }
    }

    /// Whether [`Filestore::sync`] does anything.
    pub fn durable(&self) -> bool {
        self.shared.durable
    }

    /// Enters the I/O gate, which is the only way to the file's bytes. Never waits. Blocks that a map names are read and
    /// written under the lock that was held when the map was asked, or in a gate that was entered under that lock.
    /// Take no lock, and call no other method of the filestore, before the guard is dropped.
    pub fn gate(&self) -> Io<'_> {
        let Shared { backing, gate, flush, .. } = &*self.shared;
        Io { backing: &**backing, flush, _guard: gate.enter() }
    }

    /// The first byte of `range` that the host keeps data for (or none): space that was reserved and not yet
    /// written holds none.
    ///
    /// # Errors
    /// What the host says.
    pub fn seek(&self, range: Range<StoreOffset>, want_data: bool) -> Result<Option<StoreOffset>> {
        let Range { start: StoreOffset(start), end: StoreOffset(end) } = range;
        let (from, to) = self.shared.backing.next_data(start)?.unwrap_or((end, end));
        let found = match (want_data, from > start) {
            (true, _) => from,
            (false, true) => start,
            (false, false) => to,
        };
        Ok((found < end).then_some(StoreOffset(found)))
    }

    /// Takes `blocks` blocks, going on at block `hint` where that is free. Their content is
    /// undefined. The caller is not in the gate (this may wait for I/O when space is short).
    ///
    /// # Errors
    /// `ENOSPC` at the limit; nothing is taken then.
    pub fn alloc(&self, blocks: u64, hint: Option<StoreBlock>) -> Result<Extents> {
        gate::assert_outside();
        let got = self.shared.space.lock().alloc(blocks, hint, Budget::Strict);
        if got != Err(Errno::NOSPC) {
            return got;
        }
        let may_help = {
            let space = self.shared.space.lock();
            space.pending() > 0 && space.limit.is_none_or(|l| space.used + blocks <= l)
        };
        if may_help {
            self.shared.reclaim();
        }
        // What still waits for a sync does not count: it will go within seconds.
        self.shared.space.lock().alloc(blocks, hint, Budget::Used)
    }

    /// Takes `blocks` blocks in one piece, for metadata. `boundless`: ignores the limit, because the blocks are needed to
    /// record a removal.
    ///
    /// # Errors
    /// `ENOSPC` at the limit.
    pub(crate) fn alloc_run(&self, blocks: u64, boundless: bool) -> Result<Extent> {
        let budget = if boundless { Budget::Boundless } else { Budget::Used };
        self.shared.space.lock().alloc_run(blocks, budget)
    }

    /// Makes the host reserve the blocks of `e` and zeroes them.
    ///
    /// # Errors
    /// `ENOSPC` when the host is full; `EINVAL` for a range that no extent has.
    pub fn reserve(&self, e: Extent) -> Result<()> {
        let (offset, len) = bytes(e)?;
        self.shared.backing.allocate_zeroed(offset, len)
    }

    /// Whether writing again what was written before may find no space ([`Backing::needs_space_to_overwrite`]).
    pub(crate) fn needs_space_to_overwrite(&self) -> bool {
        self.shared.backing.needs_space_to_overwrite()
    }

    /// Gives the host space of `e` back at once; `e` stays allocated. Its owner does no I/O on it.
    ///
    /// # Errors
    /// What the host says.
    pub(crate) fn punch_now(&self, e: Extent) -> Result<()> {
        let (offset, len) = bytes(e)?;
        self.shared.backing.punch(offset, len)
    }

    /// Frees `e`, whose last mention in the journal has just been overridden there. It can be
    /// allocated again once earlier I/O has ended and no durable record refers to it.
    pub fn free(&self, e: Extent) {
        if e.len > 0 && self.shared.space.lock().free(e) {
            self.shared.wake.notify_one();
        }
    }

    /// Frees `e`, which nothing durable refers to, whenever it was allocated.
    pub(crate) fn free_unreferenced(&self, e: Extent) {
        if e.len > 0 {
            self.shared.space.lock().free_ready(e);
            self.shared.wake.notify_one();
        }
    }

    /// Frees `e`, to which something durable refers until the next sync, whenever it was allocated.
    pub(crate) fn free_referenced(&self, e: Extent) {
        if !self.shared.durable {
            return self.free_unreferenced(e);
        }
        if e.len > 0 {
            self.shared.space.lock().free_old(e);
            self.shared.wake.notify_one();
        }
    }

    /// Takes exactly `e`, while a journal is replayed.
    ///
    /// # Errors
    /// `EUCLEAN` when part of it is taken already, or it is empty or beyond [`MAX_BLOCKS`].
    pub fn mark_used(&self, e: Extent) -> Result<()> {
        self.shared.space.lock().take(e)
    }

    /// Runs `sync`, or waits for the call of another that began after this one did. The caller is not in the gate.
    ///
    /// # Errors
    /// Those of `sync`.
    pub(crate) fn share_sync(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        self.shared.share_sync(sync)
    }

    /// Puts all that was written before the call on stable storage: one `fdatasync`. Takes no lock. Returns at once
    /// without [`Options::durable`].
    ///
    /// # Errors
    /// What the host says, and from then on `EIO`: the kernel drops what it failed to write.
    pub(crate) fn flush(&self) -> Result<()> {
        if self.shared.durable { self.shared.flush() } else { Ok(()) }
    }

    /// [`Filestore::flush`] also without [`Options::durable`].
    ///
    /// # Errors
    /// As [`Filestore::flush`].
    pub(crate) fn flush_always(&self) -> Result<()> {
        self.shared.flush()
    }

    /// [`Filestore::flush`], unless no data were written since the last one began. False where nothing was done.
    ///
    /// # Errors
    /// As [`Filestore::flush`].
    pub(crate) fn flush_data(&self) -> Result<bool> {
        if self.shared.durable { self.shared.flush_data() } else { Ok(false) }
    }

    /// Puts `len` bytes from `at` of a window on stable storage. Takes no lock.
    ///
    /// # Errors
    /// As [`Filestore::flush`].
    pub(crate) fn flush_window(&self, window: &Flusher, at: usize, len: usize) -> Result<()> {
        if self.shared.durable { self.shared.flush_window(window, at, len) } else { Ok(()) }
    }

    /// Whether a flush has failed: nothing that was written since the one before can be relied on.
    pub(crate) fn has_failed(&self) -> bool {
        self.shared.flush.has_failed()
    }

    /// All that was journalled before `epoch` began is on stable storage, and so are the data that it counts on: blocks
    /// freed before can be used again.
    pub(crate) fn synced(&self, epoch: u64) {
        self.shared.synced(epoch);
    }

    /// A sync begins here in the journal: blocks freed before become reusable once [`Filestore::synced`] tells that
    /// the epoch that begins now was reached. Returns that epoch.
    pub(crate) fn advance_epoch(&self) -> u64 {
        self.shared.space.lock().advance_epoch()
    }

    /// Changes the limit; what is used beyond it stays.
    #[cfg(test)]
    pub fn set_limit(&self, blocks: Option<u64>) {
        self.shared.space.lock().limit = blocks;
    }

    /// How full it is. Costs three system calls.
    ///
    /// # Errors
    /// What the host says.
    pub fn usage(&self) -> Result<Usage> {
        let backing = &self.shared.backing;
        let (host_available, host_total) = backing.host_space()?;
        let (host_bytes, host_len) = (backing.host_bytes()?, backing.length()?);
        let space = self.shared.space.lock();
        Ok(Usage {
            used: space.used,
            pending: space.pending(),
            pending_old: space.old_blocks(),
            limit: space.limit,
            host_bytes,
            host_len,
            host_available,
            host_total,
        })
    }

    /// Blocks in use. Costs no system call.
    #[cfg(test)]
    pub fn used_blocks(&self) -> u64 {
        self.shared.space.lock().used
    }

    /// Whether the limit leaves no block.
    pub(crate) fn is_at_limit(&self) -> bool {
        let space = self.shared.space.lock();
        space.limit.is_some_and(|limit| space.used >= limit)
    }

    /// Freed blocks not yet given back to the host.
    pub fn pending_blocks(&self) -> u64 {
        self.shared.space.lock().pending()
    }

    /// The block behind the last one that is taken or not yet given back, and the number of blocks in use.
    pub fn end_and_used(&self) -> (StoreBlock, u64) {
        let space = self.shared.space.lock();
        (space.map.end(), space.used)
    }

    /// Freed blocks that wait for a sync point and a sync.
    pub fn pending_old_blocks(&self) -> u64 {
        self.shared.space.lock().old_blocks()
    }

    /// Used blocks that lie beyond the file's end: normal after a kill between an allocation and its
    /// write, a sign of a cut-off file when there are many.
    ///
    /// # Errors
    /// What the host says.
    pub fn blocks_beyond_end(&self) -> Result<u64> {
        let len = StoreBlock(blocks_for(self.shared.backing.length()?));
        let space = self.shared.space.lock();
        let beyond_free: u64 =
            space.map.runs().map(|r| r.end().0.saturating_sub(r.start.max(len).0)).sum();
        Ok(space.map.end().0.saturating_sub(len.0).saturating_sub(beyond_free))
    }

    /// Bytes that the host keeps for blocks that are free here: what a killed daemon had no time to
    /// give back. To be asked when everything in use has been marked.
    ///
    /// # Errors
    /// What the host says.
    pub fn leaked_bytes(&self) -> Result<u64> {
        let (runs, end) = {
            let space = self.shared.space.lock();
            (space.map.runs().collect::<Vec<_>>(), space.map.end())
        };
        let tail = Extent { start: end, len: MAX_BLOCKS.saturating_sub(end.0) };
        let mut leaked = 0;
        for run in runs.into_iter().chain([tail]) {
            let (mut at, stop) = (run.start.offset().0, run.end().offset().0);
            while at < stop {
                match self.shared.backing.next_data(at)? {
                    Some((start, end)) if start < stop => {
                        leaked += end.min(stop) - start.max(at);
                        at = end.max(at + 1);
                    }
                    _ => break,
                }
            }
        }
        Ok(leaked)
    }

    pub(crate) fn host_len(&self) -> Result<u64> {
        self.shared.backing.length()
    }

    /// A window for writes to `e`, which is reserved first; `None` where `write_at` must be used.
    pub(crate) fn window(&self, e: Extent) -> Result<Option<Window>> {
        let (offset, len) = bytes(e)?;
        self.shared.backing.allocate(offset, len)?;
        self.shared.backing.map(offset, usize::try_from(len).map_err(|_| Errno::FBIG)?)
    }

    /// Treats all that is free as not yet given back to the host (after a kill, nobody knows).
    pub(crate) fn distrust_free(&self) {
        self.shared.space.lock().distrust_free();
        self.shared.wake.notify_one();
    }

    /// Gives back to the host what can be given back, and returns when that is done. The caller is
    /// not in the gate.
    pub fn reclaim_now(&self) {
        self.shared.reclaim();
    }

    /// Sets what the reclaimer calls when old blocks have waited for a second.
    pub fn set_sync_hook(&self, hook: SyncHook) {
        *self.shared.hook.lock() = Some(Arc::new(hook));
        self.shared.wake.notify_one();
    }

    /// Everything in use has been marked: from now on the tail behind it may be cut.
    pub(crate) fn go_live(&self) {
        self.shared.space.lock().live = true;
    }

    /// Starts the reclaimer's thread, once.
    ///
    /// # Errors
    /// `EAGAIN` and the like from the creation of the thread.
    pub fn start_reclaimer(&self) -> Result<()> {
        let mut reclaimer = self.reclaimer.lock();
        if reclaimer.is_none() {
            *reclaimer = Some(reclaim::spawn(Arc::clone(&self.shared))?);
        }
        Ok(())
    }

    /// Ends the reclaimer, gives back what can be given back and cuts the tail. Later frees are kept
    /// pending; [`Filestore::start_reclaimer`] does not undo this.
    pub fn shutdown(&self) {
        self.stop_reclaimer();
        self.shared.reclaim();
    }

    fn stop_reclaimer(&self) {
        self.shared.space.lock().stop = true;
        self.shared.wake.notify_one();
        let thread = self.reclaimer.lock().take();
        // The hook may hold the last reference: the thread cannot wait for itself.
        let thread = thread.filter(|t| t.thread().id() != std::thread::current().id());
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the reclaimer of freed blocks had panicked");
        }
    }
}

impl Drop for Filestore {
    fn drop(&mut self) {
        self.stop_reclaimer();
    }
}
