//! Group commit: callers that come while a flush runs share the next one.

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use super::Shared;
use crate::errno::Result;

#[derive(Debug, Default)]
struct State {
    started: u64,
    ended: u64,
    running: bool,
    /// What was not written once will never be, and the kernel does not say so twice.
    failed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Flush {
    state: Mutex<State>,
    ended: Condvar,
}

impl Shared {
    /// One flush that begins after this call does.
    pub(super) fn sync(&self) -> Result<()> {
        let flush = &self.flush;
        let mut state = flush.state.lock();
        let mine = state.started + 1;
        while state.running && state.ended < mine {
            flush.ended.wait(&mut state);
        }
        if state.failed {
            return Err(Errno::IO);
        }
        if state.ended >= mine {
            return Ok(());
        }
        state.running = true;
        state.started += 1;
        let number = state.started;
        drop(state);

        let epoch = self.space.lock().epoch;
        let result = self.backing.sync();
        if result.is_ok() && self.space.lock().synced(epoch) {
            self.wake.notify_one();
        }

        let mut state = flush.state.lock();
        state.running = false;
        state.ended = number;
        state.failed |= result.is_err();
        flush.ended.notify_all();
        result
    }
}
