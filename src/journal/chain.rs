//! A chain of segments that grows at its end: the journal, or a checkpoint in the making.

use std::sync::Arc;

use rustix::io::Errno;

use super::record::Record;
use super::segment::{Kind, Position, SYNC_POINT, Segment, blocks_for, frame_size};
use crate::block::BLOCK_SIZE;
use crate::errno::Result;
use crate::filestore::{Extent, Filestore};

/// Blocks of the shortest segment.
pub(super) const SMALLEST: u64 = 4;
/// Blocks of the reserve where overwriting needs space.
const COPY_ON_WRITE_SPARE: u64 = 256;
/// Blocks of the longest, unless a frame needs more.
const LONGEST: u64 = 256;
/// A new segment takes a chain's size divided by this.
const GROWTH: u64 = 4;

/// Blocks taken from the store and reserved on the host; given back when dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    store: Arc<Filestore>,
    extent: Option<Extent>,
}

impl Reserved {
    /// The reserve for what frees space. Where overwriting needs space, it is large enough for several frames: its space is
    /// given back to the host when that is full.
    ///
    /// # Errors
    /// As [`Reserved::new`].
    pub(super) fn spare(store: &Arc<Filestore>) -> Result<Reserved> {
        let copies = store.needs_space_to_overwrite();
        Reserved::new(store, if copies { COPY_ON_WRITE_SPARE } else { SMALLEST }, false)
    }

    /// # Errors
    /// `ENOSPC` when the limit or the host has no room.
    pub(super) fn new(store: &Arc<Filestore>, blocks: u64, boundless: bool) -> Result<Reserved> {
        let extent = store.alloc_run(blocks, boundless)?;
        let reserved = Reserved { store: Arc::clone(store), extent: Some(extent) };
        store.reserve(extent)?;
        Ok(reserved)
    }

    /// Gives the space of the blocks back to the host, and the blocks to the store.
    ///
    /// # Errors
    /// What the host says; the blocks are given back in any case.
    pub(super) fn give_space_back(self) -> Result<()> {
        self.extent.map_or(Ok(()), |e| self.store.punch_now(e))
    }

    pub(super) fn blocks(&self) -> u64 {
        self.extent.map_or(0, |e| e.len)
    }

    pub(super) fn extent(&self) -> Option<Extent> {
        self.extent
    }

    /// Makes a segment of it; gives it back on failure.
    pub(super) fn into_segment(mut self, uuid: &[u8; 16], sequence: u64) -> Result<Segment> {
        let extent = self.extent.ok_or(Errno::INVAL)?;
        let segment = Segment::create(&self.store, uuid, extent, sequence)?;
        self.extent = None;
        Ok(segment)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(e) = self.extent {
            self.store.free_unreferenced(e);
        }
    }
}

/// Segments in order, the last of which is open.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) store: Arc<Filestore>,
    pub(super) uuid: [u8; 16],
    pub(super) closed: Vec<Extent>,
    pub(super) open: Segment,
    /// Bytes of frames, in all segments.
    pub(super) bytes: u64,
    /// Frames of records.
    pub(super) frames: u64,
    /// The last frame is a sync point that counts all before it.
    pub(super) at_sync_point: bool,
}

impl Chain {
    pub(super) fn new(store: &Arc<Filestore>, uuid: [u8; 16], open: Segment) -> Chain {
        Chain {
            store: Arc::clone(store),
            uuid,
            closed: Vec::new(),
            open,
            bytes: 0,
            frames: 0,
            at_sync_point: false,
        }
    }

    pub(super) fn sequence(&self) -> u64 {
        self.open.header().sequence
    }

    /// Blocks of all segments.
    pub(super) fn blocks(&self) -> u64 {
        self.closed.iter().map(|e| e.len).sum::<u64>() + self.open.extent().len
    }

    /// Blocks that a new segment should have, to hold this payload.
    pub(super) fn next_size(&self, payload: usize) -> u64 {
        let grown = self.bytes / BLOCK_SIZE / GROWTH;
        grown.clamp(SMALLEST, LONGEST).max(blocks_for(payload))
    }

    /// Appends a frame of records to the open segment.
    ///
    /// # Errors
    /// `EFBIG` when it does not fit; otherwise as [`Segment::put`].
    pub(super) fn put_records(&mut self, payload: &[u8]) -> Result<()> {
        self.open.put(&self.store, Kind::Records, payload)?;
        self.bytes += frame_size(payload.len()) as u64;
        self.frames += 1;
        self.at_sync_point = false;
        Ok(())
    }

    /// Appends a sync point that counts what lies before `position`, unless the journal ends with one that counts all.
    ///
    /// # Errors
    /// As [`Segment::put`].
    pub(super) fn put_sync_point(&mut self, position: Position) -> Result<()> {
        self.open.remove_remains(&self.store)?;
        if self.at_sync_point {
            return Ok(());
        }
        let counts_all = position == self.open.position();
        let mut payload = Vec::with_capacity(SYNC_POINT);
        Record::SyncPoint.encode(&mut payload);
        if !counts_all {
            position.encode(&mut payload);
        }
        self.open.put(&self.store, Kind::SyncPoint, &payload)?;
        self.bytes += frame_size(payload.len()) as u64;
        self.at_sync_point = counts_all;
        Ok(())
    }

    /// Goes on in `next`, which the open segment is linked to.
    ///
    /// # Errors
    /// What the host says; `next` is given back and nothing is changed.
    pub(super) fn extend(&mut self, next: Segment) -> Result<()> {
        if let Err(err) = self.open.put_link(&self.store, &next) {
            self.store.free_unreferenced(next.extent());
            return Err(err);
        }
        self.closed.push(self.open.extent());
        self.open = next;
        Ok(())
    }

    /// Appends a frame, with a new segment where needed, beyond the limit.
    pub(super) fn append_boundless(&mut self, payload: &[u8]) -> Result<()> {
        if !self.open.fits(payload.len()) {
            let blocks = self.next_size(payload.len());
            let next = Reserved::new(&self.store, blocks, true)?
                .into_segment(&self.uuid, self.sequence() + 1)?;
            self.extend(next)?;
        }
        self.put_records(payload)
    }
}
