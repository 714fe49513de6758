//! The watchdog: evicts threads from SCHED_IDLE that have no wakeups.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;

use super::policy::{Pause, SchedIdle};
use super::roster::{Roster, State};
use super::tunables::{EVICT_TICKS, WATCHDOG_TICK_MS, millis};
use super::{Placement, Scheduling, Unscheduled, proc};
use crate::metrics::Metrics;
use crate::sys::process::{self, Class, class_of, set_class};

/// Looks after the threads of a mount, until it is dropped. Without what it needs, it leaves them to
/// the kernel.
pub struct Watchdog {
    roster: Option<Arc<Roster>>,
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
            return Watchdog { roster: None, pause: Pause::shared() };
        }
        let mut watchdog = Watchdog::stopped(slots, metrics);
        let roster = watchdog.roster.clone();
        let thread = std::thread::Builder::new().name("watchdog".into());
        if thread.spawn(move || roster.iter().for_each(|roster| watch(roster))).is_err() {
            watchdog.roster = None;
        }
        watchdog
    }

    /// One whose thread does not run.
    pub(super) fn stopped(slots: usize, metrics: &Arc<Metrics>) -> Watchdog {
        let roster = Roster::new(slots, metrics);
        Watchdog { roster: Some(Arc::new(roster)), pause: Pause::shared() }
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
        let roster = self.roster.as_ref().filter(|roster| at < roster.slots.len())?;
        let wait_clock = proc::wait_clock()?;
        let id = process::thread();
        class_of(id).ok().flatten().filter(|class| *class == Class::Normal)?;
        let scheduling = SchedIdle::new(roster, at, id, wait_clock, placement, &self.pause)?;
        roster.occupy(at, id);
        Some(scheduling)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let Some(roster) = &self.roster else { return };
        let state = roster.state.lock();
        roster.ended.store(true, Relaxed);
        drop(state);
        roster.wake.notify_one();
    }
}

fn watch(roster: &Roster) {
    // Of each slot: its wakeups, and for how many ticks it has had no further one.
    let mut seen: Vec<(u32, u32)> = vec![(0, 0); roster.slots.len()];
    let mut state = roster.state.lock();
    while !roster.ended.load(Relaxed) {
        if !state.awake {
            roster.wake.wait(&mut state);
            continue;
        }
        // Only the end comes before the time is over.
        roster.wake.wait_for(&mut state, millis(WATCHDOG_TICK_MS));
        let State { awake, threads } = &mut *state;
        *awake = false;
        for ((slot, thread), seen) in roster.slots.iter().zip(threads).zip(&mut seen) {
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
