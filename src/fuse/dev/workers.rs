//! The workers of `/dev/fuse`: which of them read, and when there are more.
//!
//! A request wakes the reader that has waited longest, so many idle readers mean cold threads. Few workers
//! read at a time: a worker that is about to wait for the host stops being a reader, and only when no reader
//! is left another worker becomes one. Where no worker is left either, more are started after a short delay.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::{Buffer, Pace};
use crate::errno::Result;
use crate::fuse::dispatch::Dispatcher;
use crate::fuse::sched_idle::{Placement, Watchdog};
use crate::fuse::threads::{GROW_DELAY, MOST_THREADS, SURPLUS_IDLE, Starter};
use crate::metrics::Gauge;
use crate::sys::fuse_dev;

/// How many workers there are, and how they go about it.
#[derive(Clone, Copy, Debug)]
pub struct WorkerSettings {
    /// Workers that stay; at least one.
    pub keep: usize,
    /// How many read at a time; at least one.
    pub most_readers: usize,
    /// Each of those that stay has a device descriptor of its own, where the kernel gives one.
    pub clone_device: bool,
    /// Another transport carries the requests that clients wait for.
    pub is_beside_queues: bool,
}

/// The workers of a connection.
pub struct Workers {
    settings: WorkerSettings,
    device: Arc<OwnedFd>,
    dispatcher: Arc<Dispatcher>,
    /// `None` beside queues.
    watchdog: Option<Watchdog>,
    starter: Starter,
    /// Told how each worker ended; dropped with the last one.
    on_end: Box<dyn Fn(Result<()>) + Send + Sync>,
    readers: Readers,
}

/// Which workers read. The lock is a leaf: held for a few instructions, never across an operation.
#[derive(Debug)]
struct Readers {
    most: usize,
    keep: usize,
    state: Mutex<State>,
    wanted: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Workers that read, or carry out what needs memory only.
    reading: usize,
    /// Workers that wait until a further reader is wanted.
    waiting: usize,
    threads: usize,
    /// The starter is about to look whether more workers are needed.
    growing: bool,
    ended: bool,
}

impl Workers {
    /// Starts the workers that stay. `on_end` is told how each worker ended.
    ///
    /// # Errors
    /// Where memory or threads are not to be had.
    pub fn start(
        settings: WorkerSettings,
        device: &Arc<OwnedFd>,
        dispatcher: &Arc<Dispatcher>,
        starter: &Starter,
        on_end: impl Fn(Result<()>) + Send + Sync + 'static,
    ) -> std::io::Result<()> {
        let keep = settings.keep.max(1);
        let watchdog = match settings.is_beside_queues {
            true => None,
            false => Some(Watchdog::start(keep, dispatcher.metrics())),
        };
        let workers = Arc::new(Workers {
            settings: WorkerSettings { keep, ..settings },
            device: Arc::clone(device),
            dispatcher: Arc::clone(dispatcher),
            watchdog,
            starter: starter.clone(),
            on_end: Box::new(on_end),
            readers: Readers::new(settings.most_readers, keep),
        });
        (0..keep).try_for_each(|at| workers.add(at))
    }

    fn add(self: &Arc<Workers>, at: usize) -> std::io::Result<()> {
        let device = self.device_of(at);
        let mut buffer = Buffer::new(self.dispatcher.agreed().max_io)?;
        let worker = Worker::new(self);
        let serve = move || {
            let workers = &worker.0;
            let pace = match &workers.watchdog {
                None => Pace::Lazy,
                Some(watchdog) => Pace::Prompt(watchdog.schedule(at, Placement::Following)),
            };
            let served = super::serve(&device, workers, &workers.dispatcher, &mut buffer, pace);
            (workers.on_end)(served);
        };
        std::thread::Builder::new().name(format!("fuse-{at}")).spawn(serve).map(drop)
    }

    /// The first worker has the connection's own descriptor, the others of those that stay one each where
    /// possible.
    fn device_of(&self, at: usize) -> Arc<OwnedFd> {
        if !(1..self.settings.keep).contains(&at) || !self.settings.clone_device {
            return Arc::clone(&self.device);
        }
        match fuse_dev::clone(&*self.device) {
            Ok(fresh) => Arc::new(fresh),
            Err(errno) => {
                tracing::debug!(%errno, "workers share a device descriptor");
                Arc::clone(&self.device)
            }
        }
    }

