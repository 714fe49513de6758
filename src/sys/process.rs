//! Processes: fork, signals taken synchronously, namespaces, and the mount calls made for a child's
//! root.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Instant;

use rustix::io::{Errno, Result};
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// Which side of a fork the caller is on.
#[derive(Debug)]
pub enum Fork {
    Parent(Pid),
    Child,
}

/// Forks the calling process.
///
/// `EAGAIN`, or `EINVAL` in a process of several threads: there the child could find any lock held by a
/// thread that it does not have.
pub fn fork() -> Result<Fork> {
    if !single_threaded() {
        return Err(Errno::INVAL);
    }
    // SAFETY: the process has one thread, so the child may go on as any program does.
    match unsafe { libc::fork() } {
        -1 => Err(last_errno()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid).map(Fork::Parent).ok_or(Errno::INVAL),
    }
}

/// True if `/proc` does not say that this process has more than one thread.
fn single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.count() <= 1)
}

/// Leaves the namespaces named by `flags` for new ones.
///
/// `EINVAL` in a process of several threads, `EPERM` where the kernel or a policy forbids it.
pub fn unshare(flags: UnshareFlags) -> Result<()> {
    if !single_threaded() {
        return Err(Errno::INVAL);
    }
    // SAFETY: the process has one thread, so no other thread can be left with another descriptor table
    // or other namespaces than this one expects.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Sets how many arenas malloc may have (mallopt(3), M_ARENA_MAX). Does nothing where the C library is not glibc.
pub fn limit_malloc_arenas(arenas: usize) {
    #[cfg(target_env = "gnu")]
    {
        let arenas = libc::c_int::try_from(arenas).unwrap_or(libc::c_int::MAX);
        // SAFETY: mallopt has no preconditions; it takes the allocator's own lock.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = arenas;
}

/// How the scheduler treats a thread (sched(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Normal,
    /// SCHED_IDLE: behind everybody else of its scheduling group.
    Idle,
}

/// The number of the calling thread (gettid(2)).
pub fn thread() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

/// The class of a thread of this process; `None` for another one.
pub fn class_of(thread: u32) -> Result<Option<Class>> {
    let thread = libc::pid_t::try_from(thread).map_err(|_| Errno::INVAL)?;
    // SAFETY: a call without memory of ours.
    match unsafe { libc::sched_getscheduler(thread) } {
        -1 => Err(last_errno()),
        policy => Ok(match policy & !libc::SCHED_RESET_ON_FORK {
            libc::SCHED_OTHER => Some(Class::Normal),
            libc::SCHED_IDLE => Some(Class::Idle),
            _ => None,
        }),
    }
}

/// Puts a thread of this process into a class. `EPERM`: out of the idle class without CAP_SYS_NICE, or a nice
/// value that RLIMIT_NICE allows.
pub fn set_class(thread: u32, class: Class) -> Result<()> {
    let policy = match class {
        Class::Normal => libc::SCHED_OTHER,
        Class::Idle => libc::SCHED_IDLE,
    };
    let thread = libc::pid_t::try_from(thread).map_err(|_| Errno::INVAL)?;
    // SAFETY: all zeros are a value of this struct of integers.
    let parameters: libc::sched_param = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the kernel reads the parameters, which outlive the call.
    match unsafe { libc::sched_setscheduler(thread, policy, &parameters) } {
        -1 => Err(last_errno()),
        _ => Ok(()),
    }
}

/// What a signal does that is not blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    Default,
    Ignore,
}

/// Sets what a signal does to this process. `EINVAL`: no signal, or one whose effect is fixed.
pub fn set_disposition(signal: i32, disposition: Disposition) -> Result<()> {
    let handler = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignore => libc::SIG_IGN,
    };
    // SAFETY: neither disposition runs code of this process.
    if unsafe { libc::signal(signal, handler) } == libc::SIG_ERR {
        return Err(last_errno());
    }
    Ok(())
}

