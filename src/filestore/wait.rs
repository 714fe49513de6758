//! Waiting for a mount that has ended, and has not let go of its upper yet.

use crate::config::NOTICE;
use crate::presence::serves_a_mount;
use crate::sys::holder::{Watched, of_flock};
use rustix::fs::Stat;
use std::time::{Duration, Instant};

/// How often to try.
const PERIOD: Duration = Duration::from_millis(2);
/// How long to try before looking who has it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often to look after that.
const LOOK_PERIOD: Duration = Duration::from_millis(250);
/// A mount's device number may be given to the next mount, whose daemon is not known in the first moment: so one look is not enough.
const SERVING_LOOKS: u32 = 2;
/// How long to wait before saying so.
const SILENCE: Duration = Duration::from_millis(1500);
/// How long a daemon whose mount is gone may take to hear of that. A mount that was detached while in use is not ending at all.
const HEARD_LIMIT: Duration = Duration::from_secs(30);
/// How long to wait for a holder of which nothing is known: one of another pid namespace.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(60);

/// What is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// The directory: by a mount that serves, or has not heard yet that it has ended.
    Claim,
    /// The filestore in a directory that is ours: by a mount that is closing it.
    Filestore,
}

/// Does `open` again while it fails with `in_use`, and what `stat` names is held by somebody who will let go of it.
pub fn until_free<T, E: PartialEq>(
    holding: Holding,
    in_use: &E,
    stat: impl Fn() -> rustix::io::Result<Stat>,
    mut open: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut waiting = Waiting::new(holding);
    loop {
        match open() {
            Err(err) if err == *in_use && waiting.is_worthwhile(|| of_flock(&stat().ok()?)) => {
                std::thread::sleep(PERIOD);
            }
            done => return done,
        }
    }
}

/// The state of a wait.
struct Waiting {
    holding: Holding,
    begun: Instant,
    looked: Instant,
    holder: Option<Watched>,
    said: bool,
    /// In how many looks in a row the holder served a mount.
    serving: u32,
}

impl Waiting {
    fn new(holding: Holding) -> Waiting {
        let now = Instant::now();
        Waiting { holding, begun: now, looked: now, holder: None, said: false, serving: 0 }
    }

    /// Whether to try again. `find` tells the pid of the holder.
    fn is_worthwhile(&mut self, find: impl Fn() -> Option<u32>) -> bool {
        let elapsed = self.begun.elapsed();
        if elapsed < PATIENCE || self.looked.elapsed() < LOOK_PERIOD {
            return true;
        }
        self.looked = Instant::now();
        let pid = find();
        if self.holder.as_ref().map(Watched::pid) != pid {
            self.holder = pid.map(Watched::new);
        }
        if pid == Some(std::process::id()) {
            return false;
        }
        let Some(holder) = &mut self.holder else {
            return self.holding == Holding::Filestore && elapsed < UNKNOWN_LIMIT;
        };
        let ends = match self.holding {
            Holding::Claim => {
                self.serving = if serves_a_mount(holder.pid()) { self.serving + 1 } else { 0 };
                elapsed < HEARD_LIMIT && self.serving < SERVING_LOOKS
            }
            Holding::Filestore => holder.works(),
        };
        if ends && elapsed >= SILENCE && !self.said {
            self.said = true;
            let (pid, name) = (holder.pid(), holder.name());
            tracing::warn!(target: NOTICE, "the upper is in use: waiting for process {pid} ({name}) to close it");
        }
        ends
    }
}
