//! What /proc tells of threads.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

/// The scheduler's figures of the calling thread (the kernel's Documentation/scheduler/sched-stats.rst).
const SCHEDSTAT: &str = "/proc/thread-self/schedstat";

/// How long a thread has waited for a CPU in its life. `None` where that cannot be read.
pub type WaitClock = Box<dyn Fn() -> Option<Duration> + Send>;

/// The clock of the calling thread; any thread may read it. `None` where there is no /proc.
pub fn wait_clock() -> Option<WaitClock> {
    let file = File::open(SCHEDSTAT).ok()?;
    Some(Box::new(move || schedstat_figure(&file, 1)))
}

/// Whether the kernel keeps these figures: some tell nothing but zeros.
pub fn has_wait_clock() -> bool {
    let ran = File::open(SCHEDSTAT).ok().and_then(|file| schedstat_figure(&file, 0));
    ran.is_some_and(|ran| !ran.is_zero())
}

/// Nanoseconds of a thread: at 0 on a CPU, at 1 waiting for one.
fn schedstat_figure(schedstat: &File, at: usize) -> Option<Duration> {
    let mut text = [0; 96];
    let len = schedstat.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..len)?).ok()?;
    text.split_ascii_whitespace().nth(at)?.parse().ok().map(Duration::from_nanos)
}

/// The CPU that a thread was on last (proc_pid_stat(5)). `None` where the thread has ended, or is of
/// another pid namespace.
pub fn cpu_of(thread: u32) -> Option<u32> {
    let stat = std::fs::read(format!("/proc/{thread}/task/{thread}/stat")).ok()?;
    stat_field(&stat, 39)?.parse().ok()
}

/// A field of a thread's `stat`, from 3. The second one is a name in parentheses, which may hold anything.
pub fn stat_field(stat: &[u8], number: usize) -> Option<&str> {
    let behind = stat.iter().rposition(|&byte| byte == b')')? + 1;
    std::str::from_utf8(&stat[behind..]).ok()?.split_ascii_whitespace().nth(number.checked_sub(3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_anything_in_it_hides_no_field() {
        assert_eq!(stat_field(b"7 (a) 1 (b) S 4 5", 3), Some("S"));
        assert_eq!(stat_field(b"7 (a) 1 (b) S 4 5", 5), Some("5"));
        assert_eq!(stat_field(b"7 (a) 1 (b) S 4 5", 6), None);
        assert_eq!(stat_field(b"7", 3), None);
    }
}
