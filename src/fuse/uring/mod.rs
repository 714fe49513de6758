//! The io_uring transport: a queue of requests per CPU, each with a thread of its own.
//!
//! The kernel puts a request into a slot of the queue of the CPU that asks, and the queue's thread,
//! pinned there, answers it and fetches the next one with one system call. The kernel uses the
//! queues only when every possible CPU has one, and holds up all requests until then; so everything
//! that can fail is done before INIT is answered ([`Queues::prepare`], [`Queues::probe`]).
//!
//! FORGET and INTERRUPT still travel over `/dev/fuse`, which is read beside (`fuse/dev.rs`).
//!
//! A queue's thread answers one request after the other. What may take long is handed over to another
//! thread (`fuse/threads.rs`), which hands the slot back to the queue ([`mailbox`]). Nothing that these threads do
//! needs another queue's answer, so they cannot wait for each other in a circle. A queue adds slots while other
//! threads have nearly all.

mod exchange;
mod mailbox;
mod queue;

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};

use crate::errno::{Errno, Result};
use crate::fuse::abi;
use crate::fuse::dispatch::Dispatcher;
use crate::fuse::sched_idle::Watchdog;
use queue::{Order, Queue, Service};

const POSSIBLE_CPUS: &str = "/sys/devices/system/cpu/possible";
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// Why requests cannot travel over io_uring here.
#[derive(Debug)]
pub enum Unavailable {
    /// The module's parameter is off.
    Off,
    /// The kernel's FUSE is older than its io_uring.
    Unknown,
    /// INIT did not offer it.
    NotOffered,
    /// The possible CPUs cannot be known.
    Cpus,
    /// A ring or its thread could not be had.
    Ring(Errno),
    /// A policy forbids commands on the device, or the kernel has no memory.
    Refused(Errno),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::Off => write!(f, "{PARAMETER} is off"),
            Unavailable::Unknown => f.write_str("this kernel's FUSE has no io_uring (Linux 6.14)"),
            Unavailable::NotOffered => f.write_str("the kernel does not offer it"),
            Unavailable::Cpus => write!(f, "{POSSIBLE_CPUS} does not tell the CPUs"),
            Unavailable::Ring(errno @ (Errno::PERM | Errno::NOSYS)) => {
                write!(f, "io_uring is forbidden: {errno}")
            }
            Unavailable::Ring(errno) => write!(f, "no ring for each CPU: {errno}"),
            Unavailable::Refused(errno) => write!(f, "the kernel refused the queues: {errno}"),
        }
    }
}

/// Queues whose threads wait for orders. Dropping them ends the threads.
pub struct Queues {
    queues: Vec<mpsc::Sender<Order>>,
    answers: mpsc::Receiver<Result<()>>,
}

impl Queues {
    /// A queue per possible CPU, for requests and replies of up to `max_io` bytes of data.
    pub fn prepare(max_io: u32) -> std::result::Result<Queues, Unavailable> {
        check_parameter()?;
        let cpus = possible_cpus().ok_or(Unavailable::Cpus)?;
        let payload = (max_io as usize).max(abi::MIN_READ_BUFFER);
        let (answer, answers) = mpsc::channel();
        let mut queues = Queues { queues: Vec::with_capacity(cpus.into()), answers };
        for at in 0..cpus {
            let (order, orders) = mpsc::channel();
            let answer = answer.clone();
            std::thread::Builder::new()
                .name(format!("ring-{at}"))
                .spawn(move || Queue::live(at, payload, &orders, &answer))
                .map_err(|e| Unavailable::Ring(crate::errno::of_io(&e)))?;
            queues.queues.push(order);
        }
        queues.answered(cpus.into()).map_err(Unavailable::Ring)?;
        Ok(queues)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.queues.len()
    }

    /// Whether `device`, mounted but not initialised, takes commands.
    pub fn probe(&self, device: &Arc<OwnedFd>) -> std::result::Result<(), Unavailable> {
        let told = self.queues.first().map(|queue| queue.send(Order::Probe(Arc::clone(device))));
        match told {
            Some(Ok(())) => self.answered(1).map_err(Unavailable::Refused),
            _ => Err(Unavailable::Ring(Errno::SRCH)),
        }
    }

    /// Gives the kernel all slots, once INIT has agreed on io_uring, and serves. Each thread's end
    /// is told to what `end` makes. Where this fails the connection is good for nothing.
    pub fn serve<E>(
        &self,
        device: &Arc<OwnedFd>,
        dispatcher: &Arc<Dispatcher>,
        end: impl Fn() -> E,
    ) -> std::result::Result<(), Unavailable>
    where
        E: FnOnce(Result<()>) + Send + 'static,
    {
        let tell = |order: &dyn Fn() -> Order| {
            self.queues.iter().try_for_each(|queue| queue.send(order()).map_err(|_| Errno::SRCH))
        };
        tell(&|| Order::Register(Arc::clone(device)))
            .and_then(|()| self.answered(self.queues.len()))
            .map_err(Unavailable::Refused)?;
        let watchdog = Arc::new(Watchdog::start(self.queues.len(), dispatcher.metrics()));
        let service = || Service {
            dispatcher: Arc::clone(dispatcher),
            watchdog: Arc::clone(&watchdog),
            end: Box::new(end()),
        };
        tell(&|| Order::Serve(service())).map_err(Unavailable::Refused)
    }

    fn answered(&self, count: usize) -> Result<()> {
        self.answers.iter().take(count).collect()
    }
}

/// What can be known before anything is tried. Without `/sys`, INIT will tell.
fn check_parameter() -> std::result::Result<(), Unavailable> {
    match std::fs::read_to_string(PARAMETER) {
        Ok(value) if value.trim() == "Y" => Ok(()),
        Ok(_) => Err(Unavailable::Off),
        Err(_) if std::path::Path::new("/sys/module/fuse/parameters").exists() => {
            Err(Unavailable::Unknown)
        }
        Err(_) => Ok(()),
    }
}

fn possible_cpus() -> Option<u16> {
    count_of_list(std::fs::read_to_string(POSSIBLE_CPUS).ok()?.trim())
}

/// How many numbers a list such as `0-3,8-11` has.
fn count_of_list(list: &str) -> Option<u16> {
    list.split(',').try_fold(0_u16, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(count_of_list("0"), Some(1));
        assert_eq!(count_of_list("0-127"), Some(128));
        assert_eq!(count_of_list("0-3,8-11,15"), Some(9));
        for wrong in ["", "x", "3-1", "0-", "0-65535"] {
            assert_eq!(count_of_list(wrong), None, "{wrong}");
        }
    }
}
