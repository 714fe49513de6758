//! Keeps the one who asked on the CPU where the answer is.
//!
//! The kernel wakes who waits for an answer while the thread that gave it still runs. Its scheduler then sees a busy CPU
//! and moves the woken task to an idle one, so each request costs a wake-up across CPUs, of one that may be halted: longer
//! than all the rest. A CPU that runs nothing but threads of the class SCHED_IDLE counts as idle (`sched_idle_cpu` in the
//! kernel's kernel/sched/fair.c), so a thread takes that class while requests come to it in quick succession. A queue's
//! thread has its CPU; one that reads `/dev/fuse` moves to the CPU of whom it has answered a few times in a row.
//!
//! The class gets next to nothing of a CPU that others of its scheduling group (a session, a control group) want as well.
//! So nobody stays in it for long without an answer given: a thread that had to wait leaves it at its next turn and
//! stays away for a while, and one that takes no turn is put out of it by the [`Watch`], a few milliseconds later.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

use crate::errno::{Errno, Result};
use crate::sys::process::{self, Class, class_of, set_class};

/// What the scheduler tells of the calling thread (the kernel's Documentation/scheduler/sched-stats.rst).
const STATISTICS: &str = "/proc/thread-self/schedstat";

/// A gap between turns that ends a quick succession; a wait for the CPU that is too long.
const LONG: Duration = Duration::from_millis(1);
/// So many long waits with no more turns from one to the next are too many.
const OFTEN: u32 = 4;
/// What each turn waits at most when all is well: for the one who asks to go to sleep.
const SHORT: Duration = Duration::from_micros(50);
/// After so many turns a thread looks how long it waited. A third of the time is too long if it is this much a turn: on a
/// CPU of its own, and where it may also have waited, wanted by nobody, for one who went on before it could sleep.
const LOOKS: u32 = 64;
const MUCH: Duration = Duration::from_micros(20);
const MUCH_AMONG_READERS: Duration = Duration::from_micros(50);
/// Turns in quick succession before a thread takes the idle class.
const QUICK: u32 = 32;
/// Turns for one who is followed after which somebody looks where it is.
const FOLLOWED: u32 = 8;
/// So many turns for others, of a number of turns, and nobody is followed any longer.
const STRANGERS: u32 = 4;
const OF_TURNS: u32 = 16;

/// How long a thread stays in the normal class after it had to wait: the shortest, doubled each time that it
/// has to wait again soon, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often the watch looks. A thread that took no turn in between is put into the normal class, for so many ticks.
const TICK: Duration = Duration::from_millis(4);
const PUTS_OUT: u32 = 8;

/// What the watch knows of a thread.
#[derive(Default)]
struct Seat {
    turns: AtomicU32,
    /// Its thread took the idle class. Set with the lock of [`State`] held.
    idle: AtomicBool,
    /// The watch put it out of that.
    out: AtomicBool,
}

/// Threads that may take the idle class, and what wakes the one that looks after them.
struct Shared {
    seats: Box<[Seat]>,
    state: Mutex<State>,
    ended: AtomicBool,
    wake: Condvar,
    /// The number of the thread that asked last, and how many times in a row.
    streak: AtomicU64,
    /// The number of the one that is followed, and the CPU where it is; 0: nobody.
    followed: AtomicU64,
    /// Turns while somebody is followed, and how many of them were for others.
    others: AtomicU64,
    /// When any thread turned last, in microseconds since `start`.
    turned: AtomicU64,
    start: Instant,
}

/// Its lock is held while the watch acts. A leaf, and nobody in the idle class takes it: who waits for it might
/// wait for long.
struct State {
    /// Somebody may be in the idle class.
    awake: bool,
    /// Of each seat: whose it is.
    threads: Box<[Option<Thread>]>,
}

fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn halves(pair: u64) -> (u32, u32) {
    ((pair >> 32) as u32, pair as u32)
}

impl Shared {
    /// How often in a row this one has asked; 0 where it is nobody. (What is lost where two threads turn at once does
    /// not matter.)
    fn count(&self, asker: u32) -> u32 {
        if asker == 0 {
            return 0;
        }
        let (last, times) = halves(self.streak.load(Relaxed));
        let times = if last == asker { times.saturating_add(1) } else { 1 };
        self.streak.store(pair(asker, times), Relaxed);
        times
    }

    fn followed(&self) -> Option<(u32, u32)> {
        Some(halves(self.followed.load(Relaxed))).filter(|(asker, _)| *asker != 0)
    }

