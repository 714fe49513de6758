//! Keeps the one who asked on the CPU where the answer is.
//!
//! The kernel wakes who waits for an answer while the queue's thread still runs. Its scheduler then sees a busy CPU and
//! moves the woken task to an idle one, so each request costs a wake-up across CPUs, of one that may be halted: longer than
//! all the rest. A CPU that runs nothing but threads of the class SCHED_IDLE counts as idle (`sched_idle_cpu` in the
//! kernel's kernel/sched/fair.c), so a queue's thread takes that class while requests come in quick succession.
//!
//! The class gets next to nothing of a CPU that others of its scheduling group (a session, a control group) want as well.
//! So nobody stays in it for long without an answer given: a thread that had to wait leaves it at its next turn and
//! stays away for a while, and one that takes no turn is put out of it by the [`Watch`], a few milliseconds later.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::sys::process::{self, Class, set_class};

/// What the scheduler tells of the calling thread (the kernel's Documentation/scheduler/sched-stats.rst).
const STATISTICS: &str = "/proc/thread-self/schedstat";

/// A gap between turns that ends a quick succession; a wait for the CPU that is too long.
const LONG: Duration = Duration::from_millis(1);
/// What each turn waits at most when all is well: for the one who asks to go to sleep.
const SHORT: Duration = Duration::from_micros(50);
/// Turns in quick succession before a thread takes the idle class.
const QUICK: u32 = 32;

/// How long a thread stays in the normal class after it had to wait: the shortest, doubled each time that it
/// has to wait again soon, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often the watch looks. A thread that took no turn in between is put into the normal class.
const TICK: Duration = Duration::from_millis(4);

/// What the watch knows of a thread.
#[derive(Default)]
struct Seat {
    thread: AtomicU32,
    turns: AtomicU32,
    idle: AtomicBool,
}

/// Threads that may take the idle class, and what wakes the one that looks after them.
struct Shared {
    seats: Box<[Seat]>,
    /// Somebody may be in the idle class. Held while the watch acts.
    awake: Mutex<bool>,
    ended: AtomicBool,
    wake: Condvar,
}

/// Looks after threads in the idle class, until it is dropped.
pub struct Watch(Arc<Shared>);

impl Watch {
    /// A watch over `threads` of them. `None` where a thread could not leave the idle class again, or where nothing
    /// tells how long one waits.
    pub fn start(threads: usize) -> Option<Watch> {
        File::open(STATISTICS).ok()?;
        // Leaving takes CAP_SYS_NICE or RLIMIT_NICE. Who has neither must not even try to enter.
        if !leaves_idle_class() {
            return None;
        }
        let shared = Arc::new(Shared {
            seats: (0..threads).map(|_| Seat::default()).collect(),
            awake: Mutex::new(false),
            ended: AtomicBool::new(false),
            wake: Condvar::new(),
        });
        let watched = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("watch".into());
        thread.spawn(move || watch(&watched)).ok()?;
        Some(Watch(shared))
    }

