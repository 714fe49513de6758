//! One queue: a ring, its slots, the thread that serves them.

use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::thread::CpuSet;
use zerocopy::IntoBytes;

use crate::errno::{Errno, Result};
use crate::fuse::abi::{self, ring_command};
use crate::fuse::dispatch::Dispatcher;
use crate::fuse::sched_idle::{Placement, Watchdog};
use crate::fuse::uring::exchange::{Exchange, Scratch};
use crate::fuse::uring::mailbox::{self, Mailbox};
use crate::metrics::Gauge;
use crate::sys::uring::{Completion, Layout, Ring, Slot};

/// Slots of a queue at first, and how many are added at a time: one for the thread, and some for what other
/// threads do meanwhile.
const DEPTH: usize = 8;

/// The most slots of a queue. Their memory is taken when they are used.
const MOST_SLOTS: usize = 1024;

/// Slots are added when no more than so many are left for the kernel to put requests into.
const FEW_SLOTS: usize = DEPTH / 2;

/// Slots that may wait for a write-back; the others are left for its WRITEs.
const MOST_WAITING: usize = MOST_SLOTS / 2;

/// What is left of a payload in memory when a queue has been idle: a page.
const KEPT: usize = 4096;

/// How long a queue that used large payloads waits before it gives their memory back, and after how
/// many small payloads it does so although it is busy.
const IDLE: Duration = Duration::from_secs(1);
const SMALL_IN_A_ROW: u32 = 8192;

/// What the thread of a queue is told, in this order. It ends when there is nobody to tell it more.
pub enum Order {
    /// Finds out whether commands on the device are permitted. Before INIT is answered.
    Probe(Arc<OwnedFd>),
    /// Gives the slots to the kernel. After INIT.
    Register(Arc<OwnedFd>),
    Serve(Service),
}

/// What serving takes.
pub struct Service {
    pub dispatcher: Arc<Dispatcher>,
    pub watchdog: Arc<Watchdog>,
    pub end: Box<dyn FnOnce(Result<()>) + Send>,
}

/// One queue, in its thread.
pub struct Queue {
    at: u16,
    ring: Ring,
    /// Slots for nobody yet: all until they are registered, then those of requests that came
    /// before they could be served.
    slots: Vec<Slot>,
    /// How many slots other threads have.
    away: usize,
    mailbox: Arc<Mailbox>,
    scratch: Scratch,
    usage: Usage,
}

impl Queue {
    /// The thread's life.
    pub fn live(
        at: u16,
        payload: usize,
        orders: &mpsc::Receiver<Order>,
        answer: &mpsc::Sender<Result<()>>,
    ) {
        pin(at);
        let made = Queue::new(at, payload);
        let mut queue = match made {
            Ok(queue) => queue,
            Err(errno) => return tell(answer, Err(errno)),
        };
        tell(answer, Ok(()));
        for order in orders {
            match order {
                Order::Probe(device) => tell(answer, queue.probe(device)),
                Order::Register(device) => tell(answer, queue.register(device)),
                Order::Serve(service) => {
                    let served = queue.serve(&service);
                    drop(queue);
                    return (service.end)(served);
                }
            }
        }
    }

    fn new(at: u16, payload: usize) -> Result<Queue> {
        let header = size_of::<abi::RingHeader>();
        let layout = Layout { slots: DEPTH, most_slots: MOST_SLOTS, header, payload };
        let (ring, slots) = Ring::new(layout)?;
        let mailbox = Arc::new(Mailbox::new(ring.waker()?));
        let (scratch, usage) = (Scratch::default(), Usage::default());
        Ok(Queue { at, ring, slots, away: 0, mailbox, scratch, usage })
    }

