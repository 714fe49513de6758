//! Threads that answer requests run in the scheduling class SCHED_IDLE, so that a client stays on its CPU.
//!
//! The kernel wakes the client while the thread that answered still runs. The scheduler sees a busy CPU and
//! migrates the client to an idle one, so each request costs a wakeup across CPUs, often of a halted CPU:
//! longer than the rest of the request. A CPU that runs nothing but SCHED_IDLE threads counts as idle
//! (`sched_idle_cpu` in the kernel's kernel/sched/fair.c), so a thread enters that class while requests come
//! to it in quick succession. A ring's thread is pinned to its queue's CPU; a reader of `/dev/fuse` moves to
//! the CPU of a client whose requests came many times in a row.
//!
//! SCHED_IDLE gets next to nothing of a CPU that other tasks of its scheduling group (a session, a control
//! group) want as well. So no thread stays in it for long without answering: a thread that waited for its CPU
//! leaves at its next wakeup and stays away for a while ([`policy`]), and the [`watchdog`] evicts one that
//! has no wakeups, a few milliseconds later.

mod client;
mod policy;
mod proc;
mod roster;
mod tunables;
mod watchdog;

use std::time::Instant;

pub use watchdog::Watchdog;

/// What a thread that answers requests tells whatever schedules it.
pub trait Scheduling: Send {
    /// The thread was woken, at `now`, and turns to new requests. `client` is the thread id of the task
    /// that sent the first; 0 where it is not known, or no task waits.
    fn wakeup(&mut self, now: Instant, client: u32);

    /// The thread answers no further requests.
    fn end(&mut self);
}

/// A thread that the kernel schedules as it likes.
pub struct Unscheduled;

impl Scheduling for Unscheduled {
    fn wakeup(&mut self, _: Instant, _: u32) {}
    fn end(&mut self) {}
}

/// Which CPU a thread is to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// It is pinned to one.
    Pinned,
    /// It follows the client.
    Following,
}
