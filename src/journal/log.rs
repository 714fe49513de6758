//! The log: appends, sync points, checkpoints.

use std::sync::{Arc, Weak};

use rustix::io::Errno;

use super::chain::{Chain, Reserved, SMALLEST};
use super::segment::{MAX_PAYLOAD, Position, blocks_for};
use super::superblock::{Format, Superblock};
use crate::block::StoreBlock;
use crate::errno::Result;
use crate::filestore::{Extent, Filestore};

/// Blocks of free space before the journal that are worth a checkpoint: 4 MiB.
const STRANDED: u64 = 1024;

/// What an append may claim when space is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// `ENOSPC` when the limit or the host leaves no room.
    Normal,
    /// It frees space (unlink, truncate, rmdir): may take the reserve, and go beyond the limit.
    Freeing,
}

/// The size of the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of frames since the last checkpoint began, that one included.
    pub bytes: u64,
    /// Bytes of the last checkpoint; 0 when there was none since the log was started.
    pub checkpoint_bytes: u64,
    /// Frames of records in `bytes`.
    pub frames: u64,
    /// Blocks of the segments, and of the reserve.
    pub blocks: u64,
}

#[derive(Debug)]
pub(super) struct Journal {
    pub(super) superblock: Superblock,
    pub(super) chain: Chain,
    /// Kept for appends that free space.
    pub(super) spare: Option<Reserved>,
    checkpoint_bytes: u64,
    /// Alive while a checkpoint has been switched to and not committed.
    switched: Weak<()>,
    /// Segments of checkpoints whose superblock may or may not have been written.
    limbo: Vec<Extent>,
}

/// The journal of one filestore, or (for mediums that end with the mount) none.
///
/// Dropping it is like being killed: the journal is whole, but not marked clean.
#[derive(Debug)]
pub struct Log {
    pub(super) store: Arc<Filestore>,
    pub(super) journal: Option<Journal>,
}

/// A compact image of the tree in the making, as frames of records in segments of its own. Dropped,
/// it leaves no trace.
#[derive(Debug)]
pub struct CheckpointWriter {
    store: Arc<Filestore>,
    /// `None`: there is no journal.
    chain: Option<Chain>,
    head: (StoreBlock, u64),
}

/// A checkpoint that appends already follow, though the superblock still names the old journal,
/// which is followed by the same appends. Dropped, it leaves the old journal in force.
#[derive(Debug)]
pub struct PendingCheckpoint {
    store: Arc<Filestore>,
    segments: Vec<Extent>,
    head: (StoreBlock, u64),
    bytes: u64,
    frames: u64,
    /// Segments, bytes and frames of the old journal.
    old: (usize, u64, u64),
    synced: bool,
    mark: Option<Arc<()>>,
}

impl Log {
    /// A log that forgets.
    pub(super) fn forgetful(store: Arc<Filestore>) -> Log {
        Log { store, journal: None }
    }

    /// A log that goes on in `chain`, whose superblock was just written.
    pub(super) fn resume(superblock: Superblock, chain: Chain) -> Log {
        let spare = Reserved::spare(&chain.store).ok();
        let store = Arc::clone(&chain.store);
        let journal = Journal {
            superblock,
            chain,
            spare,
            checkpoint_bytes: 0,
            switched: Weak::new(),
            limbo: Vec::new(),
        };
        Log { store, journal: Some(journal) }
    }

