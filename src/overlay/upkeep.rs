//! What happens beside the requests: checkpoints of the journal, and a sync now and then.

use super::Overlay;
use crate::block::BLOCK_SIZE;
use crate::config::Durability;
use crate::errno::{Errno, Result, of_io};
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a changing upper is looked after.
const PERIOD: Duration = Duration::from_secs(1);
/// After this long without one, a durable mount makes a sync point of its own, so that a crash of
/// the host loses no more than that.
const SYNC_PERIOD: Duration = Duration::from_secs(30);

/// Freed blocks at the end of a mount that are worth a flush of their own: 16 MiB.
const MUCH_PENDING: u64 = 4096;

/// The thread and what wakes it.
#[derive(Default)]
pub(super) struct Upkeep {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    /// Something was journalled since the thread last looked.
    changed: AtomicBool,
    stop: Mutex<bool>,
    wake: Condvar,
}

impl Upkeep {
    /// Called after each journalled change: costs a load while the thread is awake.
    pub fn note_change(&self) {
        if !self.shared.changed.load(Ordering::Relaxed)
            && !self.shared.changed.swap(true, Ordering::Relaxed)
        {
            let _stop = self.shared.stop.lock();
            self.shared.wake.notify_one();
        }
    }
}

impl Shared {
    /// Waits for the next period, or without limit for a change. False at the end.
    fn rest(&self, limit: Option<Duration>) -> bool {
        let mut stop = self.stop.lock();
        let until = limit.map(|limit| Instant::now() + limit);
        loop {
            if *stop {
                return false;
            }
            match until {
                Some(until) => {
                    if self.wake.wait_until(&mut stop, until).timed_out() {
                        return !*stop;
                    }
                }
                None if self.changed.load(Ordering::Relaxed) => return true,
                None => self.wake.wait(&mut stop),
            }
        }
    }
}

impl Overlay {
    pub(super) fn start_upkeep(self: &Arc<Overlay>) -> Result<()> {
        let (weak, shared) = (Arc::downgrade(self), self.upkeep.shared.clone());
        let hook = weak.clone();
        self.store.set_sync_hook(Box::new(move || hook.upgrade().is_some_and(|o| o.sync_or_log())));
        let thread = std::thread::Builder::new().name("upkeep".into());
        let thread = thread.spawn(move || run(&weak, &shared)).map_err(|err| of_io(&err))?;
        *self.upkeep.thread.lock() = Some(thread);
        Ok(())
    }

