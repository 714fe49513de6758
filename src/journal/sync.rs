//! A sync: flush the data, then append a sync point that counts on them, then flush the journal.
//!
//! A recovery after a crash of the host goes back to the last sync point on the disk. It must find all data there
//! that the records before that point tell of. So the place that it counts to is marked before the data
//! are flushed; records that come during that flush are behind the mark and do not count.

use std::sync::Arc;

use super::log::{Log, Urgency};
use super::segment::Position;
use crate::errno::Result;
use crate::filestore::Filestore;
use crate::sys::map::Flusher;

/// A sync that has begun: what was appended before it, and the data that this tells of, will be durable.
#[derive(Debug)]
#[must_use = "end the sync with Log::end_sync"]
pub struct SyncMark {
    /// `None` without a journal.
    pub(super) position: Option<Position>,
    /// The filestore's epoch that begins with it.
    pub(super) epoch: u64,
}

/// A sync whose sync point was appended and has to be flushed.
#[derive(Debug)]
#[must_use = "call SyncEnd::flush"]
pub struct SyncEnd {
    pub(super) store: Arc<Filestore>,
    pub(super) epoch: u64,
    /// Where everything lies that was appended since the mark; `None`: not in one window.
    pub(super) appended: Option<(Flusher, usize, usize)>,
}

impl SyncEnd {
    /// Puts the sync point on stable storage. `data_flushed`: [`Filestore::flush_data`] did something, so that of the
    /// journal no more is missing than what came since. Takes no lock.
    ///
    /// # Errors
    /// As [`Filestore::flush`].
    pub fn flush(self, data_flushed: bool) -> Result<()> {
        match &self.appended {
            Some((window, at, len)) if data_flushed => {
                self.store.flush_window(window, *at, *len)?;
            }
            _ => self.store.flush()?,
        }
        self.store.synced(self.epoch);
        Ok(())
    }
}

impl Log {
    /// Begins a sync. Call [`Filestore::flush_data`] next, without a lock, then [`Log::end_sync`].
    pub fn begin_sync(&mut self) -> SyncMark {
        let position = self.journal.as_ref().map(|journal| journal.chain.open.position());
        SyncMark { position, epoch: self.store.advance_epoch() }
    }

    /// Appends the sync point. Call [`SyncEnd::flush`] next, without a lock.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn end_sync(&mut self, mark: SyncMark) -> Result<SyncEnd> {
        let mut end = SyncEnd { store: Arc::clone(&self.store), epoch: mark.epoch, appended: None };
        let (Some(journal), Some(position)) = (&mut self.journal, mark.position) else {
            return Ok(end);
        };
        journal.put_sync_point(position)?;
        end.appended = journal.chain.open.window_since(position);
        Ok(end)
    }

    /// A sync in one go, for who has the log alone.
    ///
    /// # Errors
    /// As [`Log::append`] and [`Filestore::flush`].
    pub fn sync(&mut self) -> Result<()> {
        let mark = self.begin_sync();
        let data_flushed = self.store.flush_data()?;
        self.end_sync(mark)?.flush(data_flushed)
    }

    /// Makes all freed blocks free: a sync and a reclaim. For another try after `ENOSPC` from the host. Slow; the
    /// caller is not in the I/O gate.
    ///
    /// # Errors
    /// As [`Log::sync`].
    pub fn squeeze(&mut self) -> Result<()> {
        self.sync()?;
        self.store.reclaim_now();
        Ok(())
    }

    /// Ends the log in order: everything durable where that was promised, freed blocks given back,
    /// the filestore's reclaimer ended, the superblock marked clean.
    ///
    /// # Errors
    /// What the host says; the journal is whole in any case. `EIO` where a flush has failed before.
    pub fn close(mut self) -> Result<()> {
        self.sync()?;
        let Some(mut journal) = self.journal.take() else {
            self.store.shutdown();
            return Ok(());
        };
        // Where overwriting needs space, the reserve's stays with the file: so it can be mounted on a full host.
        let kept = journal.spare.take_if(|_| self.store.needs_space_to_overwrite());
        journal.spare = None;
        self.store.shutdown();
        journal.spare = kept;
        journal.superblock.clean = true;
        journal.with_host_space(Urgency::Freeing, |journal| {
            journal.superblock.write(&journal.chain.store)
        })?;
        self.store.flush()
    }
}
