//! A ring of commands on a device, each with a slot of memory that the two sides hand to each other.
//!
//! A [`Slot`] is a slot in the hands of this process; giving it to [`Ring::command`] lends it to the
//! kernel, and the command's completion brings it back. So nobody can look at memory the kernel
//! writes to.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use memmap2::{MmapOptions, MmapRaw};
use rustix::mm::Advice;

use crate::errno::{Errno, Result, of_io};

const PAGE: usize = 4096;

/// Where a submission has its `len`, which the command's builder does not set.
const LEN_AT: usize = 24;

/// What a [`Waker`]'s completion carries in place of a slot's number.
const WOKEN: u64 = u64::MAX;

/// The operation by which one ring gets a completion from elsewhere, and how to ask for it without
/// a ring of one's own (Linux 6.13).
const OP_MSG_RING: u8 = 40;
const REGISTER_SEND_MSG_RING: libc::c_uint = 31;

/// The memory of some slots of a ring: the headers in a row, then each payload on its own pages.
/// Pages are taken when they are first used.
struct Memory {
    map: MmapRaw,
    /// The number of its first slot in the ring, and how many there are.
    first: usize,
    slots: usize,
    header: usize,
    payload: usize,
}

impl Memory {
    fn new(first: usize, slots: usize, header: usize, payload: usize) -> io::Result<Memory> {
        let header = header.next_multiple_of(align_of::<u64>());
        let payload = payload.next_multiple_of(PAGE);
        let len = (slots * header).next_multiple_of(PAGE) + slots * payload;
        let map = MmapOptions::new().len(len).no_reserve_swap().map_anon()?;
        Ok(Memory { map: map.into(), first, slots, header, payload })
    }

    /// Of the slot with this number in the ring.
    fn header(&self, at: usize) -> NonNull<u8> {
        debug_assert!((self.first..self.first + self.slots).contains(&at));
        self.at((at - self.first) * self.header)
    }

    fn payload(&self, at: usize) -> NonNull<u8> {
        debug_assert!((self.first..self.first + self.slots).contains(&at));
        let headers = (self.slots * self.header).next_multiple_of(PAGE);
        self.at(headers + (at - self.first) * self.payload)
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.map.len(), "a slot beyond the mapping");
        // SAFETY: the offset is within the mapping, whose start is not null.
        unsafe { NonNull::new_unchecked(self.map.as_mut_ptr().add(offset)) }
    }
}

/// One slot, in the hands of whoever has it: no other value stands for the same memory.
pub struct Slot {
    at: usize,
    memory: Arc<Memory>,
}

impl Slot {
    /// Its number in its ring, from 0.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Its header and its payload.
    pub fn parts(&mut self) -> (&mut [u8], &mut [u8]) {
        let (header, payload) = (self.memory.header(self.at), self.memory.payload(self.at));
        // SAFETY: both ranges lie within the mapping, which `self.memory` keeps, and overlap neither
        // each other nor another slot's. There is one `Slot` for this number, and it is only here
        // while the kernel does not have it, so nobody else reads or writes them.
        unsafe {
            (
                std::slice::from_raw_parts_mut(header.as_ptr(), self.memory.header),
                std::slice::from_raw_parts_mut(payload.as_ptr(), self.memory.payload),
            )
        }
    }
}

/// What came back.
pub enum Completion {
    /// A command ended: its slot and what the kernel says.
    Command(Slot, Result<()>),
    /// A [`Waker`] was used.
    Woken,
}

/// How large a ring is.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Slots that are added at a time.
    pub slots: usize,
    /// The most slots.
    pub most_slots: usize,
    /// Bytes of each part of a slot.
    pub header: usize,
    pub payload: usize,
}

