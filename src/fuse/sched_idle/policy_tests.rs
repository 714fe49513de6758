use std::sync::atomic::{AtomicBool, AtomicU64};

use rustix::thread::{sched_getaffinity, sched_setaffinity};

use super::super::proc::{has_wait_clock, stat_field};
use super::super::roster::only;
use super::super::tunables::{OTHER_CLIENTS_WAKEUPS, WINDOW_WAKEUPS};
use super::super::watchdog::{Watchdog, leaves_sched_idle};
use super::*;
use crate::sys::process;

const PAUSE: Duration = millis(PAUSE_MIN_MS);

fn watchdog() -> Watchdog {
    Watchdog::stopped(1, &Arc::default())
}

/// Runs `test` in a thread of its own, where SCHED_IDLE can be left.
fn scheduled(watchdog: &Watchdog, placement: Placement, test: impl FnOnce(SchedIdle) + Send) {
    if !leaves_sched_idle() {
        eprintln!("skipped: no CAP_SYS_NICE");
        return;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if placement == Placement::Pinned {
                let cpu = rustix::thread::sched_getcpu() as u32;
                sched_setaffinity(None, &only(cpu).unwrap()).unwrap();
            }
            test(watchdog.sched_idle(0, placement).unwrap());
        });
    });
}

/// A thread whose wakeups and waits are what the test says.
struct Timed {
    policy: SchedIdle,
    now: Instant,
    waited: Arc<AtomicU64>,
}

impl Timed {
    fn new(mut policy: SchedIdle) -> Timed {
        let waited = Arc::new(AtomicU64::new(0));
        let timed = Arc::clone(&waited);
        policy.wait_clock = Box::new(move || Some(Duration::from_micros(timed.load(Relaxed))));
        policy.waited = Duration::ZERO;
        Timed { now: policy.last_wakeup, policy, waited }
    }

    /// A wakeup after so many microseconds, in which it waited for so many.
    fn wakeup(&mut self, client: u32, micros: u64, waited: u64) -> bool {
        self.now += Duration::from_micros(micros);
        self.waited.fetch_add(waited, Relaxed);
        self.policy.wakeup(self.now, client);
        self.policy.entered
    }

    fn wakeups_in_succession(&mut self, client: u32) -> bool {
        (0..2 * ENTER_WAKEUPS).fold(false, |_, _| self.wakeup(client, 10, 1))
    }
}

fn class_number(thread: u32) -> u32 {
    let stat = std::fs::read(format!("/proc/self/task/{thread}/stat")).unwrap();
    stat_field(&stat, 41).unwrap().parse().unwrap()
}

#[test]
fn a_starved_thread_stays_away_for_longer_each_time() {
    scheduled(&watchdog(), Placement::Pinned, |policy| {
        let mut timed = Timed::new(policy);
        for pause in [PAUSE, 2 * PAUSE, 4 * PAUSE] {
            assert!(timed.wakeups_in_succession(0));
            assert_eq!(class_number(process::thread()), 5);
            // To be late now and then is no sign.
            (0..10).for_each(|_| {
                assert!(timed.wakeup(0, 5000, 4000));
                (0..=STARVED_WAKEUPS).for_each(|_| assert!(timed.wakeup(0, 10, 1)));
            });
            // Nor is it to have slept.
            (0..10).for_each(|_| assert!(timed.wakeup(0, 5000, 1)));
            (1..STARVED_WAKEUPS).for_each(|_| assert!(timed.wakeup(0, 5000, 4000)));
            assert!(!timed.wakeup(0, 5000, 4000));
            assert_eq!(class_number(process::thread()), 0);
            assert_eq!(timed.policy.pause.lock().end, timed.now + pause);
            assert!(!timed.wakeups_in_succession(0));
            timed.now += pause;
        }
        timed.now += 100 * PAUSE;
        assert!(timed.wakeups_in_succession(0));
        (0..STARVED_WAKEUPS).for_each(|_| _ = timed.wakeup(0, 5000, 4000));
        assert_eq!(timed.policy.pause.lock().end, timed.now + PAUSE);
    });
}