    /// Appends a frame of records. On return it is in the host's page cache: it survives the death
    /// of this process. Usually a copy in memory; a new segment now and then costs system calls, and
    /// [`Urgency::Freeing`] on a full host may cost a flush.
    ///
    /// # Errors
    /// `ENOSPC` without room, `E2BIG` above [`MAX_PAYLOAD`], or what the host says. Nothing is
    /// appended then.
    pub fn append(&mut self, payload: &[u8], urgency: Urgency) -> Result<()> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        if payload.len() > MAX_PAYLOAD {
            return Err(Errno::TOOBIG);
        }
        if urgency == Urgency::Normal && journal.spare.is_none() {
            journal.spare = Some(Reserved::spare(&self.store)?);
        }
        journal.with_host_space(urgency, |journal| {
            if !journal.chain.open.fits(payload.len()) {
                journal.grow(payload.len(), urgency)?;
            }
            journal.chain.put_records(payload)
        })
    }

    /// How large the history is.
    pub fn stats(&self) -> Stats {
        let Some(journal) = &self.journal else { return Stats::default() };
        Stats {
            bytes: journal.chain.bytes,
            checkpoint_bytes: journal.checkpoint_bytes,
            frames: journal.chain.frames,
            blocks: journal.chain.blocks() + journal.spare.as_ref().map_or(0, Reserved::blocks),
        }
    }

    /// Whether the journal keeps the file long although most of what lies before its end is free. A
    /// checkpoint moves it to where there is room further ahead.
    pub fn strands_the_end(&self) -> bool {
        let Some(journal) = &self.journal else { return false };
        let (end, used) = self.store.end_and_used();
        let top = journal.extents().map(|e| e.end()).max().unwrap_or_default();
        top == end && end.0 > 2 * used + STRANDED
    }

    /// Whether there is a journal at all.
    pub fn is_kept(&self) -> bool {
        self.journal.is_some()
    }

    /// Whether the next sync point needs no new segment. A new segment may be the spare, which is kept for removals.
    pub fn fits_sync_point(&self) -> bool {
        let chain = self.journal.as_ref().map(|journal| &journal.chain);
        chain.is_none_or(|chain| chain.at_sync_point || chain.open.fits_sync_point())
    }

    /// Starts a checkpoint. The tree must not change, and nothing be appended, until
    /// [`Log::switch`].
    ///
    /// # Errors
    /// `ENOSPC` when the host is full; `EBUSY` while another one waits for its commit.
    pub fn begin_checkpoint(&self) -> Result<CheckpointWriter> {
        let Some(journal) = &self.journal else {
            return Ok(CheckpointWriter {
                store: Arc::clone(&self.store),
                chain: None,
                head: (StoreBlock(0), 0),
            });
        };
        if journal.switched.strong_count() > 0 {
            return Err(Errno::BUSY);
        }
        let uuid = journal.superblock.uuid;
        let open = Reserved::new(&self.store, SMALLEST, true)?
            .into_segment(&uuid, journal.chain.sequence() + 1)?;
        let head = (open.extent().start, open.header().sequence);
        let chain = Some(Chain::new(&self.store, uuid, open));
        Ok(CheckpointWriter { store: Arc::clone(&self.store), chain, head })
    }

    /// Ends the writing of a checkpoint: later appends follow it, and the old journal as well, until
    /// [`Log::commit`] decides. So that the flush between, [`PendingCheckpoint::sync`], needs no lock.
    ///
    /// # Errors
    /// What the host says; the old journal stays in force.
    pub fn switch(&mut self, writer: CheckpointWriter) -> Result<PendingCheckpoint> {
        let pending = match &mut self.journal {
            Some(journal) => journal.switch(writer)?,
            None => PendingCheckpoint {
                store: Arc::clone(&self.store),
                segments: Vec::new(),
                head: (StoreBlock(0), 0),
                bytes: 0,
                frames: 0,
                old: (0, 0, 0),
                synced: true,
                mark: None,
            },
        };
        self.store.advance_epoch();
        Ok(pending)
    }

    /// Puts a checkpoint in force and frees the old journal. Flushes first where
    /// [`PendingCheckpoint::sync`] has not.
    ///
    /// # Errors
    /// What the host says; the old journal stays in force.
    pub fn commit(&mut self, mut pending: PendingCheckpoint) -> Result<()> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        if !pending.synced {
            pending.sync()?;
        }
        journal.commit(pending)
    }

    /// A checkpoint in one go: `write` writes the tree.
    ///
    /// # Errors
    /// What `write` and the host say; the old journal stays in force.
    #[cfg(test)]
    pub fn checkpoint(
        &mut self,
        write: impl FnOnce(&mut CheckpointWriter) -> Result<()>,
    ) -> Result<()> {
        let mut writer = self.begin_checkpoint()?;
        write(&mut writer)?;
        let pending = self.switch(writer)?;
        self.commit(pending)
    }
}