/// An io_uring of one thread: the one that makes it is the only one that may enter it.
pub struct Ring {
    io: IoUring<squeue::Entry128, cqueue::Entry>,
    layout: Layout,
    /// Each has `layout.slots` slots.
    memory: Vec<Arc<Memory>>,
    /// Which slots the kernel has.
    lent: Vec<bool>,
    /// The iovecs of the slots' parts, which must live until a command that names them is submitted.
    parts: Vec<Box<[[libc::iovec; 2]]>>,
    /// Open for as long as a submission may name it.
    device: Option<Arc<OwnedFd>>,
}

impl Ring {
    /// A ring and its first slots.
    ///
    /// # Errors
    /// `ENOSYS` or `EPERM` where io_uring is not to be had, `EINVAL` where the kernel lacks what is
    /// asked of it, `ENOMEM`.
    pub fn new(layout: Layout) -> Result<(Ring, Vec<Slot>)> {
        let io = IoUring::<squeue::Entry128, cqueue::Entry>::builder()
            // Only this thread enters, and what the kernel has to do in its context is done when it
            // enters, never in between: see `release`.
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(layout.most_slots.next_power_of_two() as u32)
            .build(layout.slots as u32)
            .map_err(|e| of_io(&e))?;
        let (memory, lent, parts) = (Vec::new(), Vec::new(), Vec::new());
        let mut ring = Ring { io, layout, memory, lent, parts, device: None };
        let slots = ring.grow()?;
        Ok((ring, slots))
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.lent.len()
    }

