//! Threads that come and go with the requests that wait for the host.
//!
//! A thread inherits the CPU affinity and the scheduling class of the one that starts it. A thread that answers
//! requests may be pinned and in SCHED_IDLE (`sched_idle`), so it leaves that to the [`Starter`]'s.

use std::io;
use std::sync::atomic::{
    AtomicBool, AtomicIsize, AtomicUsize, Ordering, Ordering::AcqRel, Ordering::Acquire,
};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::metrics::{Gauge, Metrics};

/// The most threads of a kind. Each may be held up by a host that does not answer.
pub const MOST_THREADS: usize = 1024;

/// For how long all threads must have been busy before more are started: most calls to the host take less.
pub const GROW_DELAY: Duration = Duration::from_millis(5);

/// After how long without work a surplus thread ends.
pub const SURPLUS_IDLE: Duration = Duration::from_secs(10);

type Act = Box<dyn FnOnce() + Send>;

/// A thread of the normal class, on any CPU, which starts others. It ends with the last clone.
#[derive(Clone)]
pub struct Starter {
    orders: mpsc::Sender<(Instant, Act)>,
}

impl Starter {
    /// To be called by a thread that has no CPU or class of its own.
    ///
    /// # Errors
    /// Where no thread is to be had.
    pub fn new() -> io::Result<Starter> {
        let (orders, received) = mpsc::channel::<(Instant, Act)>();
        std::thread::Builder::new().name("starter".to_owned()).spawn(move || {
            for (at, act) in received {
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                act();
            }
        })?;
        Ok(Starter { orders })
    }

    /// Runs `act`, which must not take long, in the starter's thread, after `delay` or a little more.
    pub fn after(&self, delay: Duration, act: impl FnOnce() + Send + 'static) {
        if self.orders.send((Instant::now() + delay, Box::new(act))).is_err() {
            tracing::error!("no thread starts others");
        }
    }
}

/// Threads that do what takes long. As many as there are jobs at a time, after a short delay, up to
/// [`MOST_THREADS`].
pub struct Pool {
    starter: Starter,
    jobs: Sender<Act>,
    crew: Arc<Crew>,
}

/// What the threads of a pool share.
struct Crew {
    work: Receiver<Act>,
    /// Threads that wait for a job or are about to, less the jobs that no thread has taken.
    idle: AtomicIsize,
    threads: AtomicUsize,
    /// Threads that stay without work.
    keep: usize,
    /// The starter is about to look whether more threads are needed.
    growing: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Pool {
    /// `keep`: so many threads, once started, stay.
    pub fn new(keep: usize, starter: Starter, metrics: Arc<Metrics>) -> Pool {
        let (jobs, work) = crossbeam_channel::unbounded();
        let crew = Crew {
            work,
            idle: AtomicIsize::new(0),
            threads: AtomicUsize::new(0),
            keep,
            growing: AtomicBool::new(false),
            metrics,
        };
        Pool { starter, jobs, crew: Arc::new(crew) }
    }

    /// Has a thread run `job`, which may take as long as it likes.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let idle = self.crew.idle.fetch_sub(1, AcqRel);
        if self.jobs.send(Box::new(job)).is_err() {
            tracing::error!("a job is lost: a pool has no receiver");
        }
        if idle > 0 {
            return;
        }
        let is_small = self.crew.threads.load(Acquire) < self.crew.keep;
        if is_small || !self.crew.growing.swap(true, AcqRel) {
            let crew = Arc::clone(&self.crew);
            let delay = if is_small { Duration::ZERO } else { GROW_DELAY };
            self.starter.after(delay, move || crew.grow(is_small));
        }
    }
}

impl Crew {
    /// Starts a thread for each job that none has taken. `is_small`: one for one job, at once.
    fn grow(self: &Arc<Crew>, is_small: bool) {
        if !is_small {
            self.growing.store(false, Ordering::Release);
        }
        let missing = usize::try_from(-self.idle.load(Acquire)).unwrap_or(0);
        let missing = if is_small { missing.min(1) } else { missing };
        for _ in 0..missing.min(MOST_THREADS.saturating_sub(self.threads.load(Acquire))) {
            let member = Member::new(self);
            let name = format!("helper-{}", self.threads.load(Acquire));
            let thread = std::thread::Builder::new().name(name);
            if let Err(error) = thread.spawn(move || member.0.work()) {
                // Jobs wait for the threads that there are.
                tracing::warn!(%error, "no further thread");
                return;
            }
        }
    }

    fn work(&self) {
        loop {
            self.idle.fetch_add(1, AcqRel);
            let job = loop {
                match self.work.recv_timeout(SURPLUS_IDLE) {
                    Ok(job) => break job,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) if self.is_surplus() => return,
                    Err(RecvTimeoutError::Timeout) => {}
                }
            };
            job();
        }
    }

    /// Whether the calling thread, which has no job, is to end; it does not count as idle then.
    fn is_surplus(&self) -> bool {
        if self.threads.load(Acquire) <= self.keep {
            return false;
        }
        // A job that counts on this thread may be on its way.
        let taken = |idle: isize| (idle > 0).then_some(idle - 1);
        self.idle.fetch_update(AcqRel, Acquire, taken).is_ok()
    }
}

/// A thread of a crew, counted until it ends or fails to start.
struct Member(Arc<Crew>);

impl Member {
    fn new(crew: &Arc<Crew>) -> Member {
        crew.threads.fetch_add(1, AcqRel);
        crew.metrics.shift(Gauge::HelperThreads, 1);
        Member(Arc::clone(crew))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.threads.fetch_sub(1, AcqRel);
        self.0.metrics.shift(Gauge::HelperThreads, -1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn jobs_that_wait_for_each_other_all_run() {
        let pool = Pool::new(2, Starter::new().unwrap(), Arc::default());
        let all = Arc::new(Barrier::new(51));
        for _ in 0..50 {
            let all = Arc::clone(&all);
            pool.run(move || _ = all.wait());
        }
        all.wait();
    }

    #[test]
    fn threads_are_used_again() {
        let pool = Pool::new(1, Starter::new().unwrap(), Arc::default());
        let (told, said) = mpsc::channel();
        for _ in 0..1000 {
            let told = told.clone();
            pool.run(move || told.send(()).unwrap());
            said.recv().unwrap();
            // The job has ended a moment before its thread counts as idle again.
            while pool.crew.idle.load(Acquire) < 1 {
                std::thread::yield_now();
            }
        }
        assert_eq!(pool.crew.threads.load(Acquire), 1, "one job at a time");
    }

    #[test]
    fn a_pools_threads_end_with_it() {
        let pool = Pool::new(1, Starter::new().unwrap(), Arc::default());
        let crew = Arc::clone(&pool.crew);
        let (told, said) = mpsc::channel();
        pool.run(move || told.send(()).unwrap());
        said.recv().unwrap();
        drop(pool);
        while crew.threads.load(Acquire) > 0 {
            std::thread::yield_now();
        }
    }
}