impl Journal {
    /// All that it has taken of the filestore.
    fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        let open = self.chain.open.extent();
        let spare = self.spare.as_ref().and_then(Reserved::extent);
        self.chain.closed.iter().copied().chain([open]).chain(spare)
    }

    /// Lets the spare lie lower, if there is room.
    fn lower_spare(&mut self) {
        let Ok(fresh) = Reserved::spare(&self.chain.store) else { return };
        let start = |spare: &Reserved| spare.extent().map(|e| e.start);
        if self.spare.as_ref().is_none_or(|spare| start(&fresh) < start(spare)) {
            self.spare = Some(fresh);
        }
    }

    /// Goes on in a new segment that holds a frame of this payload.
    fn grow(&mut self, payload: usize, urgency: Urgency) -> Result<()> {
        let next = match self.reserve_next(payload, false) {
            Err(Errno::NOSPC | Errno::DQUOT) if urgency == Urgency::Freeing => {
                self.last_resort(payload)?
            }
            next => next?,
        };
        let segment = next.into_segment(&self.chain.uuid, self.chain.sequence() + 1)?;
        self.chain.extend(segment)?;
        if self.spare.is_none() {
            // Without it, appends that free nothing fail until there is room again.
            self.spare = Reserved::spare(&self.chain.store).ok();
        }
        Ok(())
    }

    /// A segment of the wanted size, or else of the least that will do.
    fn reserve_next(&self, payload: usize, boundless: bool) -> Result<Reserved> {
        let store = &self.chain.store;
        match Reserved::new(store, self.chain.next_size(payload), boundless) {
            Err(Errno::NOSPC | Errno::DQUOT) => {
                Reserved::new(store, blocks_for(payload).max(SMALLEST), boundless)
            }
            next => next,
        }
    }

    /// A segment for a frame that frees space: beyond the limit, or the spare, or what a flush and a
    /// reclaim make free.
    fn last_resort(&mut self, payload: usize) -> Result<Reserved> {
        if let Ok(next) = self.reserve_next(payload, true) {
            return Ok(next);
        }
        let copies = self.chain.store.needs_space_to_overwrite();
        if let Some(spare) = self.spare.take_if(|s| !copies && s.blocks() >= blocks_for(payload)) {
            return Ok(spare);
        }
        let store = Arc::clone(&self.chain.store);
        let epoch = store.advance_epoch();
        store.flush_data()?;
        self.chain.put_sync_point(self.chain.open.position())?;
        store.flush()?;
        store.synced(epoch);
        store.reclaim_now();
        self.reserve_next(payload, true)
    }

    /// Lets a new open segment follow both the image and the journal.
    fn join(&mut self, image: &mut Chain) -> Result<()> {
        let store = Arc::clone(&self.chain.store);
        let sequence = image.sequence().max(self.chain.sequence()) + 1;
        let tail =
            Reserved::new(&store, SMALLEST, true)?.into_segment(&self.chain.uuid, sequence)?;
        // The image's end first: the journal's link is what makes the tail reachable. Before the image comes in force,
        // everything is flushed that its sync point counts on. The old journal gets none: it may be in force without.
        let ended = image
            .put_sync_point(image.open.position())
            .and_then(|()| image.open.put_link(&store, &tail));
        if let Err(err) = ended {
            store.free_unreferenced(tail.extent());
            return Err(err);
        }
        self.chain.extend(tail)
    }

    /// Appends a sync point that counts what lies before `position`, unless the journal ends with one that counts all.
    pub(super) fn put_sync_point(&mut self, position: Position) -> Result<()> {
        self.with_host_space(Urgency::Freeing, |journal| {
            if !journal.chain.at_sync_point && !journal.chain.open.fits_sync_point() {
                journal.grow(0, Urgency::Freeing)?;
            }
            journal.chain.put_sync_point(position)
        })
    }

    /// Does `op`, which changes nothing when it fails. On a full host where overwriting needs space, it is done again with the
    /// space of the reserve, if it is to free some.
    pub(super) fn with_host_space(
        &mut self,
        urgency: Urgency,
        op: impl Fn(&mut Journal) -> Result<()>,
    ) -> Result<()> {
        match op(self) {
            Err(Errno::NOSPC | Errno::DQUOT)
                if urgency == Urgency::Freeing && self.chain.store.needs_space_to_overwrite() =>
            {
                self.spare.take().ok_or(Errno::NOSPC)?.give_space_back()?;
                op(self)
            }
            done => done,
        }
    }

    fn switch(&mut self, mut writer: CheckpointWriter) -> Result<PendingCheckpoint> {
        if self.switched.strong_count() > 0 {
            return Err(Errno::BUSY);
        }
        let mut image = writer.chain.take().ok_or(Errno::INVAL)?;
        let joined = self.join(&mut image);
        let mut segments = std::mem::take(&mut image.closed);
        segments.push(image.open.extent());
        let store = Arc::clone(&self.chain.store);
        if let Err(err) = joined {
            segments.into_iter().for_each(|e| store.free_unreferenced(e));
            return Err(err);
        }
        let mark = Arc::new(());
        self.switched = Arc::downgrade(&mark);
        Ok(PendingCheckpoint {
            store,
            segments,
            head: writer.head,
            bytes: image.bytes,
            frames: image.frames,
            old: (self.chain.closed.len(), self.chain.bytes, self.chain.frames),
            synced: false,
            mark: Some(mark),
        })
    }

    fn commit(&mut self, mut pending: PendingCheckpoint) -> Result<()> {
        let mine = self.switched.upgrade().zip(pending.mark.take());
        if !mine.is_some_and(|(a, b)| Arc::ptr_eq(&a, &b)) {
            return Err(Errno::INVAL);
        }
        let image = std::mem::take(&mut pending.segments);
        let before = (self.superblock.head, self.superblock.head_sequence, self.superblock.format);
        (self.superblock.head, self.superblock.head_sequence) = pending.head;
        self.superblock.format = Format::Two;
        if let Err(err) = self.superblock.write(&self.chain.store) {
            // It may have been written all the same: both journals must stay readable.
            (self.superblock.head, self.superblock.head_sequence, self.superblock.format) = before;
            self.limbo.extend(image);
            return Err(err);
        }
        let (segments, bytes, frames) = pending.old;
        let store = Arc::clone(&self.chain.store);
        let old: Vec<Extent> = self.chain.closed.splice(..segments, image).collect();
        let old = old.into_iter().chain(self.limbo.drain(..));
        old.for_each(|e| store.free_referenced(e));
        self.chain.bytes = self.chain.bytes - bytes + pending.bytes;
        self.chain.frames = self.chain.frames - frames + pending.frames;
        self.checkpoint_bytes = pending.bytes;
        self.lower_spare();
        Ok(())
    }
}

impl CheckpointWriter {
    /// Appends a frame of records to the image.
    ///
    /// # Errors
    /// `ENOSPC` when the host is full, `E2BIG` above [`MAX_PAYLOAD`], or what the host says:
    /// drop the writer then.
    pub fn write(&mut self, payload: &[u8]) -> Result<()> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        if payload.len() > MAX_PAYLOAD {
            return Err(Errno::TOOBIG);
        }
        chain.append_boundless(payload)
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        if let Some(chain) = self.chain.take() {
            let all = chain.closed.iter().copied().chain([chain.open.extent()]);
            all.for_each(|e| self.store.free_unreferenced(e));
        }
    }
}

impl PendingCheckpoint {
    /// Makes the image durable, so that [`Log::commit`] need not. Takes no lock.
    ///
    /// # Errors
    /// As [`Filestore::flush`].
    pub fn sync(&mut self) -> Result<()> {
        self.store.flush()?;
        self.synced = true;
        Ok(())
    }
}

impl Drop for PendingCheckpoint {
    fn drop(&mut self) {
        self.segments.drain(..).for_each(|e| self.store.free_unreferenced(e));
    }
}
