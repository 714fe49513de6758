//! From a request to its reply, for every transport: the row of the operation, the overlay, the figures.

use std::sync::Arc;
use std::time::Instant;

use crate::attr::InodeNo;
use crate::errno::{Errno, Result};
use crate::fuse::abi::Opcode;
use crate::fuse::context::{Call, Context};
use crate::fuse::init::Negotiated;
use crate::fuse::operations::{self, Host, Row, Served};
use crate::fuse::reply::Payload;
use crate::fuse::request::Request;
use crate::fuse::threads::Pool;
use crate::metrics::{self, Counter, Metrics};

/// Answers requests by calling the overlay. Shared by all threads of all transports.
pub struct Dispatcher {
    context: Context,
    /// Threads for what takes long.
    pool: Pool,
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

impl Dispatcher {
    pub fn new(context: Context, pool: Pool) -> Dispatcher {
        Dispatcher { context, pool }
    }

    /// What INIT agreed on.
    pub fn agreed(&self) -> &Negotiated {
        &self.context.agreed
    }

    /// The counters of this mount.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.context.metrics
    }

    /// The end of the connection; only the first call reaches the overlay.
    pub fn destroy(&self) {
        self.context.destroy();
    }

    /// Carries out a request that arrived at `arrived`, and encodes the reply's payload from the start of
    /// `area`, which must hold the largest reply: the negotiated `max_io`.
    ///
    /// Where there is no room now, but may be in a moment, the request was not carried out, and is to be
    /// carried out by [`Dispatcher::dispatch_waiting`] in a thread that may wait.
    pub fn dispatch(&self, request: &Request<'_>, arrived: Instant, area: &mut [u8]) -> Outcome {
        match self.attempt(request, area) {
            Err(errno) if self.context.overlay.room_may_come(errno) => Outcome::NoRoomYet,
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
        let mut room = self.context.overlay.room_wait();
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
        let done = self.carry_out(row, request, &mut out);
        if done == Err(Errno::STALE) {
            self.forget_replaced_names();
        }
        done.map(|()| out.len())
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
        self.context.metrics.record(metric, arrived.elapsed(), done.is_err());
        tracing::trace!(op = ?request.opcode, ino = request.header.nodeid, ?done, "request");
        let is_answered = row.is_none_or(|row| row.served != Served::WithoutAnswer);
        is_answered.then_some(done)
    }

    fn carry_out(&self, row: &Row, request: &Request<'_>, out: &mut Payload<'_>) -> Result<()> {
        if row.served == Served::UntilShutdown {
            self.context.shutdown.check()?;
        }
        let node = request.node();
        let ino = self.context.nodes.number(node);
        (row.run)(&self.context, &Call { request, node, ino, caller: request.caller() }, out)
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
            Host::Long(does) if does(&self.context, request) => true,
            _ => self.may_wait_for_layer(row, request),
        }
    }

    fn may_wait_for_layer(&self, row: &Row, request: &Request<'_>) -> bool {
        self.context.overlay.has_blocking_layer() && (row.layers)(&self.context, request)
    }

    /// Whether the answer would be wrong as long as the kernel holds written data back: LSEEK asks where
    /// a file has holes, and the kernel does not write out the file's dirty pages before.
    pub fn needs_write_back(&self, request: &Request<'_>) -> bool {
        // Where files are opened without asking, it is not known which are open for writing.
        request.opcode == Some(Opcode::Lseek)
            && self.agreed().writeback_cache()
            && (self.agreed().no_open()
                || self.context.overlay.has_writers(self.context.nodes.number(request.node())))
    }

    /// Has a thread run `job` that may wait for as long as the host takes.
    pub fn hand_over(&self, job: impl FnOnce() + Send + 'static) {
        self.context.metrics.add(Counter::HandedOver, 1);
        self.pool.run(job);
    }

    /// Has the kernel look up anew what the layers turned out to have something else under.
    fn forget_replaced_names(&self) {
        for (parent, name) in self.context.overlay.take_replaced_names() {
            let notifier = self.context.notifier.clone();
            self.hand_over(move || notifier.entry_changed(parent, &name));
        }
    }

    /// Has a thread run `job` when the kernel has written out what it holds of `node`.
    pub fn after_write_back(&self, node: InodeNo, job: impl FnOnce() + Send + 'static) {
        let notifier = self.context.notifier.clone();
        self.hand_over(move || {
            notifier.write_back(node);
            job();
        });
    }
}
