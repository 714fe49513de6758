//! The clock that changes are stamped with: the one that the kernel stamps inodes with.
//!
//! That is CLOCK_REALTIME_COARSE, which moves with each tick, up to Linux 6.12. Since then a file system may stamp a
//! change with the exact time where the last stamp has been looked at, and no file system stamps a later change with an
//! earlier time: each stamp is the later one of CLOCK_REALTIME_COARSE and the last exact stamp, the floor
//! (Documentation/filesystems/multigrain-ts.rst, `ktime_get_coarse_real_ts64_mg` in kernel/time/timekeeping.c).
//! With the writeback cache the kernel's FUSE client stamps regular files in this way, and this process stamps all else.
//! A stamp from CLOCK_REALTIME_COARSE would be earlier than that of a write before it, a stamp from CLOCK_REALTIME
//! later than that of a write after it.
//!
//! No system call returns the floor. So an inode of the kernel's own is stamped, and its time is read: that of a
//! pipe, whose file system (pipefs) has stamps of a nanosecond's resolution and no exact ones.

use crate::attr::Time;
use crate::errno::Result;
use rustix::fs::{MemfdFlags, Stat, Timespec, Timestamps, fstat, futimens, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::{ClockId, clock_gettime};
use std::os::fd::{AsFd, OwnedFd};

/// What `tv_nsec` says for the present time (utimensat(2)).
const UTIME_NOW: i64 = 0x3fff_ffff;

/// How often the question whether there is a floor is asked again because a tick came between.
const PROBES: u32 = 10;

pub struct Clock {
    /// `None` where CLOCK_REALTIME_COARSE is what the kernel stamps with, or where pipes cannot be stamped.
    pipe: Option<OwnedFd>,
}

impl Clock {
    pub fn new() -> Clock {
        let pipe = if has_floor() { usable_pipe() } else { None };
        tracing::debug!(has_floor = pipe.is_some(), "the clock of the kernel's stamps");
        Clock { pipe }
    }

    /// What the kernel would stamp an inode with now: no earlier than any stamp before, no later than any stamp
    /// after, as long as nobody sets the clock back.
    pub fn now(&self) -> Time {
        let stamped = self.pipe.as_ref().map(stamp);
        stamped.and_then(Result::ok).unwrap_or_else(coarse)
    }
}

/// CLOCK_REALTIME_COARSE.
pub fn coarse() -> Time {
    time_of(clock_gettime(ClockId::RealtimeCoarse))
}

fn time_of(time: Timespec) -> Time {
    Time { sec: time.tv_sec, nsec: time.tv_nsec as u32 }
}

/// Whether the stamps of file systems can be later than CLOCK_REALTIME_COARSE: tmpfs has exact ones where any has.
fn has_floor() -> bool {
    let two_stamps = || -> Result<(bool, bool)> {
        let file = memfd_create("clock", MemfdFlags::CLOEXEC)?;
        let before = coarse();
        let stamps = [(); 2].map(|()| {
            rustix::io::pwrite(&file, b"x", 0)?;
            fstat(&file).map(|stat| change_time(&stat))
        });
        let [first, second] = stamps;
        Ok((first? != second?, before == coarse()))
    };
    for _ in 0..PROBES {
        match two_stamps() {
            Ok((differ, true)) => return differ,
            Ok((_, false)) => {}
            Err(_) => break,
        }
    }
    true
}

/// A pipe, if it can be stamped and its stamps are what they should be.
fn usable_pipe() -> Option<OwnedFd> {
    let (pipe, _) = pipe_with(PipeFlags::CLOEXEC).ok()?;
    let earliest = coarse();
    let stamped = stamp(&pipe).ok()?;
    let latest = time_of(clock_gettime(ClockId::Realtime));
    (earliest <= stamped && stamped <= latest).then_some(pipe)
}

fn stamp(pipe: impl AsFd) -> Result<Time> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    futimens(&pipe, &Timestamps { last_access: now, last_modification: now })?;
    fstat(&pipe).map(|stat| change_time(&stat))
}

fn change_time(stat: &Stat) -> Time {
    Time { sec: stat.st_ctime, nsec: stat.st_ctime_nsec as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact() -> Time {
        time_of(clock_gettime(ClockId::Realtime))
    }

    #[test]
    fn stamps_are_in_order_with_those_of_file_systems() {
        let clock = Clock::new();
        let file = memfd_create("file", MemfdFlags::CLOEXEC).unwrap();
        let write = || {
            rustix::io::pwrite(&file, b"x", 0).unwrap();
            change_time(&fstat(&file).unwrap())
        };
        for _ in 0..10_000 {
            let times = [coarse(), write(), clock.now(), write(), exact()];
            // Somebody has set the clock back where the last one is before the first one.
            assert!(times.is_sorted() || times[4] < times[0], "{times:?}");
        }
    }

    #[test]
    fn a_clock_without_a_pipe_is_the_coarse_one() {
        let clock = Clock { pipe: None };
        let times = [coarse(), clock.now(), coarse()];
        assert!(times.is_sorted(), "{times:?}");
    }
}