#[test]
fn many_short_waits_are_a_long_one() {
    scheduled(&watchdog(), Placement::Pinned, |policy| {
        let mut timed = Timed::new(policy);
        assert!(timed.wakeups_in_succession(0));
        (0..10 * CHECK_WAKEUPS).for_each(|_| assert!(timed.wakeup(0, 900, 19)));
        (0..10 * CHECK_WAKEUPS).for_each(|_| assert!(timed.wakeup(0, 900, 200)));
        let left = (0..2 * CHECK_WAKEUPS).any(|_| !timed.wakeup(0, 900, 800));
        assert!(left);
    });
}

#[test]
fn a_thread_that_competes_for_its_cpu_leaves() {
    let watchdog = watchdog();
    scheduled(&watchdog, Placement::Pinned, |mut policy| {
        while !policy.entered {
            policy.wakeup(Instant::now(), 0);
        }
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                set_class(process::thread(), Class::Normal).unwrap();
                while !end.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
            while policy.entered {
                std::thread::yield_now();
                policy.wakeup(Instant::now(), 0);
            }
            end.store(true, Relaxed);
        });
    });
}

#[test]
fn the_watchdog_evicts_a_thread_without_wakeups() {
    // A thread that has just begun has no figures yet.
    (0..1000).take_while(|_| !has_wait_clock()).for_each(|_| std::thread::yield_now());
    if !has_wait_clock() {
        eprintln!("skipped: no schedstat");
        return;
    }
    let watchdog = Watchdog::start(1, &Arc::default());
    scheduled(&watchdog, Placement::Pinned, |policy| {
        let mut timed = Timed::new(policy);
        while !timed.wakeups_in_succession(0) {}
        let me = process::thread();
        while class_number(me) != 0 {
            std::thread::yield_now();
        }
        assert!(timed.policy.slot().evicted.load(Relaxed));
        // That was no wait for the CPU, so there is no pause.
        assert!(!timed.wakeup(0, 5000, 1));
        assert!(timed.policy.pause.lock().end <= timed.now);
    });
}

#[test]
fn a_thread_without_a_cpu_follows_a_client_of_many_requests_in_a_row() {
    let watchdog = watchdog();
    scheduled(&watchdog, Placement::Following, |policy| {
        let home = sched_getaffinity(None).unwrap();
        let me = process::thread();
        let mut timed = Timed::new(policy);
        // Of two clients in turn none is followed.
        (0..1000).for_each(|at| assert!(!timed.wakeup(me + at % 2, 10, 1)));
        assert!(timed.wakeups_in_succession(me));
        assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
        // Requests without a client change nothing, nor do a few of another client.
        (0..10 * OTHER_CLIENTS_WAKEUPS).for_each(|_| assert!(timed.wakeup(0, 10, 1)));
        (0..100).for_each(|at| assert!(timed.wakeup(me + u32::from(at % 8 == 0), 10, 1)));
        let left = (0..WINDOW_WAKEUPS).any(|at| !timed.wakeup(me + at % 2, 10, 1));
        assert!(left);
        assert_eq!((class_number(me), sched_getaffinity(None).unwrap() == home), (0, true));
        // Nor is a client followed whose quick succession was long ago.
        assert!(timed.wakeups_in_succession(me));
        assert!(!timed.wakeup(me, 1500, 1));
        assert_eq!((class_number(me), sched_getaffinity(None).unwrap() == home), (0, true));
    });
}

#[test]
fn a_class_that_somebody_set_stays() {
    let watchdog = watchdog();
    scheduled(&watchdog, Placement::Following, |policy| {
        let me = process::thread();
        let mut timed = Timed::new(policy);
        assert!(timed.wakeups_in_succession(me));
        let home = sched_getaffinity(None).unwrap();
        set_class(me, Class::Normal).unwrap();
        timed.policy.leave();
        assert_eq!(class_number(me), 0);
        assert!(sched_getaffinity(None).unwrap().count() >= home.count());
        // A thread that somebody has put into the idle class is not taken out of it.
        set_class(me, Class::Idle).unwrap();
        assert!(watchdog.sched_idle(0, Placement::Following).is_none());
        set_class(me, Class::Normal).unwrap();
    });
}