    /// Registers a slot too early. Whatever stands before the kernel's FUSE answers in its place.
    fn probe(&mut self, device: Arc<OwnedFd>) -> Result<()> {
        self.ring.attach(device);
        let slot = self.slots.pop().ok_or(Errno::INVAL)?;
        self.command(slot, ring_command::REGISTER, 0)?;
        self.ring.enter(Some(None))?;
        match self.ring.take() {
            Some(Completion::Command(slot, said)) => {
                self.slots.push(slot);
                match said {
                    Err(Errno::AGAIN) => Ok(()),
                    said => said.and(Err(Errno::PROTO)),
                }
            }
            _ => Err(Errno::PROTO),
        }
    }

    /// Gives the kernel all slots. One that it does not take comes back at once.
    fn register(&mut self, device: Arc<OwnedFd>) -> Result<()> {
        self.ring.attach(device);
        while let Some(slot) = self.slots.pop() {
            self.command(slot, ring_command::REGISTER, 0)?;
        }
        self.ring.enter(None)?;
        while let Some(completion) = self.ring.take() {
            if let Completion::Command(slot, said) = completion {
                said?;
                self.slots.push(slot);
            }
        }
        Ok(())
    }

    fn command(&mut self, slot: Slot, op: u32, commit_id: u64) -> Result<()> {
        let argument = abi::RingCommand { commit_id, queue: self.at, ..Default::default() };
        self.ring.command(slot, op, argument.as_bytes(), op == ring_command::REGISTER)
    }

    /// Serves until the kernel has given all slots back for good: the connection ended.
    fn serve(&mut self, service: &Service) -> Result<()> {
        let Service { dispatcher, watchdog, .. } = service;
        let mut scheduling = watchdog.schedule(self.at.into(), Placement::Pinned);
        let mut lost = 0;
        let mut end = Ok(());
        while let Some(slot) = self.slots.pop() {
            self.take(slot, Instant::now(), dispatcher)?;
        }
        while lost < self.ring.slots() {
            self.ring.enter(Some(self.usage.patience()))?;
            let now = Instant::now();
            scheduling.wakeup(now, 0);
            let mut idle = true;
            while let Some(completion) = self.ring.take() {
                idle = false;
                match completion {
                    Completion::Command(slot, Ok(())) => {
                        self.take(slot, now, dispatcher)?;
                    }
                    Completion::Command(slot, Err(errno)) => {
                        tracing::debug!(queue = self.at, slot = slot.at(), %errno, "a slot's end");
                        lost += 1;
                        end = end.and(how_it_ended(errno));
                    }
                    Completion::Woken => {}
                }
            }
            while let Some(slot) = self.mailbox.take() {
                idle = false;
                self.away -= 1;
                self.commit(slot)?;
            }
            if self.usage.is_over(idle) {
                self.ring.release(KEPT);
                self.usage = Usage::default();
            }
        }
        scheduling.end();
        end
    }

    /// A request came: answers it, or leaves it to another thread.
    fn take(
        &mut self,
        mut slot: Slot,
        arrived: Instant,
        dispatcher: &Arc<Dispatcher>,
    ) -> Result<()> {
        let exchange = Exchange::of(&mut slot);
        self.usage.note(exchange.payload_len());
        if let Ok(request) = exchange.request(dispatcher) {
            if dispatcher.needs_write_back(&request) {
                let ino = request.node();
                // A slot that waits cannot bring what it waits for. Programs take the error for a
                // file system that knows no holes, and read everything.
                if self.mailbox.waiting() >= MOST_WAITING {
                    exchange.refuse(Errno::INVAL);
                    return self.commit(slot);
                }
                self.away += 1;
                let home = &self.mailbox;
                mailbox::hand_over_after_write_back(slot, arrived, home, dispatcher, ino);
                return self.keep_slots(dispatcher);
            }
            if dispatcher.takes_long(&request) {
                return self.hand_over(slot, arrived, dispatcher);
            }
        }
        if exchange.answer(arrived, &mut self.scratch, dispatcher) {
            return self.commit(slot);
        }
        self.hand_over(slot, arrived, dispatcher)
    }