    /// More slots, or none where there are as many as there may be.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn grow(&mut self) -> Result<Vec<Slot>> {
        let Layout { slots, most_slots, header, payload } = self.layout;
        let first = self.lent.len();
        if first + slots > most_slots {
            return Ok(Vec::new());
        }
        let memory = Memory::new(first, slots, header, payload).map_err(|e| of_io(&e))?;
        let memory = Arc::new(memory);
        let part =
            |base: NonNull<u8>, len| libc::iovec { iov_base: base.as_ptr().cast(), iov_len: len };
        let parts =
            |at| [part(memory.header(at), header), part(memory.payload(at), memory.payload)];
        self.parts.push((first..first + slots).map(parts).collect());
        self.lent.resize(first + slots, false);
        self.memory.push(Arc::clone(&memory));
        Ok((first..first + slots).map(|at| Slot { at, memory: Arc::clone(&memory) }).collect())
    }

    fn memory_of(&self, at: usize) -> &Arc<Memory> {
        &self.memory[at / self.layout.slots]
    }

    /// The device that commands are for.
    pub fn attach(&mut self, device: Arc<OwnedFd>) {
        self.device = Some(device);
    }

    /// Lends `slot` to the kernel with the command `op` of the device, which travels with the next
    /// [`Ring::enter`]. `with_parts`: the command tells where the slot lies.
    pub fn command(
        &mut self,
        slot: Slot,
        op: u32,
        argument: &[u8],
        with_parts: bool,
    ) -> Result<()> {
        let device = self.device.as_ref().ok_or(Errno::BADF)?;
        let own =
            self.lent.get(slot.at).is_some() && Arc::ptr_eq(&slot.memory, self.memory_of(slot.at));
        if !own {
            return Err(Errno::INVAL);
        }
        let mut cmd = [0; 80];
        cmd.get_mut(..argument.len()).ok_or(Errno::INVAL)?.copy_from_slice(argument);
        let of_slot = |at: usize| &self.parts[at / self.layout.slots][at % self.layout.slots];
        let parts = with_parts.then(|| of_slot(slot.at).as_ptr().addr() as u64);
        let mut entry = opcode::UringCmd80::new(types::Fd(device.as_raw_fd()), op)
            .cmd(cmd)
            .addr(parts)
            .build()
            .user_data(slot.at as u64);
        if with_parts {
            set_len(&mut entry, 2);
        }
        if self.io.submission().is_full() {
            self.enter(None)?;
        }
        // SAFETY: the device stays open with `self.device`; the iovecs are in a box of `self`, and
        // the memory they name is unmapped only when the kernel has none of it (see `Drop`).
        unsafe { self.io.submission().push(&entry) }.map_err(|_| Errno::AGAIN)?;
        self.lent[slot.at] = true;
        Ok(())
    }

    /// Submits the commands, and with `wait` waits for a completion, for ever or for some time.
    pub fn enter(&mut self, wait: Option<Option<Duration>>) -> Result<()> {
        let entered = match wait {
            None => self.io.submit(),
            Some(None) => self.io.submit_and_wait(1),
            Some(Some(time)) => {
                let time = types::Timespec::from(time);
                self.io.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&time))
            }
        };
        match entered.map_err(|e| of_io(&e)) {
            Ok(_) | Err(Errno::TIME | Errno::INTR | Errno::AGAIN | Errno::BUSY) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// The next completion, without waiting.
    pub fn take(&mut self) -> Option<Completion> {
        let done = self.io.completion().next()?;
        if done.user_data() == WOKEN {
            return Some(Completion::Woken);
        }
        let at = done.user_data() as usize;
        let lent = self.lent.get_mut(at).filter(|lent| **lent);
        *lent.expect("the kernel completes only what it was given") = false;
        let slot = Slot { at, memory: Arc::clone(self.memory_of(at)) };
        let said = match done.result() {
            result @ ..0 => Err(Errno::from_raw_os_error(-result)),
            _ => Ok(()),
        };
        Some(Completion::Command(slot, said))
    }

    /// Whether the kernel has any slot.
    pub fn is_lent(&self) -> bool {
        self.lent.contains(&true)
    }

    /// Gives the pages of the payloads behind their first `keep` bytes back to the system, of those
    /// slots that the kernel has and has not used yet; without effect while a completion waits.
    pub fn release(&mut self, keep: usize) {
        if !self.io.completion().is_empty() {
            return;
        }
        for at in 0..self.lent.len() {
            let memory = self.memory_of(at);
            let keep = keep.next_multiple_of(PAGE).min(memory.payload);
            if !self.lent[at] || keep == memory.payload {
                continue;
            }
            let (start, len) = (memory.payload(at), memory.payload - keep);
            // SAFETY: the range lies within the slot's payload. The kernel has the slot, so no
            // reference into it is alive here, and the kernel takes zeros as it takes anything.
            let done = unsafe {
                rustix::mm::madvise(start.add(keep).as_ptr().cast(), len, Advice::LinuxDontNeed)
            };
            if let Err(errno) = done {
                tracing::debug!(%errno, "pages of a payload stay");
            }
        }
    }

    /// What makes [`Ring::enter`] return from any thread.
    pub fn waker(&self) -> Result<Waker> {
        // SAFETY: the ring is open while `self.io` lives.
        let ring = unsafe { BorrowedFd::borrow_raw(self.io.as_raw_fd()) };
        ring.try_clone_to_owned().map(|ring| Waker { ring }).map_err(|e| of_io(&e))
    }
}

impl Drop for Ring {
    /// The kernel may write to slots that it still has until it notices: their memory stays then.
    fn drop(&mut self) {
        if self.is_lent() {
            self.memory.iter().for_each(|memory| std::mem::forget(Arc::clone(memory)));
        }
    }
}

fn set_len(entry: &mut squeue::Entry128, len: u32) {
    const { assert!(size_of::<squeue::Entry128>() == 128) };
    // SAFETY: the entry is the kernel's submission of 128 bytes (`repr(C)`, all integers), in which a
    // u32 lies at this offset.
    unsafe { std::ptr::from_mut(entry).cast::<u8>().add(LEN_AT).cast::<u32>().write(len) };
}

/// Wakes a ring's thread.
pub struct Waker {
    ring: OwnedFd,
}