    pub(super) fn stop_upkeep(&self) {
        *self.upkeep.shared.stop.lock() = true;
        self.upkeep.shared.wake.notify_one();
        let thread = self.upkeep.thread.lock().take();
        let thread = thread.filter(|t| t.thread().id() != std::thread::current().id());
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the upkeep thread had panicked");
        }
    }

    /// Makes durable all that was acknowledged before the call; shared with others who call meanwhile. Blocks freed
    /// before become reusable, also where nothing was journalled since the last one. Holds the state lock for a
    /// copy in memory, twice.
    ///
    /// # Errors
    /// `EIO` after the end of the mount or a flush that failed, what the host says, and `ENOSPC` where the journal cannot grow.
    pub(super) fn sync(&self) -> Result<()> {
        self.store
            .share_sync(|| {
                let mark = {
                    let mut st = self.state.write();
                    st.unsynced_since = None;
                    st.log.as_mut().ok_or(Errno::IO)?.begin_sync()
                };
                let data_flushed = self.store.flush_data()?;
                let end = self.state.write().log.as_mut().ok_or(Errno::IO)?.end_sync(mark)?;
                end.flush(data_flushed)
            })
            .inspect_err(|err| self.end_changes_after_failed_flush(*err))
    }

    /// What the host failed to write is lost, and it does not say so twice.
    fn end_changes_after_failed_flush(&self, err: Errno) {
        if self.store.has_failed() {
            self.fail_read_only(&format!("the filestore could not be flushed: {err}"));
        }
    }

    fn sync_or_log(&self) -> bool {
        match self.sync() {
            Err(err) if !self.store.has_failed() => {
                tracing::error!(%err, "cannot sync the filestore");
            }
            _ => {}
        }
        true
    }

    /// One round. `idle`: nothing was journalled in the last period. True where another round is
    /// wanted although nothing changes.
    fn look_after(&self, idle: bool) -> bool {
        self.checkpoint_or_log(idle);
        let unsynced = self.state.read().unsynced_since;
        let Some(since) = unsynced.filter(|_| self.durability == Durability::Full) else {
            // What is on its way back to the host may show the journal to be at the end then.
            return self.store.pending_blocks() > 0;
        };
        if since.elapsed() >= SYNC_PERIOD {
            self.sync_or_log();
            return false;
        }
        true
    }

    /// All that the threads beside the requests would do by and by.
    #[cfg(test)]
    pub(crate) fn work_beside(&self) {
        self.sync_or_log();
        self.store.reclaim_now();
        self.look_after(true);
    }

    /// Gives back what many frees of the last moment left, so that a checkpoint finds room ahead.
    pub(super) fn settle(&self) {
        let much = !self.store.has_failed() && self.store.pending_blocks() > MUCH_PENDING;
        if let Some(log) = self.state.write().log.as_mut().filter(|_| much) {
            if let Err(err) = log.squeeze() {
                tracing::warn!(%err, "cannot give freed blocks back");
            }
        }
    }

    pub(super) fn checkpoint_or_log(&self, idle: bool) {
        if let Err(err) = self.checkpoint_if_due(idle) {
            tracing::warn!(%err, "cannot write a checkpoint; the journal goes on as it is");
        }
    }

    /// Replaces the history by an image of the tree when it has outgrown that: by half, or, while
    /// nothing happens, by a tenth. Then also where it holds much room for more, or alone keeps a
    /// mostly empty file long.
    fn checkpoint_if_due(&self, idle: bool) -> Result<()> {
        if self.store.has_failed() {
            return Ok(());
        }
        let due = {
            let st = self.state.read();
            let Some(log) = st.log.as_ref().filter(|log| log.is_kept()) else { return Ok(()) };
            let live = st.tree.live_bytes();
            let allowed = if idle { live / 10 } else { live / 2 } + (256 << 10);
            let size = log.stats();
            // Under way, a checkpoint's appends follow a long journal, in segments that suit one.
            let spare = (size.blocks * BLOCK_SIZE).saturating_sub(size.bytes);
            let roomy = spare > size.bytes / 4 + (256 << 10);
            st.unreplayable
                || size.bytes > live + allowed
                || idle && (roomy || log.strands_the_end())
        };
        if due { self.checkpoint() } else { Ok(()) }
    }

    /// Replaces the history by an image of the tree: the image is written under the state lock, the
    /// flush is done without it. Upkeep calls this when it is due.
    ///
    /// # Errors
    /// EBUSY while another one is under way; what the host says. The history stays as it was.
    pub fn checkpoint(&self) -> Result<()> {
        let mut pending = {
            let mut guard = self.state.write();
            let st = &mut *guard;
            let Some(log) = st.log.as_mut() else { return Ok(()) };
            let mut writer = log.begin_checkpoint()?;
            st.tree.snapshot(&mut |records| writer.write(records))?;
            log.switch(writer)?
        };
        pending.sync().inspect_err(|err| self.end_changes_after_failed_flush(*err))?;
        let mut st = self.state.write();
        match st.log.as_mut() {
            Some(log) => log.commit(pending)?,
            None => return Ok(()),
        }
        // Nothing was journalled since: the mount has been read-only.
        st.unreplayable = false;
        Ok(())
    }
}

fn run(overlay: &Weak<Overlay>, shared: &Shared) {
    let mut again = false;
    loop {
        // Sleeps without limit where nothing changes and nothing waits.
        if !again && !shared.rest(None) {
            return;
        }
        if !shared.rest(Some(PERIOD)) {
            return;
        }
        let idle = !shared.changed.swap(false, Ordering::Relaxed);
        let Some(overlay) = overlay.upgrade() else { return };
        again = overlay.look_after(idle) || !idle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, IdMap, Medium};

    #[test]
    fn a_sync_gives_back_the_journal_that_a_checkpoint_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let lower = dir.path().join("lower");
        let upper = dir.path().join("upper");
        std::fs::create_dir(&lower).unwrap();
        std::fs::create_dir(&upper).unwrap();
        let overlay = Overlay::new(&Config {
            lowers: vec![lower],
            upper: Some(upper),
            medium: Medium::OwnFile,
            size_limit: None,
            inode_limit: None,
            durability: Durability::Full,
            idmap: IdMap::default(),
        })
        .unwrap();
        overlay.syncfs().unwrap();
        overlay.checkpoint().unwrap();
        assert!(overlay.store.pending_old_blocks() > 0, "the superblock's new head is not durable");
        overlay.syncfs().unwrap();
        assert_eq!(overlay.store.pending_old_blocks(), 0);
        overlay.destroy();
    }
}
