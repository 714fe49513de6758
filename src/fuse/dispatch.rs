//! From a request to its reply, for every transport: the row of the operation, the overlay, the figures.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::attr::{Caller, InodeNo};
use crate::errno::{Errno, Result};
use crate::fuse::abi::{self, Opcode};
use crate::fuse::init::Negotiated;
use crate::fuse::listing_ends::ListingEnds;
use crate::fuse::notify::Notifier;
use crate::fuse::operations::{self, Host, Row, Served};
use crate::fuse::passthrough::Nodes;
use crate::fuse::reply::{self, Payload, Validity};
use crate::fuse::request::Request;
use crate::fuse::shutdown::Shutdown;
use crate::fuse::threads::Pool;
use crate::metrics::{self, Counter, Metrics};
use crate::overlay::{Entry, Overlay};

/// Answers requests by calling the overlay. Shared by all threads of all transports. What the handlers
/// use is visible to them.
pub struct Dispatcher {
    pub(super) overlay: Arc<Overlay>,
    pub(super) valid: Validity,
    /// Mounted `ro`. Immutable.
    pub(super) read_only: bool,
    pub(super) nodes: Nodes,
    pub(super) notifier: Notifier,
    pub(super) listing_ends: ListingEnds,
    pub(super) shutdown: Shutdown,
    pub(super) metrics: Arc<Metrics>,
    /// Threads for what takes long.
    pool: Pool,
    agreed: OnceLock<Negotiated>,
    destroyed: AtomicBool,
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

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The length of the reply's payload, or the error to send.
    Reply(Result<usize>),
    /// The kernel wants no reply.
    NoReply,
    /// It was not carried out: see [`Dispatcher::dispatch`].
    NoRoomYet,
}

impl Outcome {
    fn of(reply: Option<Result<usize>>) -> Outcome {
        reply.map_or(Outcome::NoReply, Outcome::Reply)
    }
}

/// What is told to [`Dispatcher::new`].
pub struct Setup {
    pub valid: Validity,
    pub read_only: bool,
    pub nodes: Nodes,
    pub notifier: Notifier,
    pub metrics: Arc<Metrics>,
    pub pool: Pool,
}

impl Dispatcher {
    pub fn new(overlay: Arc<Overlay>, setup: Setup) -> Dispatcher {
        let Setup { valid, read_only, nodes, notifier, metrics, pool } = setup;
        Dispatcher {
            overlay,
            valid,
            read_only,
            nodes,
            notifier,
            listing_ends: ListingEnds::default(),
            shutdown: Shutdown::default(),
            metrics,
            pool,
            agreed: OnceLock::new(),
            destroyed: AtomicBool::new(false),
        }
    }

    /// Tells what INIT agreed on. Must precede the first [`Dispatcher::dispatch`]; later calls are
    /// without effect.
    pub fn agree(&self, agreed: Negotiated) {
        self.agreed.get_or_init(|| agreed);
    }

    /// Whether INIT agreed on something; false before.
    pub fn has_agreed(&self, what: fn(&Negotiated) -> bool) -> bool {
        self.agreed.get().is_some_and(what)
    }

    /// The largest READ or WRITE, in bytes.
    pub fn max_io(&self) -> u32 {
        self.agreed.get().map_or(0, |agreed| agreed.max_io)
    }

    /// The counters of this mount.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The end of the connection; only the first call reaches the overlay.
    pub fn destroy(&self) {
        if !self.destroyed.swap(true, Ordering::AcqRel) {
            self.overlay.destroy();
            tracing::info!("{}", self.metrics.snapshot());
        }
    }

    /// Carries out a request that arrived at `arrived`, and encodes the reply's payload from the start of
    /// `area`, which must hold the largest reply: the negotiated `max_io`.
    ///
    /// Where there is no room now, but may be in a moment, the request was not carried out, and is to be
    /// carried out by [`Dispatcher::dispatch_waiting`] in a thread that may wait.
    pub fn dispatch(&self, request: &Request<'_>, arrived: Instant, area: &mut [u8]) -> Outcome {
        match self.attempt(request, area) {
            Err(errno) if self.overlay.room_may_come(errno) => Outcome::NoRoomYet,
            done => Outcome::of(self.count(request, arrived, done)),
        }
    }