    fn follow_nobody(&self) {
        self.followed.store(0, Relaxed);
        self.streak.store(0, Relaxed);
        self.others.store(0, Relaxed);
    }

    /// Follows `asker` to where it is now, if that can be known: it may be gone, or in another namespace.
    fn follow(&self, asker: u32) -> Option<u32> {
        let cpu = cpu_of(asker);
        self.followed.store(cpu.map_or(0, |cpu| pair(asker, cpu)), Relaxed);
        cpu
    }

    /// Whether others ask too often for anybody to be followed.
    fn is_crowded(&self, is_other: bool) -> bool {
        let (turns, others) = halves(self.others.load(Relaxed));
        let (turns, others) = (turns + 1, others + u32::from(is_other));
        let next = if turns < OF_TURNS { pair(turns, others) } else { 0 };
        self.others.store(next, Relaxed);
        others >= STRANGERS
    }

    /// The time since any thread turned.
    fn gap(&self, now: Instant) -> Duration {
        let now = now.saturating_duration_since(self.start).as_micros() as u64;
        Duration::from_micros(now.saturating_sub(self.turned.swap(now, Relaxed)))
    }
}

struct Thread {
    number: u32,
    /// The CPU it went to, and those that it might be on before.
    moved: Option<(u32, CpuSet)>,
}

impl Thread {
    /// Not to one that it may not be on.
    fn move_to(&mut self, cpu: u32) -> Result<()> {
        let home = sched_getaffinity(self.pid())?;
        let only = only(cpu).filter(|_| home.is_set(cpu as usize)).ok_or(Errno::INVAL)?;
        sched_setaffinity(self.pid(), &only)?;
        self.moved = Some((cpu, home));
        Ok(())
    }

    /// Leaves the class and the CPU, unless somebody gave it another meanwhile.
    fn leave(&mut self) -> Result<()> {
        if class_of(self.number)? == Some(Class::Idle) {
            set_class(self.number, Class::Normal)?;
        }
        let Some((cpu, home)) = &self.moved else { return Ok(()) };
        if Some(sched_getaffinity(self.pid())?) == only(*cpu) {
            sched_setaffinity(self.pid(), home)?;
        }
        self.moved = None;
        Ok(())
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.number).ok()?)
    }
}

fn only(cpu: u32) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    let cpu = cpu as usize;
    (cpu < CpuSet::MAX_CPU).then(|| set.set(cpu)).map(|()| set)
}

/// When to take the idle class again after it turned out badly.
struct Trial {
    again: Instant,
    pause: Duration,
}

impl Trial {
    fn failed(&mut self, now: Instant) {
        let soon = now.saturating_duration_since(self.again) < 10 * self.pause;
        self.pause = if soon { (2 * self.pause).min(LONGEST_PAUSE) } else { PAUSE };
        self.again = now + self.pause;
        tracing::debug!(pause = ?self.pause, "a thread had to wait for its CPU");
    }
}

/// Looks after threads in the idle class, until it is dropped.
pub struct Watch {
    shared: Arc<Shared>,
    /// Of threads that follow.
    trial: Arc<Mutex<Trial>>,
}

fn trial() -> Arc<Mutex<Trial>> {
    Arc::new(Mutex::new(Trial { again: Instant::now(), pause: PAUSE / 2 }))
}

impl Watch {
    /// A watch over `threads` of them. `None` where a thread could not leave the idle class again, or where nothing
    /// tells how long one waits.
    pub fn start(threads: usize) -> Option<Watch> {
        // Some kernels tell nothing but zeros.
        figure(&File::open(STATISTICS).ok()?, 0).filter(|ran| !ran.is_zero())?;
        // Leaving takes CAP_SYS_NICE or RLIMIT_NICE. Who has neither must not even try to enter.
        if !leaves_idle_class() {
            tracing::info!("no CAP_SYS_NICE: who asks may be moved to another CPU at each answer");
            return None;
        }
        let watch = Watch::asleep(threads);
        let watched = Arc::clone(&watch.shared);
        let thread = std::thread::Builder::new().name("watch".into());
        thread.spawn(move || self::watch(&watched)).ok()?;
        Some(watch)
    }

    /// One that nobody keeps.
    fn asleep(threads: usize) -> Watch {
        let state = State { awake: false, threads: (0..threads).map(|_| None).collect() };
        let shared = Arc::new(Shared {
            seats: (0..threads).map(|_| Seat::default()).collect(),
            state: Mutex::new(state),
            ended: AtomicBool::new(false),
            wake: Condvar::new(),
            streak: AtomicU64::new(0),
            followed: AtomicU64::new(0),
            others: AtomicU64::new(0),
            turned: AtomicU64::new(0),
            start: Instant::now(),
        });
        Watch { shared, trial: trial() }
    }

