//! What operations are carried out with, and a request that is being carried out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::attr::{Caller, InodeNo};
use crate::fuse::abi;
use crate::fuse::init::Negotiated;
use crate::fuse::listing_ends::ListingEnds;
use crate::fuse::notify::Notifier;
use crate::fuse::passthrough::Nodes;
use crate::fuse::reply::{self, Validity};
use crate::fuse::request::Request;
use crate::fuse::shutdown::Shutdown;
use crate::metrics::Metrics;
use crate::overlay::{Entry, Overlay};

/// A connection's overlay and what belongs to it. Shared by all threads.
pub struct Context {
    pub overlay: Arc<Overlay>,
    pub valid: Validity,
    /// Mounted `ro`. Immutable.
    pub read_only: bool,
    pub nodes: Nodes,
    pub notifier: Notifier,
    pub metrics: Arc<Metrics>,
    /// What INIT agreed on. Immutable.
    pub agreed: Negotiated,
    pub listing_ends: ListingEnds,
    pub shutdown: Shutdown,
    pub destroyed: AtomicBool,
}

/// A request that is being carried out.
pub struct Call<'a> {
    pub request: &'a Request<'a>,
    /// What the kernel calls the inode.
    pub node: InodeNo,
    /// The inode that the node id stands for.
    pub ino: InodeNo,
    pub caller: Caller,
}

impl Context {
    /// The end of the connection; only the first call reaches the overlay.
    pub fn destroy(&self) {
        if !self.destroyed.swap(true, Ordering::AcqRel) {
            self.overlay.destroy();
            tracing::info!("{}", self.metrics.snapshot());
        }
    }

    /// The answer of an operation that gives an entry.
    pub fn entry_out(&self, entry: &Entry) -> abi::EntryOut {
        let ino = entry.attr.ino;
        let node = self.nodes.node_id(ino);
        // A change through the old id is not known to an answer with the fresh one, but by asking again.
        let again = if node == ino.0 { None } else { self.overlay.getattr(ino).ok() };
        reply::entry_out(node, again.as_ref().unwrap_or(&entry.attr), &self.valid)
    }

    /// How long the kernel may keep the attributes of `node`.
    pub fn validity(&self, node: InodeNo) -> &Validity {
        if self.nodes.is_retired(node) { &Validity::NONE } else { &self.valid }
    }
}
