//! The client that following threads follow, and the CPU that it runs on. Shared by the threads of one mount
//! without a lock: what is lost where two threads wake up at once does not matter.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::proc;
use super::tunables::{OTHER_CLIENTS_WAKEUPS, WINDOW_WAKEUPS};

/// The followed client.
pub struct FollowedClient {
    /// The thread id of the last client, and how many requests in a row it has sent.
    streak: AtomicU64,
    /// The thread id of the client that is followed, and its CPU; 0: no client.
    followed: AtomicU64,
    /// Wakeups while a client is followed, and how many of them were for others.
    others: AtomicU64,
    /// The last wakeup of any thread, in microseconds since `start`.
    last_wakeup: AtomicU64,
    start: Instant,
}

fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn halves(pair: u64) -> (u32, u32) {
    ((pair >> 32) as u32, pair as u32)
}

impl FollowedClient {
    pub fn none() -> FollowedClient {
        FollowedClient {
            streak: AtomicU64::new(0),
            followed: AtomicU64::new(0),
            others: AtomicU64::new(0),
            last_wakeup: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    /// Counts a request; how many in a row this client has sent, 0 where it is not known.
    pub fn count(&self, client: u32) -> u32 {
        if client == 0 {
            return 0;
        }
        let (last, times) = halves(self.streak.load(Relaxed));
        let times = if last == client { times.saturating_add(1) } else { 1 };
        self.streak.store(pair(client, times), Relaxed);
        times
    }

    /// The client that is followed, and its CPU.
    pub fn get(&self) -> Option<(u32, u32)> {
        Some(halves(self.followed.load(Relaxed))).filter(|(client, _)| *client != 0)
    }

    /// Follows no client.
    pub fn clear(&self) {
        self.followed.store(0, Relaxed);
        self.streak.store(0, Relaxed);
        self.others.store(0, Relaxed);
    }

    /// Follows `client` to the CPU that it is on now, if that can be known: it may have ended, or be of
    /// another pid namespace.
    pub fn set(&self, client: u32) -> Option<u32> {
        let cpu = proc::cpu_of(client);
        self.followed.store(cpu.map_or(0, |cpu| pair(client, cpu)), Relaxed);
        cpu
    }

    /// Counts a wakeup; whether others send too many requests for one client to be followed.
    pub fn is_crowded(&self, is_other: bool) -> bool {
        let (wakeups, others) = halves(self.others.load(Relaxed));
        let (wakeups, others) = (wakeups + 1, others + u32::from(is_other));
        let next = if wakeups < WINDOW_WAKEUPS { pair(wakeups, others) } else { 0 };
        self.others.store(next, Relaxed);
        others >= OTHER_CLIENTS_WAKEUPS
    }

    /// The time since the last wakeup of any thread; `now` becomes the last.
    pub fn gap(&self, now: Instant) -> Duration {
        let now = now.saturating_duration_since(self.start).as_micros() as u64;
        Duration::from_micros(now.saturating_sub(self.last_wakeup.swap(now, Relaxed)))
    }
}
