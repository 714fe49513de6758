//! The threads of a mount that may be in SCHED_IDLE.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use parking_lot::{Condvar, Mutex};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

use super::client::FollowedClient;
use crate::errno::{Errno, Result};
use crate::metrics::Metrics;
use crate::sys::process::{Class, class_of, set_class};

/// What the watchdog knows of a thread.
#[derive(Default)]
pub(super) struct Slot {
    pub wakeups: AtomicU32,
    /// The thread entered SCHED_IDLE. Set with the lock of [`State`] held.
    pub entered: AtomicBool,
    /// The watchdog evicted it from there.
    pub evicted: AtomicBool,
}

/// The threads of a mount that may enter SCHED_IDLE.
pub(super) struct Roster {
    pub slots: Box<[Slot]>,
    /// Its lock is held while the watchdog acts. A leaf, and no thread in SCHED_IDLE takes it: what waits
    /// for a starved holder would starve too.
    pub state: Mutex<State>,
    pub ended: AtomicBool,
    pub wake: Condvar,
    pub client: FollowedClient,
    pub metrics: Arc<Metrics>,
}

pub(super) struct State {
    /// A thread may be in SCHED_IDLE.
    pub awake: bool,
    /// The thread of each slot.
    pub threads: Box<[Option<Thread>]>,
}

impl Roster {
    /// With room for so many threads.
    pub fn new(slots: usize, metrics: &Arc<Metrics>) -> Roster {
        let state = State { awake: false, threads: (0..slots).map(|_| None).collect() };
        Roster {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            state: Mutex::new(state),
            ended: AtomicBool::new(false),
            wake: Condvar::new(),
            client: FollowedClient::none(),
            metrics: Arc::clone(metrics),
        }
    }

    /// Puts a thread, given by its id, into a slot.
    pub fn occupy(&self, at: usize, id: u32) {
        self.state.lock().threads[at] = Some(Thread { id, moved: None });
    }

    /// The thread of this slot is about to enter SCHED_IDLE, on `cpu` if that is given.
    ///
    /// # Errors
    /// Where the thread must not run on that CPU.
    pub fn note_entry(&self, at: usize, cpu: Option<u32>) -> Result<()> {
        let mut state = self.state.lock();
        if let (Some(cpu), Some(thread)) = (cpu, &mut state.threads[at]) {
            thread.move_to(cpu)?;
        }
        self.slots[at].evicted.store(false, Relaxed);
        self.slots[at].entered.store(true, Relaxed);
        if !std::mem::replace(&mut state.awake, true) {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// The thread of this slot has left SCHED_IDLE, and goes back to the CPUs that it had.
    pub fn note_exit(&self, at: usize) {
        let mut state = self.state.lock();
        self.slots[at].entered.store(false, Relaxed);
        if let Some(Err(errno)) = state.threads[at].as_mut().map(Thread::leave) {
            tracing::debug!(%errno, "a thread keeps to its CPU");
        }
    }

    /// The thread of this slot ends: its id may become another thread's.
    pub fn vacate(&self, at: usize) {
        self.state.lock().threads[at] = None;
    }
}

pub(super) struct Thread {
    pub id: u32,
    /// The CPU it moved to, and those that it may be on otherwise.
    moved: Option<(u32, CpuSet)>,
}

impl Thread {
    /// `EINVAL` for a CPU that the thread may not be on.
    fn move_to(&mut self, cpu: u32) -> Result<()> {
        let home = sched_getaffinity(self.pid())?;
        let only = only(cpu).filter(|_| home.is_set(cpu as usize)).ok_or(Errno::INVAL)?;
        sched_setaffinity(self.pid(), &only)?;
        self.moved = Some((cpu, home));
        Ok(())
    }

    /// Leaves the class and the CPU, unless somebody gave it another meanwhile.
    pub fn leave(&mut self) -> Result<()> {
        if class_of(self.id)? == Some(Class::Idle) {
            set_class(self.id, Class::Normal)?;
        }
        let Some((cpu, home)) = &self.moved else { return Ok(()) };
        if Some(sched_getaffinity(self.pid())?) == only(*cpu) {
            sched_setaffinity(self.pid(), home)?;
        }
        self.moved = None;
        Ok(())
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.id).ok()?)
    }
}

/// The set of one CPU.
pub(super) fn only(cpu: u32) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    let cpu = cpu as usize;
    (cpu < CpuSet::MAX_CPU).then(|| set.set(cpu)).map(|()| set)
}
