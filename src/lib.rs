//! Overcoat: read-only layers below, an in-memory upper above, one sparse file for the data.
//!
//! A program mounts with [`Mount::builder`] and inspects an upper that is not mounted with [`Upper::open`]. [`daemon`]
//! has what a process does around its mounts. All other modules are private, but for [`metrics`]. Imports point down only
//! (`tests/layering.rs` checks it):
//!
//! ```text
//! daemon → mount → fuse, control → overlay → upper, layer → filestore / journal → sys
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `errno`, `attr`, `block`, `name`, `posix_acl`, `config` | vocabulary: leaves that everything may use |
//! | [`metrics`] | counters and latencies of a mount: a leaf that everything may fill |
//! | `sys` | system calls; the only place with `unsafe` |
//! | `filestore` | one sparse host file: blocks, extents, holes, usage; knows no inode |
//! | `journal` | the record codec and the log that lives in the filestore |
//! | `layer` | read-only lower directories and how a stack of them merges; knows no upper |
//! | `upper` | the in-memory tree, a state machine driven by journal records; knows no layer |
//! | `overlay` | merge semantics: every file system operation on the merged view |
//! | `control` | what looks inside a filestore: usage, check |
//! | `fuse` | the wire: kernel structs, decode, encode, mount, transports |
//! | `presence` | a mount's daemon, found by the mount's device number |
//! | `mount` | a mount from its settings to its end |
//! | [`daemon`] | into the background, readiness, signals |
//!
//! Lock order (outer first): overlay per-file I/O lock → overlay state → filestore allocator.
//! The filestore's bytes are read and written only through the filestore's I/O gate ([`filestore::Io`]). Block numbers come
//! from the upper, so a thread enters the gate while it holds the state lock. For blocks that no map names yet the thread
//! needs no lock. The gate is taken last, and left before any lock is acquired.
//!
//! No host call on a layer is made under the overlay state lock, nor under the lock of a cache of directories or files of
//! layers. Builds with debug assertions check this ([`layer::forbid_host_calls`]). The per-file I/O lock may be held: only
//! operations on the same file wait for that lock.

mod attr;
mod block;
mod config;
mod control;
pub mod daemon;
mod errno;
mod filestore;
mod fuse;
mod journal;
mod layer;
pub mod metrics;
mod mount;
mod name;
mod overlay;
mod posix_acl;
mod presence;
mod sys;
mod upper;

pub use attr::FileType;
pub use config::{Config, Durability, IdMap, IdRange, Medium, NOTICE};
pub use control::{Report, Upper, UpperError, UpperUsage};
pub use errno::Errno;
pub use fuse::{Atime, MountOptions, Settings, Transport, Unmounter, Validity};
pub use journal::Recovery;
pub use mount::{Mount, MountBuilder, StartError};
pub use overlay::{Change, ChangeKind, Usage};

/// What `bench/benches` measure. No part of the interface.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::block::StoreBlock;
    pub use crate::config::IdMap;
    pub use crate::filestore::{Extent, Filestore, Options};
    pub use crate::journal::{Log, Urgency, open_or_create};
    pub use crate::layer::Stack;
}

/// The reference model and its random operations. They drive `Overlay` itself, without a kernel, and so are part of
/// this crate: `cargo test -p overcoat --lib model::`.
#[cfg(test)]
#[path = "../tests/model/mod.rs"]
mod model;
