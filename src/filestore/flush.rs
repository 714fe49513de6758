//! Flushes of the host file, and group commit: callers that come while a sync runs share the next.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use super::Shared;
use crate::errno::Result;
use crate::sys::map::Flusher;

#[derive(Debug, Default)]
struct Group {
    started: u64,
    ended: u64,
    running: bool,
    /// What the last sync that ended came to.
    result: Option<Errno>,
}

#[derive(Debug, Default)]
pub(super) struct Flush {
    group: Mutex<Group>,
    ended: Condvar,
    /// Data were written that no flush has begun to cover.
    dirty: AtomicBool,
    /// A flush failed: the kernel drops what it failed to write, and does not say so twice.
    failed: AtomicBool,
}

impl Flush {
    /// Data were written. Called after the write: a flush that begins later covers it.
    pub(super) fn note_write(&self) {
        self.dirty.store(true, SeqCst);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(SeqCst)
    }

    fn check(&self) -> Result<()> {
        if self.has_failed() { Err(Errno::IO) } else { Ok(()) }
    }

    fn note(&self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            self.failed.store(true, SeqCst);
        }
        result
    }
}

impl Shared {
    /// Runs `sync`, or waits for another caller's that began after this call did.
    pub(super) fn share_sync(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        let flush = &self.flush;
        let mut group = flush.group.lock();
        let mine = group.started + 1;
        while group.running && group.ended < mine {
            flush.ended.wait(&mut group);
        }
        if group.ended >= mine {
            return group.result.map_or(Ok(()), Err);
        }
        group.running = true;
        group.started += 1;
        let number = group.started;
        drop(group);

        let result = sync();

        let mut group = flush.group.lock();
        group.running = false;
        group.ended = number;
        group.result = result.err();
        flush.ended.notify_all();
        result
    }

    /// Puts all that was written before the call on stable storage.
    pub(super) fn flush(&self) -> Result<()> {
        self.flush.check()?;
        self.flush.dirty.store(false, SeqCst);
        self.flush.note(self.backing.sync())
    }

    /// [`Shared::flush`], unless no data were written since the last one began. Whether it did something.
    pub(super) fn flush_data(&self) -> Result<bool> {
        let dirty = self.flush.dirty.load(SeqCst);
        if dirty {
            self.flush()?;
        } else {
            self.flush.check()?;
        }
        Ok(dirty)
    }

    /// Puts a range of a window on stable storage.
    pub(super) fn flush_window(&self, window: &Flusher, at: usize, len: usize) -> Result<()> {
        self.flush.check()?;
        // Where a write through the window was lost, the rest of it may be elsewhere.
        match window.flush(at, len) {
            Ok(()) => Ok(()),
            Err(_) => self.flush(),
        }
    }

    /// All that was appended before `epoch` began is on stable storage.
    pub(super) fn synced(&self, epoch: u64) {
        if self.space.lock().synced(epoch) {
            self.wake.notify_one();
        }
    }
}