impl Waker {
    /// Gives the ring a completion: [`Completion::Woken`].
    pub fn wake(&self) -> Result<()> {
        let mut message = [0_u8; 64];
        message[0] = OP_MSG_RING;
        message[4..8].copy_from_slice(&self.ring.as_raw_fd().to_ne_bytes());
        message[8..16].copy_from_slice(&WOKEN.to_ne_bytes());
        // SAFETY: the kernel reads one submission of 64 bytes from the pointer, which outlives the
        // call, and writes no memory of ours.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                -1,
                REGISTER_SEND_MSG_RING,
                message.as_ptr(),
                1,
            )
        };
        if rc < 0 { Err(of_io(&io::Error::last_os_error())) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `None` where io_uring is forbidden.
    fn ring(slots: usize, payload: usize) -> Option<(Ring, Vec<Slot>)> {
        let layout = Layout { slots, most_slots: 2 * slots, header: 288, payload };
        match Ring::new(layout) {
            Ok(made) => Some(made),
            Err(errno) => {
                eprintln!("skipped: io_uring: {errno}");
                None
            }
        }
    }

    #[test]
    fn slots_do_not_overlap() {
        let Some((_ring, mut slots)) = ring(3, 8192) else { return };
        for slot in &mut slots {
            let mark = slot.at() as u8 + 1;
            let (header, payload) = slot.parts();
            assert_eq!((header.len(), payload.len()), (288, 8192));
            assert_eq!(payload.as_ptr().addr() % PAGE, 0);
            header.fill(mark);
            payload.fill(mark);
        }
        for slot in &mut slots {
            let mark = slot.at() as u8 + 1;
            let (header, payload) = slot.parts();
            assert!(header.iter().chain(&*payload).all(|&byte| byte == mark));
        }
    }

    #[test]
    fn slots_are_added_up_to_the_most() {
        let Some((mut ring, mut slots)) = ring(3, 8192) else { return };
        slots.extend(ring.grow().unwrap());
        assert!(ring.grow().unwrap().is_empty());
        assert_eq!(slots.iter().map(Slot::at).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        (0..6).for_each(|at| slots[at].parts().1.fill(at as u8));
        let filled =
            |at: usize, slot: &mut Slot| slot.parts().1.iter().all(|&b| usize::from(b) == at);
        assert!(slots.iter_mut().enumerate().all(|(at, slot)| filled(at, slot)));
    }

    #[test]
    fn more_commands_than_a_submission_queue_holds() {
        let Some((mut ring, mut slots)) = ring(2, 4096) else { return };
        ring.attach(Arc::new(std::fs::File::open("/dev/zero").unwrap().into()));
        slots.extend(ring.grow().unwrap());
        let count = slots.len();
        slots.drain(..).for_each(|slot| ring.command(slot, 7, &[], true).unwrap());
        ring.enter(Some(Some(Duration::from_secs(5)))).unwrap();
        let back = std::iter::from_fn(|| ring.take()).count();
        assert_eq!(back, count);
    }

    #[test]
    fn a_command_that_fails_brings_its_slot_back() {
        let Some((mut ring, mut slots)) = ring(1, 4096) else { return };
        let null = std::fs::File::open("/dev/zero").unwrap();
        ring.attach(Arc::new(null.into()));
        ring.command(slots.remove(0), 7, &[], true).unwrap();
        assert!(ring.is_lent());
        ring.enter(Some(Some(Duration::from_secs(5)))).unwrap();
        let Some(Completion::Command(slot, said)) = ring.take() else { panic!("no completion") };
        // No device command, and a device that knows none.
        assert_eq!((slot.at(), said), (0, Err(Errno::OPNOTSUPP)));
        assert!(!ring.is_lent());
    }

    #[test]
    fn another_thread_wakes_the_ring() {
        let Some((mut ring, _slots)) = ring(1, 4096) else { return };
        let waker = ring.waker().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || match waker.wake() {
                Ok(()) => {}
                Err(Errno::INVAL) => eprintln!("skipped: Linux before 6.13"),
                Err(errno) => panic!("{errno}"),
            });
            ring.enter(Some(Some(Duration::from_secs(5)))).unwrap();
        });
        assert!(matches!(ring.take(), Some(Completion::Woken)));
    }
}