/// Whether a signal is ignored, as a parent may have wanted it (nohup(1)). False for what is no signal.
pub fn is_ignored(signal: i32) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the new action is null, and the kernel fills in the old one, for which there is room.
    if unsafe { libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: the call has succeeded, and so filled it in.
    unsafe { now.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// A signal which was taken by [`Signals::wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub signal: i32,
    /// Sent by a process, not by the kernel (as a terminal's Ctrl-C is).
    pub by_process: bool,
}

/// A set of signals blocked in the calling thread, and in threads that it starts later, so that they can
/// be waited for.
#[derive(Debug)]
pub struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Blocks `signals`. `EINVAL`: not the number of a signal.
    pub fn block(signals: &[i32]) -> Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that it is given.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for &signal in signals {
            // SAFETY: `set` is initialised; a number that is no signal gives -1.
            if unsafe { libc::sigaddset(&mut set, signal) } != 0 {
                return Err(Errno::INVAL);
            }
        }
        // SAFETY: `set` is initialised; the old mask is not asked for.
        let rc = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if rc != 0 {
            return Err(Errno::from_raw_os_error(rc));
        }
        Ok(Self { set })
    }

    /// Waits until one of the signals arrives.
    pub fn wait(&self) -> Result<Taken> {
        loop {
            match self.take(None) {
                Err(Errno::INTR) => {}
                done => return done,
            }
        }
    }

    /// As [`Signals::wait`], but gives `None` when `deadline` has passed.
    pub fn wait_until(&self, deadline: Instant) -> Result<Option<Taken>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = libc::timespec {
                tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match self.take(Some(&left)) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                done => return done.map(Some),
            }
        }
    }

    fn take(&self, timeout: Option<&libc::timespec>) -> Result<Taken> {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let timeout = timeout.map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `set` is initialised, `info` is large enough for a siginfo_t, and the timeout is null
        // or a timespec that outlives the call.
        let signal = unsafe { libc::sigtimedwait(&self.set, info.as_mut_ptr(), timeout) };
        if signal < 0 {
            return Err(last_errno());
        }
        // SAFETY: all-zero bytes are a valid siginfo_t, and the kernel filled it in.
        let code = unsafe { info.assume_init() }.si_code;
        Ok(Taken { signal, by_process: code <= 0 })
    }

    /// Unblocks the signals in the calling thread: what is pending then takes its usual effect.
    pub fn unblock(&self) -> Result<()> {
        // SAFETY: `set` is initialised; the old mask is not asked for.
        match unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &self.set, std::ptr::null_mut()) } {
            0 => Ok(()),
            rc => Err(Errno::from_raw_os_error(rc)),
        }
    }
}

/// The descriptors above stderr which this process was started with. To be called before it opens any of
/// its own.
pub fn inherited_descriptors() -> Vec<RawFd> {
    let Ok(dir) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let mut found: Vec<RawFd> = dir
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > 2)
        .collect();
    // The listing's own descriptor is in the list, and is closed by now.
    // SAFETY: F_GETFD on any number is harmless.
    found.retain(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0);
    found
}

/// Closes what [`inherited_descriptors`] found, so that no one waits for this process to let go of them.
pub fn close_inherited(descriptors: Vec<RawFd>) {
    for fd in descriptors {
        // SAFETY: the descriptor was open before this process opened any, so no owner in it knows it;
        // a second close could only hit a number that was taken before, which stays taken till here.
        unsafe { libc::close(fd) };
    }
}

/// Makes the mount (and with `recursive` all mounts below it) that `tree` stands for read-only.
///
/// `ENOSYS` before Linux 5.12.
pub fn set_mount_read_only(tree: impl AsFd, recursive: bool) -> Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is live, the path is an empty C string, and `attr` has the size given.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attr),
            std::mem::size_of_val(&attr),
        )
    };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_taken_with_its_origin() {
        let signals = Signals::block(&[libc::SIGUSR1]).unwrap();
        // SAFETY: raises a signal that this thread has blocked.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1) };
        assert_eq!(signals.wait().unwrap(), Taken { signal: libc::SIGUSR1, by_process: true });
        signals.unblock().unwrap();
    }

    #[test]
    fn a_number_that_is_no_signal_is_refused() {
        assert_eq!(Signals::block(&[-1]).unwrap_err(), Errno::INVAL);
    }

    #[test]
    fn fork_refuses_where_there_are_threads() {
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || receive.recv().is_err());
        assert_eq!(fork().unwrap_err(), Errno::INVAL);
        drop(send);
        assert!(other.join().unwrap());
    }
}