    /// For the calling thread, which has the seat `at`.
    pub fn seat(&self, at: usize) -> io::Result<Courtesy> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let statistics = File::open(STATISTICS)?;
        let waited = waited(&statistics).ok_or_else(missing)?;
        self.0
            .seats
            .get(at)
            .ok_or_else(missing)?
            .thread
            .store(process::thread(), Ordering::Relaxed);
        let now = Instant::now();
        Ok(Courtesy {
            shared: Arc::clone(&self.0),
            at,
            statistics,
            turned: now,
            waited,
            turns: 0,
            idle: false,
            away_until: now,
            pause: PAUSE,
            since: now,
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let awake = self.0.awake.lock();
        self.0.ended.store(true, Ordering::Relaxed);
        drop(awake);
        self.0.wake.notify_one();
    }
}

fn watch(shared: &Shared) {
    let mut seen: Vec<u32> = vec![0; shared.seats.len()];
    let mut awake = shared.awake.lock();
    while !shared.ended.load(Ordering::Relaxed) {
        if !*awake {
            shared.wake.wait(&mut awake);
            continue;
        }
        // Only the end comes before the time is over.
        shared.wake.wait_for(&mut awake, TICK);
        *awake = false;
        for (seat, seen) in shared.seats.iter().zip(&mut seen) {
            if !seat.idle.load(Ordering::Acquire) {
                continue;
            }
            let turns = seat.turns.load(Ordering::Relaxed);
            if std::mem::replace(seen, turns) != turns {
                *awake = true;
                continue;
            }
            seat.idle.store(false, Ordering::Release);
            let thread = seat.thread.load(Ordering::Relaxed);
            if let Err(errno) = set_class(thread, Class::Normal) {
                tracing::debug!(%errno, thread, "a thread stays in the idle class");
            }
        }
    }
}

/// The class of the thread that has this.
pub struct Courtesy {
    shared: Arc<Shared>,
    at: usize,
    statistics: File,
    /// When it last turned to requests.
    turned: Instant,
    /// What it had waited for the CPU when it last looked, and how often it has turned since.
    waited: Duration,
    turns: u32,
    /// It took the idle class. (The watch may have put it out again.)
    idle: bool,
    /// Stays in the normal class until then.
    away_until: Instant,
    pause: Duration,
    /// When it last took the idle class.
    since: Instant,
}

impl Courtesy {
    /// To be called whenever the thread turns to new requests.
    pub fn turn(&mut self) {
        let now = Instant::now();
        let gap = now.saturating_duration_since(self.turned);
        self.turned = now;
        self.turns = self.turns.wrapping_add(1);
        let seat = self.seat();
        seat.turns.store(seat.turns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        if gap >= LONG {
            if self.idle {
                let had_to_wait = self.had_to_wait();
                let put_out = !self.seat().idle.load(Ordering::Acquire);
                if had_to_wait || put_out {
                    self.leave(had_to_wait, now);
                }
            } else {
                self.look();
            }
        } else if !self.idle && self.turns >= QUICK && now >= self.away_until {
            if self.had_to_wait() {
                self.turns = 0;
            } else {
                self.enter(now);
            }
        }
    }

    fn seat(&self) -> &Seat {
        &self.shared.seats[self.at]
    }

    /// Counts turns and waits from now on.
    fn look(&mut self) -> Duration {
        let waited = waited(&self.statistics).unwrap_or(Duration::MAX);
        self.turns = 0;
        waited.saturating_sub(std::mem::replace(&mut self.waited, waited))
    }

    /// Whether it waited for the CPU longer than so many turns take. Right for a few turns, else it may
    /// overlook a wait, and not the next one.
    fn had_to_wait(&mut self) -> bool {
        let allowed = LONG + SHORT.saturating_mul(self.turns);
        self.look() >= allowed
    }

    fn enter(&mut self, now: Instant) {
        if set_class(process::thread(), Class::Idle).is_err() {
            self.away_until = now + LONGEST_PAUSE;
            return;
        }
        (self.idle, self.since) = (true, now);
        self.seat().idle.store(true, Ordering::Release);
        let mut awake = self.shared.awake.lock();
        if !std::mem::replace(&mut *awake, true) {
            self.shared.wake.notify_one();
        }
    }

    fn leave(&mut self, had_to_wait: bool, now: Instant) {
        self.idle = false;
        self.seat().idle.store(false, Ordering::Release);
        if let Err(errno) = set_class(process::thread(), Class::Normal) {
            tracing::error!(%errno, "a queue's thread stays in the idle class");
        }
        if had_to_wait {
            let soon = now.saturating_duration_since(self.since) < 10 * self.pause;
            self.pause = if soon { (2 * self.pause).min(LONGEST_PAUSE) } else { PAUSE };
            self.away_until = now + self.pause;
            tracing::debug!(pause = ?self.pause, "a queue's thread had to wait for its CPU");
        }
    }
}

impl Drop for Courtesy {
    /// Once the thread has ended its number may be another's: the watch, which holds this lock, must not use it.
    fn drop(&mut self) {
        let _awake = self.shared.awake.lock();
        self.seat().idle.store(false, Ordering::Release);
    }
}

/// How long the thread has waited for a CPU in its life.
fn waited(statistics: &File) -> Option<Duration> {
    let mut text = [0; 96];
    let len = statistics.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..len)?).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// Whether a thread can leave the idle class, found out by one that ends anyway.
fn leaves_idle_class() -> bool {
    let attempt = || {
        let me = process::thread();
        set_class(me, Class::Idle).and_then(|()| set_class(me, Class::Normal)).is_ok()
    };
    let thread = std::thread::Builder::new().name("probe".into()).spawn(attempt);
    thread.is_ok_and(|thread| thread.join().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::CpuSet;

    /// Runs `test` in a thread that is pinned, with a watch over it; not where the class cannot be left.
    fn watched(test: impl FnOnce(&Watch, Courtesy) + Send) {
        let Some(watch) = Watch::start(1) else {
            eprintln!("skipped: no CAP_SYS_NICE");
            return;
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut set = CpuSet::new();
                set.set(rustix::thread::sched_getcpu());
                rustix::thread::sched_setaffinity(None, &set).unwrap();
                let courtesy = watch.seat(0).unwrap();
                test(&watch, courtesy);
            });
        });
    }

    fn turn_quickly(courtesy: &mut Courtesy) {
        (0..100_000).for_each(|_| {
            if !courtesy.idle {
                courtesy.turn();
            }
        });
    }

    fn policy(thread: u32) -> u32 {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
        // proc_pid_stat(5): the 41st field, behind a name that may hold anything.
        stat.rsplit(')').next().unwrap().split_ascii_whitespace().nth(38).unwrap().parse().unwrap()
    }

    #[test]
    fn who_has_to_wait_leaves_the_idle_class() {
        watched(|_, mut courtesy| {
            turn_quickly(&mut courtesy);
            assert!(courtesy.idle);
            assert_eq!(policy(process::thread()), 5);
            let end = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    set_class(process::thread(), Class::Normal).unwrap();
                    while !end.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
                while courtesy.idle {
                    std::thread::yield_now();
                    courtesy.turn();
                }
                end.store(true, Ordering::Relaxed);
            });
            assert_eq!(policy(process::thread()), 0);
        });
    }

    #[test]
    fn who_had_to_wait_stays_away_for_a_while() {
        watched(|_, mut courtesy| {
            turn_quickly(&mut courtesy);
            let now = Instant::now();
            courtesy.leave(true, now);
            assert_eq!((courtesy.pause, courtesy.away_until), (2 * PAUSE, now + 2 * PAUSE));
            (0..10 * QUICK).for_each(|_| courtesy.turn());
            assert!(!courtesy.idle || now.elapsed() >= 2 * PAUSE);
            courtesy.away_until = now;
            turn_quickly(&mut courtesy);
            assert!(courtesy.idle);
            // Nobody was in the way for long.
            courtesy.since = now - 100 * PAUSE;
            courtesy.leave(true, now);
            assert_eq!(courtesy.pause, PAUSE);
        });
    }

    #[test]
    fn the_watch_puts_out_who_takes_no_turn() {
        watched(|watch, mut courtesy| {
            turn_quickly(&mut courtesy);
            assert!(courtesy.idle);
            let me = process::thread();
            while policy(me) != 0 {
                std::thread::yield_now();
            }
            assert!(!watch.0.seats[0].idle.load(Ordering::Acquire));
            // That was no wait for the CPU, so it does not stay away.
            courtesy.waited = Duration::MAX;
            courtesy.turned -= LONG;
            courtesy.turn();
            assert!(!courtesy.idle && courtesy.pause == PAUSE);
        });
    }
}
