//! The limits of the policy. Each name ends with its unit. doc/PERFORMANCE.md has what they were measured with.

use std::time::Duration;

/// A gap between wakeups that ends a quick succession, and a wait for the CPU that is too long.
pub const WAIT_LIMIT_US: u64 = 1000;

/// A thread that was late at so many wakeups, with no more wakeups between one and the next, is starved.
pub const STARVED_WAKEUPS: u32 = 4;

/// What a wakeup waits for the CPU where nothing competes: until the client sleeps.
pub const USUAL_WAIT_US: u64 = 50;

/// A thread checks after so many wakeups whether it waited for more than [`WAIT_SHARE`] of the time.
pub const CHECK_WAKEUPS: u32 = 64;

/// The part of the wall time: one in so many.
pub const WAIT_SHARE: u32 = 3;

/// A wait of less than this a wakeup is no starvation, whatever its share: on a pinned thread's CPU, and
/// where a following thread may also have waited for a client that went on before it slept.
pub const PINNED_WAIT_PER_WAKEUP_US: u64 = 20;
pub const FOLLOWING_WAIT_PER_WAKEUP_US: u64 = 50;

/// Wakeups in quick succession before a thread enters SCHED_IDLE.
pub const ENTER_WAKEUPS: u32 = 32;

/// A followed client is located anew after so many of its requests.
pub const LOCATE_WAKEUPS: u32 = 8;

/// No client is followed any longer if of the last [`WINDOW_WAKEUPS`] so many were for others.
pub const OTHER_CLIENTS_WAKEUPS: u32 = 4;
pub const WINDOW_WAKEUPS: u32 = 16;

/// How long a starved thread stays in the normal class: at first, doubled each time that it starves again
/// soon, and at most.
pub const PAUSE_MIN_MS: u64 = 100;
pub const PAUSE_MAX_MS: u64 = 10_000;

/// How often the watchdog looks, and for how many ticks it evicts a thread that has no wakeups.
pub const WATCHDOG_TICK_MS: u64 = 4;
pub const EVICT_TICKS: u32 = 8;

pub const fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

pub const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}
