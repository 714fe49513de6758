//! The watchdog: evicts threads from SCHED_IDLE that have no wakeups.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use parking_lot::{Condvar, Mutex};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

use super::client::FollowedClient;
use super::policy::{Pause, SchedIdle};
use super::tunables::{EVICT_TICKS, WATCHDOG_TICK_MS, millis};
use super::{Placement, Scheduling, Unscheduled, proc};
use crate::errno::{Errno, Result};
use crate::metrics::Metrics;
use crate::sys::process::{self, Class, class_of, set_class};

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
pub(super) struct Shared {
    pub slots: Box<[Slot]>,
    /// Its lock is held while the watchdog acts. A leaf, and no thread in SCHED_IDLE takes it: what waits
    /// for a starved holder would starve too.
    state: Mutex<State>,
    ended: AtomicBool,
    wake: Condvar,
    pub client: FollowedClient,
    pub metrics: Arc<Metrics>,
}

struct State {
    /// A thread may be in SCHED_IDLE.
    awake: bool,
    /// The thread of each slot.
    threads: Box<[Option<Thread>]>,
}

impl Shared {
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

struct Thread {
    id: u32,
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
    fn leave(&mut self) -> Result<()> {
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

/// Looks after the threads of a mount, until it is dropped. Without what it needs, it leaves them to
/// the kernel.
pub struct Watchdog {
    shared: Option<Arc<Shared>>,
    /// Of threads that follow a client.
    pause: Arc<Mutex<Pause>>,
}

impl Watchdog {
    /// A watchdog over `slots` threads. Threads stay in the normal class where they could not leave
    /// SCHED_IDLE again, or where the kernel does not tell how long they wait for a CPU.
    pub fn start(slots: usize, metrics: &Arc<Metrics>) -> Watchdog {
        // Leaving takes CAP_SYS_NICE or RLIMIT_NICE. A thread that has neither must not even try to enter.
        let works = proc::has_wait_clock() && leaves_sched_idle();
        if !works {
            tracing::info!(
                "no CAP_SYS_NICE: a client may be migrated to another CPU at each answer"
            );
            return Watchdog { shared: None, pause: Pause::shared() };
        }
        let mut watchdog = Watchdog::stopped(slots, metrics);
        let shared = watchdog.shared.clone();
        let thread = std::thread::Builder::new().name("watchdog".into());
        if thread.spawn(move || shared.iter().for_each(|shared| watch(shared))).is_err() {
            watchdog.shared = None;
        }
        watchdog
    }

    /// One whose thread does not run.
    pub(super) fn stopped(slots: usize, metrics: &Arc<Metrics>) -> Watchdog {
        let state = State { awake: false, threads: (0..slots).map(|_| None).collect() };
        let shared = Shared {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            state: Mutex::new(state),
            ended: AtomicBool::new(false),
            wake: Condvar::new(),
            client: FollowedClient::none(),
            metrics: Arc::clone(metrics),
        };
        Watchdog { shared: Some(Arc::new(shared)), pause: Pause::shared() }
    }

    /// For the calling thread, which takes slot `at`. The kernel schedules it as it likes where there is no
    /// such slot, or where it is in a class that somebody gave it.
    pub fn schedule(&self, at: usize, placement: Placement) -> Box<dyn Scheduling> {
        match self.sched_idle(at, placement) {
            Some(scheduling) => Box::new(scheduling),
            None => Box::new(Unscheduled),
        }
    }

    pub(super) fn sched_idle(&self, at: usize, placement: Placement) -> Option<SchedIdle> {
        let shared = self.shared.as_ref().filter(|shared| at < shared.slots.len())?;
        let wait_clock = proc::wait_clock()?;
        let id = process::thread();
        class_of(id).ok().flatten().filter(|class| *class == Class::Normal)?;
        let scheduling = SchedIdle::new(shared, at, id, wait_clock, placement, &self.pause)?;
        shared.state.lock().threads[at] = Some(Thread { id, moved: None });
        Some(scheduling)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let Some(shared) = &self.shared else { return };
        let state = shared.state.lock();
        shared.ended.store(true, Relaxed);
        drop(state);
        shared.wake.notify_one();
    }
}

fn watch(shared: &Shared) {
    // Of each slot: its wakeups, and for how many ticks it has had no further one.
    let mut seen: Vec<(u32, u32)> = vec![(0, 0); shared.slots.len()];
    let mut state = shared.state.lock();
    while !shared.ended.load(Relaxed) {
        if !state.awake {
            shared.wake.wait(&mut state);
            continue;
        }
        // Only the end comes before the time is over.
        shared.wake.wait_for(&mut state, millis(WATCHDOG_TICK_MS));
        let State { awake, threads } = &mut *state;
        *awake = false;
        for ((slot, thread), seen) in shared.slots.iter().zip(threads).zip(&mut seen) {
            let Some(thread) = thread.as_mut().filter(|_| slot.entered.load(Relaxed)) else {
                continue;
            };
            let wakeups = slot.wakeups.load(Relaxed);
            let (before, ticks) = seen;
            *ticks = if *before == wakeups { ticks.saturating_add(1) } else { 0 };
            *before = wakeups;
            // Several times, as it may be about to enter the class just now.
            *awake |= *ticks < EVICT_TICKS;
            if !(1..=EVICT_TICKS).contains(ticks) {
                continue;
            }
            slot.evicted.store(true, Relaxed);
            if let Err(errno) = thread.leave() {
                tracing::debug!(%errno, thread = thread.id, "a thread stays in SCHED_IDLE");
            }
        }
    }
}

/// Whether a thread can leave SCHED_IDLE, found out by one that ends anyway.
pub(super) fn leaves_sched_idle() -> bool {
    let attempt = || {
        let me = process::thread();
        set_class(me, Class::Idle).and_then(|()| set_class(me, Class::Normal)).is_ok()
    };
    let thread = std::thread::Builder::new().name("probe".into()).spawn(attempt);
    thread.is_ok_and(|thread| thread.join().unwrap_or(false))
}
