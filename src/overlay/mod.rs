//! The merged view: read-only layers below, the in-memory upper above. One file per family of
//! operations; every public operation is what one FUSE request asks for, and knows nothing of FUSE.
//!
//! What a name or an inode is, is decided in this order: the upper's entry (an inode or a
//! whiteout), else what the layers have. An inode that the upper has (it was made here, or
//! copied up when something about it changed) answers from the upper; every other one from the
//! attributes that its layer gave when it was looked up.
//!
//! What the layers say is asked first, without a lock, as a layer may hang; then operations take the state
//! lock and look again at what the upper says. No host system call is made under the state lock but the
//! journal's own; [`state_lock`] checks it of the layers.
//!
//! Lock order: a file's I/O lock → [`State`] → the filestore's. See each field.

mod acl;
mod attr_ops;
mod caller;
mod changes;
mod clock;
mod copy_up;
mod create;
mod file_locks;
mod given_numbers;
mod io;
mod layers;
mod lookup;
mod lower;
mod lower_files;
mod numbers;
mod open;
mod orphans;
mod readdir;
mod recover;
mod remove;
mod rename;
mod space;
mod state;
mod state_lock;
mod statfs;
mod txn;
mod upgrade;
mod upkeep;
mod waits;
mod write;
mod writers;
mod xattr;

pub use changes::{Change, ChangeKind};
pub use lookup::Entry;
pub use open::OpenError;
pub use readdir::DirEntry;
pub use recover::ReplayError;
pub(crate) use recover::{Purpose, Replay, claim_and_open, mark_extents, replay};
pub use rename::RenameFlags;
pub use space::{FallocateMode, Whence};
pub use statfs::{StatFs, Usage};
pub use write::Writer;

use crate::attr::InodeNo;
use crate::config::Durability;
use crate::errno::{Errno, Result};
use crate::filestore::{Claim, Filestore};
use crate::journal::Log;
use crate::layer::Stack;
use clock::Clock;
use file_locks::{FileLock, FileLocks};
use layers::Layers;
use lower_files::{LostOrigins, ReplacedNames};
use parking_lot::Mutex;
use state_lock::StateLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use upkeep::Upkeep;
use waits::Room;

/// A mounted view. Made by [`Overlay::new`].
pub struct Overlay {
    /// The layers. Immutable.
    stack: Stack,
    /// Which of the layers the upper's records speak of. Immutable.
    layers: Layers,
    /// File data of the upper. Has its own locks, taken after `state`.
    store: Arc<Filestore>,
    /// The upper, the looked-up inodes and the journal.
    state: StateLock,
    /// What changes are stamped with.
    clock: Clock,
    /// Serialises what changes the data of one file. Taken before `state`.
    io: FileLocks,
    lost_origins: LostOrigins,
    replaced_names: ReplacedNames,
    /// 0: none. May change while mounted.
    inode_limit: AtomicU64,
    durability: Durability,
    /// No upper: every change is EROFS.
    read_only: bool,
    /// Set once by [`Overlay::fail_read_only`].
    failed: AtomicBool,
    upkeep: Upkeep,
    /// Its lock is taken last.
    room: Room,
    /// The upperdir, while mounted. Its lock is taken alone.
    claim: Mutex<Option<Claim>>,
}

impl Overlay {
    fn io_lock(&self, ino: InodeNo) -> FileLock<'_> {
        self.io.lock(ino)
    }

    /// Whether a sync waits for stable storage.
    pub fn is_durable(&self) -> bool {
        self.durability == Durability::Full
    }

    /// `EROFS` where nothing can be changed.
    fn writable(&self) -> Result<()> {
        let failed = self.failed.load(Ordering::Relaxed);
        if self.read_only || failed { Err(Errno::ROFS) } else { Ok(()) }
    }

    /// Makes the mount read-only for good, because changes can no longer be kept as promised. The first call
    /// logs the reason; later ones do nothing. Takes no lock.
    pub(crate) fn fail_read_only(&self, reason: &str) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            tracing::error!(reason, "the mount is read-only from now on");
        }
    }

    /// Calls `op`; once more if it failed with `ENOSPC` and freed blocks could be given back to the host. `op` must be safe to
    /// repeat: when it fails it has changed nothing but bytes that it would write again. For data only: names made with
    /// the host's last space could not be removed again, because a removal is journalled too.
    fn with_room<T>(&self, op: impl Fn() -> Result<T>) -> Result<T> {
        match op() {
            Err(Errno::NOSPC) if self.gives_back_to_host() => op(),
            done => done,
        }
    }

    /// Gives freed blocks back to the host now. False, and nothing is done, if there are none, if `size=` is what leaves no room
    /// (the allocator has counted freed blocks as free by then), or if a sync would take the journal's spare segment. The
    /// caller holds no lock.
    fn gives_back_to_host(&self) -> bool {
        if self.store.pending_blocks() == 0 || self.store.is_at_limit() {
            return false;
        }
        if self.store.pending_old_blocks() > 0 {
            let fits = self.state.read().log.as_ref().is_some_and(Log::fits_sync_point);
            if !fits || self.sync().is_err() {
                return false;
            }
        }
        self.store.reclaim_now();
        true
    }

    fn inode_limit(&self) -> u64 {
        match self.inode_limit.load(Ordering::Relaxed) {
            0 => u64::MAX,
            limit => limit,
        }
    }
}