    /// Leaves a request to another thread.
    fn hand_over(
        &mut self,
        slot: Slot,
        arrived: Instant,
        dispatcher: &Arc<Dispatcher>,
    ) -> Result<()> {
        self.away += 1;
        mailbox::hand_over(slot, arrived, &self.mailbox, dispatcher);
        self.keep_slots(dispatcher)
    }

    /// Adds slots where other threads have nearly all.
    fn keep_slots(&mut self, dispatcher: &Dispatcher) -> Result<()> {
        if self.ring.slots() - self.away > FEW_SLOTS {
            return Ok(());
        }
        match self.ring.grow() {
            Ok(slots) => {
                dispatcher.metrics().shift(Gauge::RingSlots, slots.len() as i64);
                slots.into_iter().try_for_each(|slot| self.command(slot, ring_command::REGISTER, 0))
            }
            Err(errno) => {
                tracing::debug!(queue = self.at, %errno, "no further slots");
                Ok(())
            }
        }
    }

    /// Sends the answer in `slot` with the next call, and the slot with it.
    fn commit(&mut self, mut slot: Slot) -> Result<()> {
        let exchange = Exchange::of(&mut slot);
        self.usage.note(exchange.payload_len());
        let id = exchange.commit_id();
        self.command(slot, ring_command::COMMIT_AND_FETCH, id)
    }
}

fn tell(answer: &mpsc::Sender<Result<()>>, said: Result<()>) {
    if answer.send(said).is_err() {
        tracing::debug!("nobody waits for a queue");
    }
}

/// The end of the connection is no error here: who reads the device knows why it ended.
fn how_it_ended(errno: Errno) -> Result<()> {
    match errno {
        Errno::NOTCONN | Errno::CONNABORTED | Errno::CANCELED | Errno::NODEV => Ok(()),
        errno => Err(errno),
    }
}

/// Runs the calling thread where the queue's requests come from, as far as that is allowed.
fn pin(cpu: u16) {
    let mut set = CpuSet::new();
    if usize::from(cpu) >= CpuSet::MAX_CPU {
        return;
    }
    set.set(cpu.into());
    if let Err(errno) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::debug!(cpu, %errno, "a queue's thread is not pinned");
    }
}

/// How much memory a queue's payloads took lately.
#[derive(Clone, Copy, Default)]
struct Usage {
    large: bool,
    small_in_a_row: u32,
}

impl Usage {
    fn note(&mut self, len: usize) {
        if len > KEPT {
            *self = Usage { large: true, small_in_a_row: 0 };
        } else {
            self.small_in_a_row = self.small_in_a_row.saturating_add(1);
        }
    }

    /// How long to wait for a request.
    fn patience(&self) -> Option<Duration> {
        self.large.then_some(IDLE)
    }

    fn is_over(&self, idle: bool) -> bool {
        self.large && (idle || self.small_in_a_row >= SMALL_IN_A_ROW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_payloads_are_given_back_when_idle_or_out_of_use() {
        let mut usage = Usage::default();
        usage.note(KEPT);
        assert_eq!((usage.patience(), usage.is_over(true)), (None, false));
        usage.note(KEPT + 1);
        assert_eq!(usage.patience(), Some(IDLE));
        assert!(usage.is_over(true) && !usage.is_over(false));
        (0..SMALL_IN_A_ROW - 1).for_each(|_| usage.note(8));
        assert!(!usage.is_over(false));
        usage.note(8);
        assert!(usage.is_over(false));
    }

    #[test]
    fn an_aborted_connection_is_no_failure_of_a_queue() {
        assert_eq!(how_it_ended(Errno::NOTCONN), Ok(()));
        assert_eq!(how_it_ended(Errno::CONNABORTED), Ok(()));
        assert_eq!(how_it_ended(Errno::NOENT), Err(Errno::NOENT));
    }
}
