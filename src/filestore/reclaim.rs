//! The reclaimer: gives freed blocks back to the host, in batches, off the hot path.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Extent, Shared, SyncHook};
use crate::block::{BLOCK_SIZE, StoreOffset};
use crate::errno::{Result, of_io};

/// How long freed blocks gather before a pass: more of them touch one another then.
const GATHER: Duration = Duration::from_millis(150);
/// How long old blocks wait before the hook is asked for a sync, and after it failed.
const OLD_WAIT: Duration = Duration::from_millis(500);
/// Extents punched between two visits to the allocator.
const CHUNK: usize = 256;

/// Protected by the reclaim mutex.
#[derive(Debug, Default)]
pub(super) struct State {
    cannot_punch: bool,
}

enum Work {
    Reclaim,
    Sync(Arc<SyncHook>),
    Stop,
}

/// Starts the thread.
pub(super) fn spawn(shared: Arc<Shared>) -> Result<JoinHandle<()>> {
    let builder = std::thread::Builder::new().name("reclaimer".into());
    builder.spawn(move || run(&shared)).map_err(|e| of_io(&e))
}

fn run(shared: &Shared) {
    loop {
        match shared.next_work() {
            Work::Reclaim => shared.reclaim(),
            Work::Sync(hook) => {
                if !hook() {
                    *shared.hook.lock() = None;
                }
                // If old blocks remain, they wait anew.
                let mut space = shared.space.lock();
                space.old_since = space.old_since.map(|_| Instant::now());
            }
            Work::Stop => return,
        }
    }
}

impl Shared {
    /// Sleeps until there is something to do.
    fn next_work(&self) -> Work {
        let mut space = self.space.lock();
        loop {
            let hook = self.hook.lock().clone();
            if space.stop {
                return Work::Stop;
            }
            let now = Instant::now();
            let reclaim_at = space.ready_since.map(|t| t + GATHER);
            if reclaim_at.is_some_and(|t| t <= now) {
                return Work::Reclaim;
            }
            let sync_at = space.old_since.map(|t| t + OLD_WAIT);
            if let Some(hook) = hook.as_ref().filter(|_| sync_at.is_some_and(|t| t <= now)) {
                return Work::Sync(Arc::clone(hook));
            }
            let next = [reclaim_at, sync_at.filter(|_| hook.is_some())].into_iter().flatten().min();
            match next {
                Some(at) => drop(self.wake.wait_until(&mut space, at)),
                None => self.wake.wait(&mut space),
            }
        }
    }

    /// Gives back to the host, and to the allocator, all that is ready; cuts the tail.
    pub(super) fn reclaim(&self) {
        super::gate::assert_outside();
        let mut state = self.reclaim.lock();
        let batch = self.space.lock().take_ready();
        if !batch.is_empty() {
            self.gate.barrier();
        }
        for chunk in batch.chunks(CHUNK) {
            chunk.iter().for_each(|e| self.punch(&mut state, *e));
            let mut space = self.space.lock();
            for e in chunk {
                if let Err(err) = space.emptied(*e) {
                    tracing::error!(start = e.start.0, len = e.len, %err, "blocks freed twice; left out");
                }
            }
        }
        if let Err(err) = self.cut_tail() {
            tracing::warn!(%err, "the filestore's tail could not be cut");
        }
    }

    /// Failure costs host space only: what is allocated is written whole before it is read.
    fn punch(&self, state: &mut State, e: Extent) {
        if state.cannot_punch {
            return;
        }
        match self.backing.punch(e.start.offset().0, e.len * BLOCK_SIZE) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                state.cannot_punch = true;
                tracing::warn!(
                    "the host file system cannot punch holes: freed blocks keep their space"
                );
            }
            Err(err) => {
                tracing::warn!(start = e.start.0, len = e.len, %err, "blocks could not be given back");
            }
        }
    }

    /// Cuts the file behind its last block in use. The allocator is held meanwhile, so that nobody
    /// is given blocks there; what is cut has been punched, so that it is quick.
    fn cut_tail(&self) -> Result<()> {
        let space = self.space.lock();
        if !space.live {
            return Ok(());
        }
        let StoreOffset(end) = space.map.end().offset();
        if self.backing.length()? > end {
            self.backing.set_len(end)?;
        }
        Ok(())
    }
}
