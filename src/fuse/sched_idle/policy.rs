//! When a thread enters SCHED_IDLE, and when it leaves.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::proc::WaitClock;
use super::roster::{Roster, Slot};
use super::tunables::{
    CHECK_WAKEUPS, ENTER_WAKEUPS, FOLLOWING_WAIT_PER_WAKEUP_US, LOCATE_WAKEUPS, PAUSE_MAX_MS,
    PAUSE_MIN_MS, PINNED_WAIT_PER_WAKEUP_US, STARVED_WAKEUPS, USUAL_WAIT_US, WAIT_LIMIT_US,
    WAIT_SHARE, micros, millis,
};
use super::{Placement, Scheduling};
use crate::metrics::Counter;
use crate::sys::process::{Class, class_of, set_class};

/// Until when threads stay in the normal class after one starved.
pub(super) struct Pause {
    end: Instant,
    len: Duration,
}

impl Pause {
    pub fn shared() -> Arc<Mutex<Pause>> {
        Arc::new(Mutex::new(Pause { end: Instant::now(), len: millis(PAUSE_MIN_MS / 2) }))
    }

    /// A thread starved: a pause, twice as long as the last if that ended a short while ago.
    fn begin(&mut self, now: Instant) {
        let soon = now.saturating_duration_since(self.end) < 10 * self.len;
        let doubled = (2 * self.len).min(millis(PAUSE_MAX_MS));
        self.len = if soon { doubled } else { millis(PAUSE_MIN_MS) };
        self.end = now + self.len;
        tracing::debug!(pause = ?self.len, "a thread waited for its CPU");
    }
}

/// The policy of one thread.
pub(super) struct SchedIdle {
    roster: Arc<Roster>,
    /// The thread's slot, and its id.
    at: usize,
    id: u32,
    wait_clock: WaitClock,
    last_wakeup: Instant,
    /// What the thread had waited for its CPU at the last check, when that was, and wakeups since.
    waited: Duration,
    checked: Instant,
    wakeups: u32,
    /// At how many of the last checks the thread was late.
    late: u32,
    /// It entered SCHED_IDLE. (The watchdog may have evicted it.)
    entered: bool,
    pause: Arc<Mutex<Pause>>,
    placement: Placement,
    /// The client's CPU that it moved to, while it is in SCHED_IDLE.
    cpu: Option<u32>,
}

impl SchedIdle {
    /// `following`: the pause that threads which follow a client share. `None` where the wait clock cannot
    /// be read.
    pub fn new(
        roster: &Arc<Roster>,
        at: usize,
        id: u32,
        wait_clock: WaitClock,
        placement: Placement,
        following: &Arc<Mutex<Pause>>,
    ) -> Option<SchedIdle> {
        Some(SchedIdle {
            roster: Arc::clone(roster),
            at,
            id,
            waited: wait_clock()?,
            wait_clock,
            last_wakeup: Instant::now(),
            checked: Instant::now(),
            wakeups: 0,
            late: 0,
            entered: false,
            pause: match placement {
                Placement::Pinned => Pause::shared(),
                Placement::Following => Arc::clone(following),
            },
            placement,
            cpu: None,
        })
    }

    fn slot(&self) -> &Slot {
        &self.roster.slots[self.at]
    }

    /// Whether so many wakeups are a quick succession, and the thread may enter SCHED_IDLE.
    fn may_enter(&mut self, wakeups: u32, gap: Duration, now: Instant) -> bool {
        if gap >= micros(WAIT_LIMIT_US) {
            self.check_wait();
            return false;
        }
        wakeups >= ENTER_WAKEUPS && now >= self.pause.lock().end && !self.was_late()
    }

    /// Moves to the CPU of the followed client before the answer: a thread that stays in the normal class
    /// makes the scheduler migrate the client.
    fn follow(&mut self, client: u32, gap: Duration, now: Instant) {
        let followed = &self.roster.client;
        if followed.gap(now) >= micros(WAIT_LIMIT_US) {
            followed.clear();
        }
        let times = followed.count(client);
        let cpu = match followed.get() {
            Some(_) if client == 0 => self.cpu,
            Some((it, _)) if followed.is_crowded(client != it) => {
                followed.clear();
                None
            }
            Some((it, _)) if client == it && times % LOCATE_WAKEUPS == 0 => followed.set(it),
            Some((_, cpu)) => Some(cpu),
            None => None,
        };
        if self.entered && self.cpu != cpu {
            self.leave();
        }
        if self.entered {
            return;
        }
        let cpu = match cpu {
            None if self.may_enter(times, gap, now) => {
                let cpu = self.roster.client.set(client);
                if cpu.is_none() {
                    self.pause.lock().end = now + millis(PAUSE_MIN_MS);
                }
                cpu
            }
            cpu => cpu,
        };
        if cpu.is_some() {
            self.enter(cpu, now);
        }
    }

