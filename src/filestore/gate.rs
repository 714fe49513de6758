//! The I/O gate: lets the reclaimer wait for the I/O that began before it asked, without holding
//! up the I/O that begins after.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crossbeam_utils::CachePadded;
use parking_lot::{Condvar, Mutex};

/// Two counters of I/O under way, used in turns. The barrier switches to the other one and waits
/// until the one left behind is zero.
#[derive(Debug, Default)]
pub(super) struct Gate {
    turn: CachePadded<AtomicU64>,
    /// Every I/O changes one of these, and only reads `turn`: each has a cache line of its own.
    busy: [CachePadded<AtomicU64>; 2],
    /// Held by the one barrier under way; guards `ended`'s wait.
    barrier: Mutex<()>,
    waiting: Mutex<()>,
    ended: Condvar,
}

/// Counts as I/O under way until it is dropped.
#[derive(Debug)]
#[must_use = "the gate is left when this is dropped"]
pub(super) struct IoGuard<'a> {
    gate: &'a Gate,
    turn: u64,
}

impl Gate {
    pub(super) fn enter(&self) -> IoGuard<'_> {
        loop {
            let turn = self.turn.load(SeqCst);
            self.busy[(turn & 1) as usize].fetch_add(1, SeqCst);
            depth::add(1);
            let guard = IoGuard { gate: self, turn };
            // A barrier that switched in between may not have seen the count: try the next turn.
            if self.turn.load(SeqCst) == turn {
                return guard;
            }
        }
    }

    /// Returns when every guard taken before the call has been dropped.
    pub(super) fn barrier(&self) {
        let _one = self.barrier.lock();
        let turn = self.turn.fetch_add(1, SeqCst);
        let busy = &self.busy[(turn & 1) as usize];
        let mut waiting = self.waiting.lock();
        while busy.load(SeqCst) != 0 {
            self.ended.wait(&mut waiting);
        }
    }
}

/// How many guards the running thread has, in debug builds. (A guard is dropped where it was made.)
mod depth {
    #[cfg(debug_assertions)]
    thread_local!(static DEPTH: std::cell::Cell<i32> = const { std::cell::Cell::new(0) });

    #[cfg(debug_assertions)]
    pub(super) fn add(by: i32) {
        DEPTH.with(|depth| depth.set(depth.get() + by));
    }

    #[cfg(debug_assertions)]
    pub(super) fn get() -> i32 {
        DEPTH.with(std::cell::Cell::get)
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn add(_by: i32) {}

    #[cfg(not(debug_assertions))]
    pub(super) fn get() -> i32 {
        0
    }
}

/// In debug builds: panics when the running thread is in a gate. What waits for I/O would wait for itself then.
pub(super) fn assert_outside() {
    debug_assert_eq!(depth::get(), 0, "this waits for I/O, and the caller is in the gate");
}

impl Drop for IoGuard<'_> {
    fn drop(&mut self) {
        depth::add(-1);
        let left = self.gate.busy[(self.turn & 1) as usize].fetch_sub(1, SeqCst) - 1;
        if left == 0 && self.gate.turn.load(SeqCst) != self.turn {
            let _waiting = self.gate.waiting.lock();
            self.gate.ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    #[test]
    fn a_barrier_waits_for_earlier_io_only() {
        let gate = Gate::default();
        let early = gate.enter();
        let passed = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                gate.barrier();
                passed.store(true, SeqCst);
            });
            std::thread::sleep(Duration::from_millis(30));
            let late = gate.enter();
            assert!(!passed.load(SeqCst));
            drop(early);
            let begun = Instant::now();
            while !passed.load(SeqCst) {
                assert!(begun.elapsed() < Duration::from_secs(5), "held up by later I/O");
                std::thread::yield_now();
            }
            drop(late);
        });
    }

    #[test]
    fn no_io_outlives_a_barrier_that_followed_it() {
        let gate = Gate::default();
        // Writers publish the version they saw; after a barrier no older version may be in use.
        let version = AtomicU64::new(0);
        let floor = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    while !stop.load(SeqCst) {
                        let _io = gate.enter();
                        let seen = version.load(SeqCst);
                        std::hint::spin_loop();
                        assert!(seen >= floor.load(SeqCst));
                    }
                });
            }
            for v in 1..3000 {
                version.store(v, SeqCst);
                gate.barrier();
                floor.store(v, SeqCst);
            }
            stop.store(true, SeqCst);
        });
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "the caller is in the gate"))]
    fn who_waits_for_io_must_not_be_in_the_gate() {
        let gate = Gate::default();
        drop(gate.enter());
        assert_outside();
        let _io = gate.enter();
        assert_outside();
    }
}