    /// Waits until a further reader is wanted. False when the connection ended meanwhile, or when the calling
    /// worker has not been wanted for a while and need not stay.
    pub fn join(&self) -> bool {
        self.readers.join()
    }

    /// The calling worker does not read for a while. If no other does, a waiting one is woken; if there is
    /// none, more are started.
    pub fn leave(self: &Arc<Workers>) {
        if self.readers.leave() {
            let workers = Arc::clone(self);
            self.starter.after(GROW_DELAY, move || workers.grow());
        }
    }

    /// The connection has ended: no worker needs to wait any more.
    pub fn end(&self) {
        self.readers.end();
    }

    fn grow(self: &Arc<Workers>) {
        for at in self.readers.missing() {
            if let Err(error) = self.add(at) {
                // Requests wait for the workers that there are.
                tracing::warn!(%error, "no further worker");
                return;
            }
        }
    }
}

impl Readers {
    fn new(most: usize, keep: usize) -> Readers {
        Readers { most: most.max(1), keep, state: Mutex::default(), wanted: Condvar::new() }
    }

    /// See [`Workers::join`].
    fn join(&self) -> bool {
        let mut state = self.state.lock();
        while state.reading >= self.most && !state.ended {
            state.waiting += 1;
            let is_unwanted = match state.threads > self.keep {
                true => self.wanted.wait_for(&mut state, SURPLUS_IDLE).timed_out(),
                false => {
                    self.wanted.wait(&mut state);
                    false
                }
            };
            state.waiting -= 1;
            if is_unwanted && state.reading > 0 && state.threads > self.keep {
                return false;
            }
        }
        state.reading += 1;
        !state.ended
    }

    /// See [`Workers::leave`]. True where the caller is to have more workers started.
    fn leave(&self) -> bool {
        let mut state = self.state.lock();
        state.reading -= 1;
        if state.reading > 0 {
            return false;
        }
        if state.waiting > 0 {
            self.wanted.notify_one();
            return false;
        }
        !std::mem::replace(&mut state.growing, true)
    }

    /// The numbers of the workers to start: half as many as there are, if still none reads.
    fn missing(&self) -> Range<usize> {
        let mut state = self.state.lock();
        state.growing = false;
        if state.reading + state.waiting > 0 || state.ended {
            return 0..0;
        }
        let more = state.threads.div_ceil(2);
        state.threads..(state.threads + more).min(MOST_THREADS)
    }

    fn end(&self) {
        self.state.lock().ended = true;
        self.wanted.notify_all();
    }
}

/// A worker, counted until it ends or fails to start.
struct Worker(Arc<Workers>);

impl Worker {
    fn new(workers: &Arc<Workers>) -> Worker {
        workers.readers.state.lock().threads += 1;
        workers.dispatcher.metrics().shift(Gauge::WorkerThreads, 1);
        Worker(Arc::clone(workers))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.readers.state.lock().threads -= 1;
        self.0.dispatcher.metrics().shift(Gauge::WorkerThreads, -1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_worker_reads_when_no_other_does() {
        let readers = Readers::new(2, 3);
        assert!(readers.join() && readers.join());
        std::thread::scope(|scope| {
            let third = scope.spawn(|| readers.join());
            while readers.state.lock().waiting == 0 {
                std::thread::yield_now();
            }
            assert!(!readers.leave(), "one reads");
            assert!(!readers.leave(), "one waits");
            assert!(third.join().unwrap());
            assert!(readers.join());
            let fourth = scope.spawn(|| readers.join());
            readers.end();
            assert!(!fourth.join().unwrap());
        });
    }

    #[test]
    fn workers_are_added_while_all_wait_for_the_host() {
        let readers = Readers::new(2, 4);
        readers.state.lock().threads = 4;
        assert!(readers.join() && readers.join());
        assert!(!readers.leave());
        assert!(readers.leave() && readers.join());
        assert!(!readers.leave(), "the starter looks already");
        assert_eq!(readers.missing(), 4..6);
        assert!(readers.join());
        assert_eq!(readers.missing(), 0..0, "one reads");
        readers.state.lock().threads = MOST_THREADS;
        assert!(readers.leave());
        assert!(readers.missing().is_empty());
    }
}