    /// For the calling thread, which has the seat `at`. `follows`: it has no CPU of its own. `None` where
    /// it is of a class that somebody gave it.
    pub fn seat(&self, at: usize, follows: bool) -> Option<Courtesy> {
        let file = File::open(STATISTICS).ok()?;
        let statistics: Statistics = Box::new(move || figure(&file, 1));
        let waited = statistics()?;
        let number = process::thread();
        class_of(number).ok().flatten().filter(|class| *class == Class::Normal)?;
        let mut state = self.shared.state.lock();
        *state.threads.get_mut(at)? = Some(Thread { number, moved: None });
        drop(state);
        Some(Courtesy {
            shared: Arc::clone(&self.shared),
            at,
            number,
            statistics,
            turned: Instant::now(),
            waited,
            looked: Instant::now(),
            turns: 0,
            late: 0,
            idle: false,
            trial: if follows { Arc::clone(&self.trial) } else { trial() },
            follows,
            cpu: None,
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let state = self.shared.state.lock();
        self.shared.ended.store(true, Relaxed);
        drop(state);
        self.shared.wake.notify_one();
    }
}

fn watch(shared: &Shared) {
    // Of each seat: its turns, and for how many ticks it has taken no further one.
    let mut seen: Vec<(u32, u32)> = vec![(0, 0); shared.seats.len()];
    let mut state = shared.state.lock();
    while !shared.ended.load(Relaxed) {
        if !state.awake {
            shared.wake.wait(&mut state);
            continue;
        }
        // Only the end comes before the time is over.
        shared.wake.wait_for(&mut state, TICK);
        let State { awake, threads } = &mut *state;
        *awake = false;
        for ((seat, thread), seen) in shared.seats.iter().zip(threads).zip(&mut seen) {
            let Some(thread) = thread.as_mut().filter(|_| seat.idle.load(Relaxed)) else {
                continue;
            };
            let turns = seat.turns.load(Relaxed);
            let (before, ticks) = seen;
            *ticks = if *before == turns { ticks.saturating_add(1) } else { 0 };
            *before = turns;
            // Several times, as it may be about to take the class just now.
            *awake |= *ticks < PUTS_OUT;
            if !(1..=PUTS_OUT).contains(ticks) {
                continue;
            }
            seat.out.store(true, Relaxed);
            if let Err(errno) = thread.leave() {
                tracing::debug!(%errno, thread = thread.number, "a thread stays in the idle class");
            }
        }
    }
}

/// How long a thread has waited for a CPU in its life.
type Statistics = Box<dyn Fn() -> Option<Duration> + Send>;

/// The class of the thread that has this, and its CPU if it follows.
pub struct Courtesy {
    shared: Arc<Shared>,
    at: usize,
    number: u32,
    statistics: Statistics,
    /// When it last turned to requests.
    turned: Instant,
    /// What it had waited for the CPU when it last looked, and how often it has turned since.
    waited: Duration,
    looked: Instant,
    turns: u32,
    /// How often it was late lately.
    late: u32,
    /// It took the idle class. (The watch may have put it out again.)
    idle: bool,
    trial: Arc<Mutex<Trial>>,
    follows: bool,
    /// Where it followed to, in the idle class.
    cpu: Option<u32>,
}

impl Courtesy {
    /// To be called whenever the thread turns to new requests; `asker` is the number of the thread that asks, 0
    /// where that is not known or nobody's.
    pub fn turn(&mut self, asker: u32) {
        self.turn_at(Instant::now(), asker);
    }

    fn turn_at(&mut self, now: Instant, asker: u32) {
        let gap = now.saturating_duration_since(self.turned);
        self.turned = now;
        self.turns = self.turns.saturating_add(1);
        let turns = &self.seat().turns;
        turns.store(turns.load(Relaxed).wrapping_add(1), Relaxed);
        if self.idle && (gap >= LONG && self.is_often_late() || self.waits_much(now)) {
            self.leave();
            self.late = 0;
            self.shared.follow_nobody();
            self.trial.lock().failed(now);
            return;
        }
        if self.idle && self.seat().out.load(Relaxed) {
            self.leave();
        }
        if self.follows {
            self.follow(asker, gap, now);
        } else if !self.idle && self.is_to_try(self.turns, gap, now) {
            self.enter(None, now);
        }
    }

    /// Whether a quick succession of so many turns is one to take the idle class for.
    fn is_to_try(&mut self, turns: u32, gap: Duration, now: Instant) -> bool {
        if gap >= LONG {
            self.look();
            return false;
        }
        turns >= QUICK && now >= self.trial.lock().again && !self.had_to_wait()
    }

    /// Goes where the one is whom all follow, before it answers: one who stays in the normal class drives the one who
    /// asks away.
    fn follow(&mut self, asker: u32, gap: Duration, now: Instant) {
        if self.shared.gap(now) >= LONG {
            self.shared.follow_nobody();
        }
        let times = self.shared.count(asker);
        let cpu = match self.shared.followed() {
            Some(_) if asker == 0 => self.cpu,
            Some((followed, _)) if self.shared.is_crowded(asker != followed) => {
                self.shared.follow_nobody();
                None
            }
            Some((followed, _)) if asker == followed && times % FOLLOWED == 0 => {
                self.shared.follow(followed)
            }
            Some((_, cpu)) => Some(cpu),
            None => None,
        };
        if self.idle && self.cpu != cpu {
            self.leave();
        }
        if self.idle {
            return;
        }
        let cpu = match cpu {
            None if self.is_to_try(times, gap, now) => {
                let cpu = self.shared.follow(asker);
                if cpu.is_none() {
                    self.trial.lock().again = now + PAUSE;
                }
                cpu
            }
            cpu => cpu,
        };
        if cpu.is_some() {
            self.enter(cpu, now);
        }
    }

    fn seat(&self) -> &Seat {
        &self.shared.seats[self.at]
    }

    /// Counts turns and waits from now on; how long it had waited.
    fn look(&mut self) -> Duration {
        self.looked = self.turned;
        let waited = (self.statistics)().unwrap_or(Duration::MAX);
        self.turns = 0;
        waited.saturating_sub(std::mem::replace(&mut self.waited, waited))
    }

    /// Whether it waited for the CPU longer than so many turns take. Right for a few turns, else it may
    /// overlook a wait, and not the next one.
    fn had_to_wait(&mut self) -> bool {
        let allowed = LONG + SHORT.saturating_mul(self.turns);
        self.look() >= allowed
    }

    /// Whether it had to wait just now, and did so a few times before. Once is no sign: who asked may have
    /// gone on, with the CPU, before this thread could wait for its next request.
    fn is_often_late(&mut self) -> bool {
        let on_time = self.turns > OFTEN;
        let late = self.had_to_wait();
        self.late = match (late, on_time) {
            (true, true) => 1,
            (true, false) => self.late + 1,
            (false, true) => 0,
            (false, false) => self.late,
        };
        self.late >= OFTEN
    }

    /// Whether it waits a good part of the time, in waits that are short each.
    fn waits_much(&mut self, now: Instant) -> bool {
        if self.turns < LOOKS {
            return false;
        }
        let time = now.saturating_duration_since(self.looked);
        let much = if self.follows { MUCH_AMONG_READERS } else { MUCH } * self.turns;
        let waited = self.look();
        waited >= much && waited >= time / 3
    }

    fn enter(&mut self, cpu: Option<u32>, now: Instant) {
        self.look();
        let mut state = self.shared.state.lock();
        let thread = state.threads[self.at].as_mut();
        if cpu.zip(thread).is_some_and(|(cpu, thread)| thread.move_to(cpu).is_err()) {
            // One that it must not use.
            drop(state);
            return self.cannot(now);
        }
        self.seat().out.store(false, Relaxed);
        self.seat().idle.store(true, Relaxed);
        if !std::mem::replace(&mut state.awake, true) {
            self.shared.wake.notify_one();
        }
        drop(state);
        (self.idle, self.cpu) = (true, cpu);
        if set_class(self.number, Class::Idle).is_err() {
            self.leave();
            self.cannot(now);
        } else if self.seat().out.load(Relaxed) {
            // Held up for so long that the watch was here before.
            self.leave();
        }
    }

    fn cannot(&self, now: Instant) {
        self.shared.follow_nobody();
        self.trial.lock().again = now + LONGEST_PAUSE;
    }

    fn leave(&mut self) {
        (self.idle, self.cpu) = (false, None);
        // Before the lock is taken.
        let is_idle = class_of(self.number) == Ok(Some(Class::Idle));
        if let (true, Err(errno)) = (is_idle, set_class(self.number, Class::Normal)) {
            tracing::error!(%errno, "a thread stays in the idle class");
        }
        let mut state = self.shared.state.lock();
        self.seat().idle.store(false, Relaxed);
        if let Some(Err(errno)) = state.threads[self.at].as_mut().map(Thread::leave) {
            tracing::debug!(%errno, "a thread keeps to its CPU");
        }
    }
}

impl Drop for Courtesy {
    /// Once the thread has ended its number may be another's.
    fn drop(&mut self) {
        if self.idle {
            self.leave();
        }
        self.shared.state.lock().threads[self.at] = None;
    }
}

/// The CPU that a thread was on last (proc_pid_stat(5)).
fn cpu_of(thread: u32) -> Option<u32> {
    let stat = std::fs::read(format!("/proc/{thread}/task/{thread}/stat")).ok()?;
    field(&stat, 39)?.parse().ok()
}

/// A field of a thread's `stat`, from 3. The second one is a name in parentheses, which may hold anything.
fn field(stat: &[u8], number: usize) -> Option<&str> {
    let behind = stat.iter().rposition(|&byte| byte == b')')? + 1;
    std::str::from_utf8(&stat[behind..]).ok()?.split_ascii_whitespace().nth(number.checked_sub(3)?)
}

/// Nanoseconds among what the scheduler tells: 0: on a CPU, 1: waiting for one.
fn figure(statistics: &File, at: usize) -> Option<Duration> {
    let mut text = [0; 96];
    let len = statistics.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..len)?).ok()?;
    text.split_ascii_whitespace().nth(at)?.parse().ok().map(Duration::from_nanos)
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

