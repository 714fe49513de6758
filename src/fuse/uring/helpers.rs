//! Threads for requests that take long, so that their queues' threads can go on.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use parking_lot::Mutex;

use crate::attr::InodeNo;
use crate::fuse::dispatch::Dispatcher;
use crate::fuse::uring::exchange::{Exchange, Scratch};
use crate::sys::uring::{Slot, Waker};

/// A request, and the queue that it goes back to when it is answered.
struct Job {
    slot: Slot,
    arrived: Instant,
    home: Arc<Mailbox>,
}

/// Answered requests on their way back to a queue.
pub struct Mailbox {
    /// A leaf lock, held for a few instructions.
    done: Mutex<Vec<Slot>>,
    /// Requests of the queue that wait for a write-back.
    waiting: AtomicUsize,
    waker: Waker,
}

impl Mailbox {
    pub fn new(waker: Waker) -> Mailbox {
        Mailbox { done: Mutex::default(), waiting: AtomicUsize::new(0), waker }
    }

    fn put(&self, slot: Slot) {
        let mut done = self.done.lock();
        done.push(slot);
        // Who put the first one has woken the queue, which takes all.
        let first = done.len() == 1;
        drop(done);
        if first {
            if let Err(errno) = self.waker.wake() {
                tracing::error!(%errno, "a queue is not woken");
            }
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub fn take(&self) -> Option<Slot> {
        self.done.lock().pop()
    }
}

/// The threads' work. They end when nobody has this any more.
#[derive(Clone)]
pub struct Helpers {
    jobs: mpsc::Sender<Job>,
}

impl Helpers {
    /// Starts `threads` of them.
    pub fn start(threads: usize, dispatcher: &Arc<Dispatcher>) -> io::Result<Helpers> {
        let (jobs, work) = mpsc::channel();
        let work = Arc::new(Mutex::new(work));
        for at in 0..threads {
            let (work, dispatcher) = (Arc::clone(&work), Arc::clone(dispatcher));
            std::thread::Builder::new()
                .name(format!("helper-{at}"))
                .spawn(move || help(&work, &dispatcher))?;
        }
        Ok(Helpers { jobs })
    }

    /// Answers the request in `slot` and puts it into `home`.
    pub fn take(&self, slot: Slot, arrived: Instant, home: &Arc<Mailbox>) {
        // Helpers live as long as this, so somebody receives.
        if self.jobs.send(Job { slot, arrived, home: Arc::clone(home) }).is_err() {
            tracing::error!("a request is lost: no helper lives");
        }
    }
}

/// Answers the request in `slot` once the kernel has written out what it holds of `ino`.
pub fn answer_after_write_back(
    slot: Slot,
    arrived: Instant,
    home: &Arc<Mailbox>,
    dispatcher: &Arc<Dispatcher>,
    ino: InodeNo,
) {
    let (mut slot, home, waiting) = (slot, Arc::clone(home), Arc::clone(dispatcher));
    home.waiting.fetch_add(1, Ordering::Relaxed);
    dispatcher.after_write_back(ino, move || {
        Exchange::of(&mut slot).answer(arrived, &mut Scratch::default(), &waiting);
        home.waiting.fetch_sub(1, Ordering::Relaxed);
        home.put(slot);
    });
}

fn help(work: &Mutex<mpsc::Receiver<Job>>, dispatcher: &Dispatcher) {
    let mut scratch = Scratch::default();
    loop {
        // One waits in the channel, the others for the lock.
        let next = work.lock().recv();
        let Ok(Job { mut slot, arrived, home }) = next else { return };
        Exchange::of(&mut slot).answer(arrived, &mut scratch, dispatcher);
        home.put(slot);
    }
}
