//! Answered requests on their way back to their queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::attr::InodeNo;
use crate::fuse::dispatch::Dispatcher;
use crate::fuse::uring::exchange::{Exchange, Scratch};
use crate::sys::uring::{Slot, Waker};

/// Where other threads put the slots of a queue.
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
        // The thread that put the first one has woken the queue, which takes all.
        let first = done.len() == 1;
        drop(done);
        if first {
            if let Err(errno) = self.waker.wake() {
                tracing::error!(%errno, "a queue is not woken");
            }
        }
    }

    /// How many requests of the queue wait for a write-back.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub fn take(&self) -> Option<Slot> {
        self.done.lock().pop()
    }
}

/// Has another thread answer the request in `slot`, and put it into `home`.
pub fn hand_over(
    mut slot: Slot,
    arrived: Instant,
    home: &Arc<Mailbox>,
    dispatcher: &Arc<Dispatcher>,
) {
    let (home, answering) = (Arc::clone(home), Arc::clone(dispatcher));
    dispatcher.hand_over(move || {
        Exchange::of(&mut slot).answer_waiting(arrived, &mut Scratch::default(), &answering);
        home.put(slot);
    });
}

/// As [`hand_over`], once the kernel has written out what it holds of `ino`.
pub fn hand_over_after_write_back(
    mut slot: Slot,
    arrived: Instant,
    home: &Arc<Mailbox>,
    dispatcher: &Arc<Dispatcher>,
    ino: InodeNo,
) {
    let (home, answering) = (Arc::clone(home), Arc::clone(dispatcher));
    home.waiting.fetch_add(1, Ordering::Relaxed);
    dispatcher.after_write_back(ino, move || {
        Exchange::of(&mut slot).answer_waiting(arrived, &mut Scratch::default(), &answering);
        home.waiting.fetch_sub(1, Ordering::Relaxed);
        home.put(slot);
    });
}