    /// Runs `test` in a thread that is pinned, or free to follow, where the class can be left.
    fn seated(watch: &Watch, follows: bool, test: impl FnOnce(Courtesy) + Send) {
        if !leaves_idle_class() {
            eprintln!("skipped: no CAP_SYS_NICE");
            return;
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if !follows {
                    let cpu = rustix::thread::sched_getcpu() as u32;
                    sched_setaffinity(None, &only(cpu).unwrap()).unwrap();
                }
                test(watch.seat(0, follows).unwrap());
            });
        });
    }

    /// A thread whose turns and waits are what the test says.
    struct Told {
        courtesy: Courtesy,
        now: Instant,
        waited: Arc<AtomicU64>,
    }

    impl Told {
        fn new(mut courtesy: Courtesy) -> Told {
            let waited = Arc::new(AtomicU64::new(0));
            let told = Arc::clone(&waited);
            courtesy.statistics = Box::new(move || Some(Duration::from_micros(told.load(Relaxed))));
            courtesy.waited = Duration::ZERO;
            Told { now: courtesy.turned, courtesy, waited }
        }

        /// Turns after so many microseconds, in which it waited for so many.
        fn turn(&mut self, asker: u32, micros: u64, waited: u64) -> bool {
            self.now += Duration::from_micros(micros);
            self.waited.fetch_add(waited, Relaxed);
            self.courtesy.turn_at(self.now, asker);
            self.courtesy.idle
        }

        fn turn_quickly(&mut self, asker: u32) -> bool {
            (0..2 * QUICK).fold(false, |_, _| self.turn(asker, 10, 1))
        }
    }

    fn policy(thread: u32) -> u32 {
        let stat = std::fs::read(format!("/proc/self/task/{thread}/stat")).unwrap();
        field(&stat, 41).unwrap().parse().unwrap()
    }

    #[test]
    fn a_name_with_anything_in_it_hides_no_field() {
        assert_eq!(field(b"7 (a) 1 (b) S 4 5", 3), Some("S"));
        assert_eq!(field(b"7 (a) 1 (b) S 4 5", 5), Some("5"));
        assert_eq!(field(b"7 (a) 1 (b) S 4 5", 6), None);
        assert_eq!(field(b"7", 3), None);
    }

    #[test]
    fn who_has_to_wait_leaves_the_idle_class_for_longer_each_time() {
        seated(&Watch::asleep(1), false, |courtesy| {
            let mut told = Told::new(courtesy);
            for pause in [PAUSE, 2 * PAUSE, 4 * PAUSE] {
                assert!(told.turn_quickly(0));
                assert_eq!(policy(process::thread()), 5);
                // To be late now and then is no sign.
                (0..10).for_each(|_| {
                    assert!(told.turn(0, 5000, 4000));
                    (0..=OFTEN).for_each(|_| assert!(told.turn(0, 10, 1)));
                });
                // Nor is it to have slept.
                (0..10).for_each(|_| assert!(told.turn(0, 5000, 1)));
                (1..OFTEN).for_each(|_| assert!(told.turn(0, 5000, 4000)));
                assert!(!told.turn(0, 5000, 4000));
                assert_eq!(policy(process::thread()), 0);
                assert_eq!(told.courtesy.trial.lock().again, told.now + pause);
                assert!(!told.turn_quickly(0));
                told.now += pause;
            }
            told.now += 100 * PAUSE;
            assert!(told.turn_quickly(0));
            (0..OFTEN).for_each(|_| _ = told.turn(0, 5000, 4000));
            assert_eq!(told.courtesy.trial.lock().again, told.now + PAUSE);
        });
    }

    #[test]
    fn many_short_waits_are_a_long_one() {
        seated(&Watch::asleep(1), false, |courtesy| {
            let mut told = Told::new(courtesy);
            assert!(told.turn_quickly(0));
            (0..10 * LOOKS).for_each(|_| assert!(told.turn(0, 900, 19)));
            (0..10 * LOOKS).for_each(|_| assert!(told.turn(0, 900, 200)));
            let left = (0..2 * LOOKS).any(|_| !told.turn(0, 900, 800));
            assert!(left);
        });
    }

    #[test]
    fn who_waits_indeed_notices() {
        let watch = Watch::asleep(1);
        seated(&watch, false, |mut courtesy| {
            while !courtesy.idle {
                courtesy.turn(0);
            }
            let end = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    set_class(process::thread(), Class::Normal).unwrap();
                    while !end.load(Relaxed) {
                        std::hint::spin_loop();
                    }
                });
                while courtesy.idle {
                    std::thread::yield_now();
                    courtesy.turn(0);
                }
                end.store(true, Relaxed);
            });
        });
    }

    #[test]
    fn the_watch_puts_out_who_takes_no_turn() {
        let Some(watch) = Watch::start(1) else { return };
        seated(&watch, false, |courtesy| {
            let mut told = Told::new(courtesy);
            while !told.turn_quickly(0) {}
            let me = process::thread();
            while policy(me) != 0 {
                std::thread::yield_now();
            }
            assert!(told.courtesy.seat().out.load(Relaxed));
            // That was no wait for the CPU, so it does not stay away.
            assert!(!told.turn(0, 5000, 1));
            assert!(told.courtesy.trial.lock().again <= told.now);
        });
    }

    #[test]
    fn who_has_no_cpu_follows_one_who_asks_many_times_in_a_row() {
        let watch = Watch::asleep(1);
        seated(&watch, true, |courtesy| {
            let home = sched_getaffinity(None).unwrap();
            let me = process::thread();
            let mut told = Told::new(courtesy);
            // Two who ask in turn are followed by nobody.
            (0..1000).for_each(|at| assert!(!told.turn(me + at % 2, 10, 1)));
            assert!(told.turn_quickly(me));
            assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
            // What nobody asks changes nothing, nor do a few requests of another.
            (0..10 * STRANGERS).for_each(|_| assert!(told.turn(0, 10, 1)));
            (0..100).for_each(|at| assert!(told.turn(me + u32::from(at % 8 == 0), 10, 1)));
            let left = (0..OF_TURNS).any(|at| !told.turn(me + at % 2, 10, 1));
            assert!(left);
            assert_eq!((policy(me), sched_getaffinity(None).unwrap() == home), (0, true));
            // Nor is somebody followed who asked in quick succession, but long ago.
            assert!(told.turn_quickly(me));
            assert!(!told.turn(me, 1500, 1));
            assert_eq!((policy(me), sched_getaffinity(None).unwrap() == home), (0, true));
        });
    }

    #[test]
    fn what_somebody_else_decided_stays() {
        let watch = Watch::asleep(1);
        seated(&watch, true, |courtesy| {
            let me = process::thread();
            let mut told = Told::new(courtesy);
            assert!(told.turn_quickly(me));
            let home = sched_getaffinity(None).unwrap();
            set_class(me, Class::Normal).unwrap();
            told.courtesy.leave();
            assert_eq!(policy(me), 0);
            assert!(sched_getaffinity(None).unwrap().count() >= home.count());
            // A thread that somebody has put into the idle class is not taken out of it.
            set_class(me, Class::Idle).unwrap();
            assert!(watch.seat(0, true).is_none());
            set_class(me, Class::Normal).unwrap();
        });
    }
}
