//! Who holds a lock, and whether that process still works.

use rustix::fs::Stat;
use std::time::{Duration, Instant};

/// A process without any progress for so long is not waited for any more.
const STUCK: Duration = Duration::from_secs(60);

/// The process that holds an flock(2) on the file of `stat`, as far as /proc/locks tells: not one of another pid
/// namespace.
pub fn of_flock(stat: &Stat) -> Option<u32> {
    let text = std::fs::read_to_string("/proc/locks").ok()?;
    let device = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    find(&text, device, stat.st_ino)
}

/// The holder of the flock on inode `ino`; on `device` if one is there, as the number that stat(2) shows of a btrfs
/// subvolume is not its file system's.
fn find(locks: &str, device: (u32, u32), ino: u64) -> Option<u32> {
    let holders = locks.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // A waiter has "->" in the second field.
        let ["FLOCK", _, _, pid, place, ..] = fields.get(1..)? else { return None };
        let mut place = place.splitn(3, ':');
        let mut number = || u32::from_str_radix(place.next()?, 16).ok();
        let found_on = (number()?, number()?);
        let same = place.next()?.parse() == Ok(ino);
        Some((found_on, pid.parse::<u32>().ok().filter(|pid| *pid > 0)?)).filter(|_| same)
    });
    let holders: Vec<((u32, u32), u32)> = holders.collect();
    let exact = holders.iter().find(|(found_on, _)| *found_on == device);
    exact.or(holders.first()).map(|(_, pid)| *pid)
}

/// Watches a process for signs of work.
#[derive(Debug)]
pub struct Watched {
    pid: u32,
    progress: Option<Progress>,
    since: Instant,
}

/// What grows while a process works.
#[derive(Debug, PartialEq, Eq)]
struct Progress {
    /// Of user and system time, in clock ticks.
    ticks: u64,
    /// Bytes that it caused to be read and written, where that may be known.
    io: Option<String>,
}

impl Watched {
    pub fn new(pid: u32) -> Watched {
        Watched { pid, progress: None, since: Instant::now() }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the process exists and did something within the last minute (of this watch). One that waits for a disk works.
    pub fn works(&mut self) -> bool {
        let Some((state, ticks)) = state_of(self.pid) else { return false };
        if matches!(state, 'Z' | 'X') {
            return false;
        }
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.pid)).ok();
        let progress = Some(Progress { ticks, io });
        if progress != self.progress || state == 'D' {
            (self.progress, self.since) = (progress, Instant::now());
        }
        self.since.elapsed() < STUCK
    }

    /// The program's name, as ps(1) shows it.
    pub fn name(&self) -> String {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        name.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    }
}

/// State and CPU time of a process (proc_pid_stat(5)).
fn state_of(pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold any byte.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    Some((fields.first()?.chars().next()?, ticks(11)? + ticks(12)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 fe:00:99 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 12 00:1d:99 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 13 fe:00:99 0 EOF\n\
            3: FLOCK  ADVISORY  READ  14 fe:00:99 0 EOF\n\
            4: FLOCK  ADVISORY  WRITE 0 fe:00:98 0 EOF\n";
        assert_eq!(find(locks, (0xfe, 0), 99), Some(14));
        assert_eq!(find(locks, (1, 1), 99), Some(12), "a subvolume has a number of its own");
        assert_eq!(find(locks, (0xfe, 0), 98), None, "of another pid namespace");
        assert_eq!(find(locks, (0xfe, 0), 9), None);
    }

    #[test]
    fn this_process_holds_its_own_lock_and_works() {
        let file = tempfile::tempfile().unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let pid = of_flock(&rustix::fs::fstat(&file).unwrap());
        assert_eq!(pid, Some(std::process::id()));
        assert!(Watched::new(std::process::id()).works());
        assert!(!Watched::new(u32::MAX).works());
    }
}