    /// As [`Dispatcher::dispatch`], and waits for room where it may come.
    pub fn dispatch_waiting(
        &self,
        request: &Request<'_>,
        arrived: Instant,
        area: &mut [u8],
    ) -> Option<Result<usize>> {
        let mut room = self.overlay.room_wait();
        loop {
            match self.attempt(request, area) {
                Err(Errno::NOSPC) if room.wait() => continue,
                done => return self.count(request, arrived, done),
            }
        }
    }

    fn attempt(&self, request: &Request<'_>, area: &mut [u8]) -> Result<usize> {
        let mut out = Payload::new(area);
        let row = operations::row(request.opcode.ok_or(Errno::NOSYS)?);
        self.carry_out(row, request, &mut out).map(|()| out.len())
    }

    /// Counts a request that was carried out; `None` where the kernel wants no reply.
    fn count(
        &self,
        request: &Request<'_>,
        arrived: Instant,
        done: Result<usize>,
    ) -> Option<Result<usize>> {
        let row = request.opcode.map(operations::row);
        let metric = row.map_or(metrics::Operation::Other, |row| row.metric);
        self.metrics.record(metric, arrived.elapsed(), done.is_err());
        tracing::trace!(op = ?request.opcode, ino = request.header.nodeid, ?done, "request");
        let is_answered = row.is_none_or(|row| row.served != Served::WithoutAnswer);
        is_answered.then_some(done)
    }

    fn carry_out(&self, row: &Row, request: &Request<'_>, out: &mut Payload<'_>) -> Result<()> {
        if row.served == Served::UntilShutdown {
            self.shutdown.check()?;
        }
        let node = request.node();
        let ino = self.nodes.number(node);
        (row.run)(self, &Call { request, node, ino, caller: request.caller() }, out)
    }

    /// Whether carrying out `request` may wait for the host (data, layers, the disk) and so should not
    /// hold up other requests.
    pub fn may_block(&self, request: &Request<'_>) -> bool {
        let Some(row) = request.opcode.map(operations::row) else { return false };
        !matches!(row.host, Host::Untouched) || self.may_wait_for_layer(row, request)
    }

    /// Whether carrying out `request` may take milliseconds: it asks a layer that may not answer for long,
    /// it waits for the host's disk, or it brings so much that the host may make its writer wait. Reads of
    /// other layers do not count: a hand-over to a thread on another CPU takes longer than most of them.
    pub fn takes_long(&self, request: &Request<'_>) -> bool {
        let Some(row) = request.opcode.map(operations::row) else { return false };
        match row.host {
            Host::Long(does) if does(self, request) => true,
            _ => self.may_wait_for_layer(row, request),
        }
    }

    fn may_wait_for_layer(&self, row: &Row, request: &Request<'_>) -> bool {
        self.overlay.has_blocking_layer() && (row.layers)(self, request)
    }

    /// Whether the answer would be wrong as long as the kernel holds written data back: LSEEK asks where
    /// a file has holes, and the kernel does not write out the file's dirty pages before.
    pub fn needs_write_back(&self, request: &Request<'_>) -> bool {
        // Where files are opened without asking, it is not known which are open for writing.
        request.opcode == Some(Opcode::Lseek)
            && self.has_agreed(Negotiated::writeback_cache)
            && (self.has_agreed(Negotiated::no_open)
                || self.overlay.has_writers(self.nodes.number(request.node())))
    }

    /// Has a thread run `job` that may wait for as long as the host takes.
    pub fn hand_over(&self, job: impl FnOnce() + Send + 'static) {
        self.metrics.add(Counter::HandedOver, 1);
        self.pool.run(job);
    }

    /// Has a thread run `job` when the kernel has written out what it holds of `node`.
    pub fn after_write_back(&self, node: InodeNo, job: impl FnOnce() + Send + 'static) {
        let notifier = self.notifier.clone();
        self.hand_over(move || {
            notifier.write_back(node);
            job();
        });
    }

    pub(super) fn entry_out(&self, entry: &Entry) -> abi::EntryOut {
        let ino = entry.attr.ino;
        let node = self.nodes.node_id(ino);
        // A change through the old id is not known to an answer with the fresh one, but by asking again.
        let again = if node == ino.0 { None } else { self.overlay.getattr(ino).ok() };
        reply::entry_out(node, again.as_ref().unwrap_or(&entry.attr), &self.valid)
    }

    /// How long the kernel may keep the attributes of `node`.
    pub(super) fn validity(&self, node: InodeNo) -> &Validity {
        if self.nodes.is_retired(node) { &Validity::NONE } else { &self.valid }
    }
}