    /// Counts wakeups and waits from now on; how long the thread waited since the last check.
    fn check_wait(&mut self) -> Duration {
        self.checked = self.last_wakeup;
        let waited = (self.wait_clock)().unwrap_or(Duration::MAX);
        self.wakeups = 0;
        waited.saturating_sub(std::mem::replace(&mut self.waited, waited))
    }

    /// Whether the thread waited for its CPU longer than its wakeups account for. Exact for a few wakeups;
    /// after many it may miss one long wait.
    fn was_late(&mut self) -> bool {
        let allowed = micros(WAIT_LIMIT_US) + micros(USUAL_WAIT_US).saturating_mul(self.wakeups);
        self.check_wait() >= allowed
    }

    /// Whether the thread was late just now, and a few times before. Once is no sign: the client may have
    /// gone on, on this CPU, before this thread could wait for its next request.
    fn is_often_late(&mut self) -> bool {
        let many_wakeups = self.wakeups > STARVED_WAKEUPS;
        self.late = match (self.was_late(), many_wakeups) {
            (true, true) => 1,
            (true, false) => self.late + 1,
            (false, true) => 0,
            (false, false) => self.late,
        };
        self.late >= STARVED_WAKEUPS
    }

    /// Whether many short waits are together too large a part of the time.
    fn waits_much(&mut self, now: Instant) -> bool {
        if self.wakeups < CHECK_WAKEUPS {
            return false;
        }
        let time = now.saturating_duration_since(self.checked);
        let each = match self.placement {
            Placement::Pinned => PINNED_WAIT_PER_WAKEUP_US,
            Placement::Following => FOLLOWING_WAIT_PER_WAKEUP_US,
        };
        let least = micros(each) * self.wakeups;
        let waited = self.check_wait();
        waited >= least && waited >= time / WAIT_SHARE
    }

    fn enter(&mut self, cpu: Option<u32>, now: Instant) {
        self.check_wait();
        if self.roster.note_entry(self.at, cpu).is_err() {
            return self.stay_away(now);
        }
        (self.entered, self.cpu) = (true, cpu);
        self.roster.metrics.add(Counter::SchedIdleEntries, 1);
        if set_class(self.id, Class::Idle).is_err() {
            self.leave();
            self.stay_away(now);
        } else if self.slot().evicted.load(Relaxed) {
            // Held up for so long that the watchdog was here before.
            self.leave();
        }
    }

    /// It cannot be done here.
    fn stay_away(&self, now: Instant) {
        self.roster.client.clear();
        self.pause.lock().end = now + millis(PAUSE_MAX_MS);
    }

    fn leave(&mut self) {
        (self.entered, self.cpu) = (false, None);
        // Before the lock is taken.
        let is_idle = class_of(self.id) == Ok(Some(Class::Idle));
        if let (true, Err(errno)) = (is_idle, set_class(self.id, Class::Normal)) {
            tracing::error!(%errno, "a thread stays in SCHED_IDLE");
        }
        self.roster.note_exit(self.at);
    }
}

impl Scheduling for SchedIdle {
    fn wakeup(&mut self, now: Instant, client: u32) {
        let gap = now.saturating_duration_since(self.last_wakeup);
        self.last_wakeup = now;
        self.wakeups = self.wakeups.saturating_add(1);
        let wakeups = &self.slot().wakeups;
        wakeups.store(wakeups.load(Relaxed).wrapping_add(1), Relaxed);
        let long = gap >= micros(WAIT_LIMIT_US);
        if self.entered && (long && self.is_often_late() || self.waits_much(now)) {
            self.leave();
            self.late = 0;
            self.roster.client.clear();
            self.roster.metrics.add(Counter::SchedIdleStarved, 1);
            self.pause.lock().begin(now);
            return;
        }
        if self.entered && self.slot().evicted.load(Relaxed) {
            self.leave();
        }
        if self.placement == Placement::Following {
            self.follow(client, gap, now);
        } else if !self.entered && self.may_enter(self.wakeups, gap, now) {
            self.enter(None, now);
        }
    }

    fn end(&mut self) {
        if self.entered {
            self.leave();
        }
        self.roster.vacate(self.at);
    }
}

impl Drop for SchedIdle {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
