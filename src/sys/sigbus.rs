//! A write to a mapped file that the host cannot carry out (no space for a shared page, a file system that was shut down)
//! raises SIGBUS. For registered ranges the handler here maps memory of the process over the page, so that
//! the write ends, and notes that it was lost.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst};

use crate::errno::{Errno, Result};

/// Ranges that can be registered at a time.
const SLOTS: usize = 256;

#[derive(Debug)]
struct Slot {
    /// 0: free.
    start: AtomicUsize,
    /// Bytes; 0 while it is being registered.
    len: AtomicUsize,
    lost: AtomicBool,
}

static RANGES: [Slot; SLOTS] = [const {
    Slot { start: AtomicUsize::new(0), len: AtomicUsize::new(0), lost: AtomicBool::new(false) }
}; SLOTS];

/// Bytes of a page; set before the handler is installed.
static PAGE: AtomicUsize = AtomicUsize::new(4096);

/// What handled SIGBUS before.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

/// A registered range of a mapping. The mapping must live at least as long.
#[derive(Debug)]
pub(super) struct Guarded {
    slot: &'static Slot,
}

impl Guarded {
    /// Registers `len` bytes from address `start`.
    ///
    /// # Errors
    /// `ENOBUFS` where too many are registered.
    pub(super) fn new(start: usize, len: usize) -> Result<Guarded> {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(install);
        let free = |slot: &&Slot| slot.start.compare_exchange(0, start, SeqCst, SeqCst).is_ok();
        let slot = RANGES.iter().find(free).ok_or(Errno::NOBUFS)?;
        slot.lost.store(false, SeqCst);
        slot.len.store(len, SeqCst);
        Ok(Guarded { slot })
    }

    /// Whether a write to the range was lost.
    pub(super) fn has_lost(&self) -> bool {
        self.slot.lost.load(SeqCst)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.slot.len.store(0, SeqCst);
        self.slot.start.store(0, SeqCst);
    }
}

fn install() {
    PAGE.store(rustix::param::page_size(), SeqCst);
    let mut previous = Box::new(default_action());
    let mut action = default_action();
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: both point to a `sigaction`; the handler below calls only what is safe in a handler.
    let installed = unsafe { libc::sigaction(libc::SIGBUS, &action, &mut *previous) };
    if installed == 0 {
        PREVIOUS.store(Box::into_raw(previous), SeqCst);
    }
}

fn default_action() -> libc::sigaction {
    // SAFETY: all zeros is a valid `sigaction`: the default action, an empty mask, no flags.
    unsafe { std::mem::zeroed() }
}

/// Runs on the thread whose write failed. Calls mmap(2), sigaction(2) and atomics only.
extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler with SA_SIGINFO, and SIGBUS has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let slot = RANGES.iter().find(|slot| {
        let start = slot.start.load(SeqCst);
        start != 0 && (start..start + slot.len.load(SeqCst)).contains(&address)
    });
    if let Some(slot) = slot {
        let page = PAGE.load(SeqCst);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let at = (address & !(page - 1)) as *mut libc::c_void;
        // SAFETY: the page is within a registered range, which is a mapping of this process that nobody has a reference
        // into; it is replaced as a whole, and unmapped with the rest of the range.
        let mapped = unsafe { libc::mmap(at, page, access, flags, -1, 0) };
        if mapped != libc::MAP_FAILED {
            slot.lost.store(true, SeqCst);
            return;
        }
    }
    pass_on(signal, info, context);
}

/// Somebody else's SIGBUS: does what would have been done without the handler here.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.load(SeqCst);
    // SAFETY: it is null, or came from a box that is never freed.
    let previous = unsafe { previous.as_ref() }.copied().unwrap_or_else(default_action);
    let has_handler = ![libc::SIG_DFL, libc::SIG_IGN].contains(&previous.sa_sigaction);
    if has_handler && previous.sa_flags & libc::SA_SIGINFO != 0 {
        type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
        // SAFETY: with SA_SIGINFO, `sa_sigaction` is such a function.
        let handler: Handler = unsafe { std::mem::transmute(previous.sa_sigaction) };
        return handler(signal, info, context);
    }
    // The write is tried again when this handler returns, and raises SIGBUS once more.
    // SAFETY: the first argument points to a `sigaction`; no old one is asked for.
    unsafe { libc::sigaction(libc::SIGBUS, &previous, std::ptr::null_mut()) };
}
