//! A segment: a run of blocks with a header and frames, one after the other.
//!
//! A frame is `word` (kind in the top 4 bits, payload length below), `crc`, payload, padding to 4
//! bytes. The crc covers the segment's seed, the frame's offset in the segment, the word and the
//! payload; seeds are random, so what an earlier use of the blocks left there is no frame.

use std::io::IoSlice;

use rustix::io::Errno;

use crate::block::{BLOCK_SIZE, StoreBlock};
use crate::errno::Result;
use crate::filestore::{Extent, Filestore, MAX_BLOCKS};
use crate::sys::map::{Flusher, Window};

pub(super) const HEADER: usize = 64;
const FRAME_HEADER: usize = 8;
const MAGIC: &[u8; 8] = b"OVERCSEG";

/// Most bytes in a frame's payload.
pub const MAX_PAYLOAD: usize = 1 << 24;

/// Bytes of a link's payload: start, sequence, seed.
const LINK: usize = 24;
/// Bytes kept free at a segment's end for the link to the next one.
const LINK_ROOM: usize = FRAME_HEADER + LINK;
/// Most bytes of a sync point's payload: its tag and a position.
pub(super) const SYNC_POINT: usize = 1 + 16;
/// Bytes kept free for a link and a sync point before it.
pub(super) const TAIL_ROOM: usize = LINK_ROOM + frame_size(SYNC_POINT);
/// Most blocks of a segment: one frame of the largest payload.
pub(super) const MAX_SEGMENT: u64 = blocks_for(MAX_PAYLOAD);

/// Bytes a frame takes in its segment.
pub(super) const fn frame_size(payload: usize) -> usize {
    (FRAME_HEADER + payload).next_multiple_of(4)
}

/// Blocks of a segment that holds one frame of this payload.
pub(super) const fn blocks_for(payload: usize) -> u64 {
    ((HEADER + frame_size(payload) + TAIL_ROOM) as u64).div_ceil(BLOCK_SIZE)
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Records = 1,
    /// The next segment; the last frame of its own.
    Link = 2,
    SyncPoint = 3,
}

impl Kind {
    fn of(word: u32) -> Option<Kind> {
        match word >> 28 {
            1 => Some(Kind::Records),
            2 => Some(Kind::Link),
            3 => Some(Kind::SyncPoint),
            _ => None,
        }
    }
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) extent: Extent,
    pub(super) sequence: u64,
    pub(super) seed: u64,
}

/// A place between two frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The segment's number.
    pub(super) sequence: u64,
    /// Bytes into the segment.
    pub(super) pos: usize,
}

impl Position {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&(self.pos as u64).to_le_bytes());
    }

    /// Of a sync point's payload; `None` where it counts all that precedes it, or is none of this version.
    pub(super) fn of_sync_point(payload: &[u8]) -> Option<Position> {
        let position = payload.get(1..).filter(|_| payload.len() == SYNC_POINT)?;
        let pos = usize::try_from(u64_at(position, 8)).ok()?;
        Some(Position { sequence: u64_at(position, 0), pos })
    }
}

/// What points to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) start: StoreBlock,
    pub(super) sequence: u64,
    pub(super) seed: u64,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut le = [0; 8];
    le.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(le)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut le = [0; 4];
    le.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(le)
}

impl Header {
    pub(super) fn encode(&self, uuid: &[u8; 16]) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(MAGIC);
        out[8..24].copy_from_slice(uuid);
        let fields = [self.extent.start.0, self.extent.len, self.sequence, self.seed];
        for (n, v) in fields.into_iter().enumerate() {
            out[24 + n * 8..32 + n * 8].copy_from_slice(&v.to_le_bytes());
        }
        let crc = crc32fast::hash(&out[..HEADER - 4]);
        out[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` when it is no header, of another filestore, or of impossible extent.
    pub(super) fn decode(bytes: &[u8; HEADER], uuid: &[u8; 16]) -> Option<Header> {
        let whole = &bytes[..8] == MAGIC
            && &bytes[8..24] == uuid
            && crc32fast::hash(&bytes[..HEADER - 4]) == u32_at(bytes, HEADER - 4);
        let extent = Extent { start: StoreBlock(u64_at(bytes, 24)), len: u64_at(bytes, 32) };
        let header = Header { extent, sequence: u64_at(bytes, 40), seed: u64_at(bytes, 48) };
        let possible = (1..=MAX_SEGMENT).contains(&extent.len) && extent.start.0 < MAX_BLOCKS;
        (whole && possible).then_some(header)
    }
}

impl Link {
    pub(super) fn to(header: &Header) -> Link {
        Link { start: header.extent.start, sequence: header.sequence, seed: header.seed }
    }
    fn encode(&self) -> [u8; LINK] {
        let mut out = [0; LINK];
        for (n, v) in [self.start.0, self.sequence, self.seed].into_iter().enumerate() {
            out[n * 8..n * 8 + 8].copy_from_slice(&v.to_le_bytes());
        }
        out
    }
    pub(super) fn decode(payload: &[u8]) -> Option<Link> {
        (payload.len() == LINK).then(|| Link {
            start: StoreBlock(u64_at(payload, 0)),
            sequence: u64_at(payload, 8),
            seed: u64_at(payload, 16),
        })
    }
}

fn crc(seed: u64, offset: usize, word: u32, payload: &[u8]) -> u32 {
    let mut salt = [0; 16];
    salt[..8].copy_from_slice(&seed.to_le_bytes());
    salt[8..12].copy_from_slice(&(offset as u32).to_le_bytes());
    salt[12..].copy_from_slice(&word.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt);
    hasher.update(payload);
    hasher.finalize()
}

/// The valid frame at `at` of a segment's bytes: kind, payload, and where the next one begins.
pub(super) fn frame_at(bytes: &[u8], at: usize, seed: u64) -> Option<(Kind, &[u8], usize)> {
    let header = bytes.get(at..at.checked_add(FRAME_HEADER)?)?;
    let word = u32_at(header, 0);
    let kind = Kind::of(word)?;
    let len = (word & 0x0fff_ffff) as usize;
    let payload = bytes.get(at + FRAME_HEADER..)?.get(..len)?;
    let next = at + frame_size(len);
    let valid = next <= bytes.len() && crc(seed, at, word, payload) == u32_at(header, 4);
    valid.then_some((kind, payload, next))
}

/// A segment that frames are appended to.
#[derive(Debug)]
pub(super) struct Segment {
    header: Header,
    /// Where the next frame goes.
    pos: usize,
    /// Bytes.
    size: usize,
    window: Option<Window>,
    /// A failed append may have left bytes that are not zero before this position. They are removed before
    /// anything else is appended.
    remains: usize,
}

impl Segment {
    /// Makes a segment of `extent`, which the host has reserved.
    pub(super) fn create(
        store: &Filestore,
        uuid: &[u8; 16],
        extent: Extent,
        sequence: u64,
    ) -> Result<Segment> {
        let header = Header { extent, sequence, seed: u64::from_ne_bytes(super::random()?) };
        let mut segment = Segment::resume(store, header, HEADER)?;
        segment.write(store, 0, &header.encode(uuid), &[])?;
        Ok(segment)
    }

    /// Goes on in a segment at `pos`, behind which it is zero.
    pub(super) fn resume(store: &Filestore, header: Header, pos: usize) -> Result<Segment> {
        let window = match store.window(header.extent) {
            // On a full host the frames are written, and may fail, by system call.
            Err(Errno::NOSPC | Errno::DQUOT) => None,
            window => window?,
        };
        let size = (header.extent.len * BLOCK_SIZE) as usize;
        Ok(Segment { header, pos, size, window, remains: 0 })
    }

    pub(super) fn extent(&self) -> Extent {
        self.header.extent
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Where the next frame goes.
    pub(super) fn position(&self) -> Position {
        Position { sequence: self.header.sequence, pos: self.pos }
    }

    /// What flushes all that was appended since `position`; `None` where that is not in this segment's window.
    pub(super) fn window_since(&self, position: Position) -> Option<(Flusher, usize, usize)> {
        let window = self.window.as_ref().filter(|_| position.sequence == self.header.sequence)?;
        Some((window.flusher(), position.pos, self.pos.checked_sub(position.pos)?))
    }

    /// Whether a sync point fits before the room kept for a link.
    pub(super) fn fits_sync_point(&self) -> bool {
        self.pos + frame_size(SYNC_POINT) + LINK_ROOM <= self.size
    }

    /// Whether a frame of this payload fits before the room kept for a sync point and a link.
    pub(super) fn fits(&self, payload: usize) -> bool {
        self.pos + frame_size(payload) + TAIL_ROOM <= self.size
    }

    /// Writes a header and a payload, the header last where both go by memory. What an error may have left
    /// behind is noted in `remains`.
    fn write(&mut self, store: &Filestore, at: usize, head: &[u8], payload: &[u8]) -> Result<()> {
        if let Some(w) = &mut self.window {
            let written = w.write(at + head.len(), payload).and_then(|()| w.write(at, head));
            if written != Err(Errno::IO) {
                return written;
            }
            // By system call, the host says why it cannot.
            self.window = None;
            self.remains = self.remains.max(at + head.len() + payload.len());
        }
        let offset = self.header.extent.start.offset() + at as u64;
        let mut parts = [IoSlice::new(head), IoSlice::new(payload)];
        let mut done = 0;
        store.gate().write_frame_at(offset, &mut parts, &mut done).inspect_err(|err| {
            let untouched = done == 0 && matches!(*err, Errno::NOSPC | Errno::DQUOT);
            if !untouched {
                self.remains = self.remains.max(at + head.len() + payload.len());
            }
        })
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// What the host says, with nothing appended; `EFBIG` when it does not fit.
    pub(super) fn put(&mut self, store: &Filestore, kind: Kind, payload: &[u8]) -> Result<()> {
        self.remove_remains(store)?;
        let next = self.pos + frame_size(payload.len());
        let room = match kind {
            Kind::Link => 0,
            Kind::SyncPoint => LINK_ROOM,
            Kind::Records => TAIL_ROOM,
        };
        if payload.len() > MAX_PAYLOAD || next + room > self.size {
            return Err(Errno::FBIG);
        }
        let word = (kind as u32) << 28 | payload.len() as u32;
        let mut head = [0; FRAME_HEADER];
        head[..4].copy_from_slice(&word.to_le_bytes());
        head[4..].copy_from_slice(&crc(self.header.seed, self.pos, word, payload).to_le_bytes());
        if let Err(err) = self.write(store, self.pos, &head, payload) {
            if let Err(again) = self.remove_remains(store) {
                tracing::warn!(%again, "a failed append to the journal cannot be taken back yet");
            }
            return Err(err);
        }
        self.pos = next;
        Ok(())
    }

    /// Zeroes what a failed append may have left behind: behind the last frame, a segment holds zeros.
    ///
    /// # Errors
    /// What the host says. The next append tries again.
    pub(super) fn remove_remains(&mut self, store: &Filestore) -> Result<()> {
        if self.remains > self.pos {
            let zeros = vec![0; self.remains - self.pos];
            self.write(store, self.pos, &zeros, &[])?;
        }
        self.remains = 0;
        Ok(())
    }

    /// Appends the link to the next segment.
    pub(super) fn put_link(&mut self, store: &Filestore, next: &Segment) -> Result<()> {
        self.put(store, Kind::Link, &Link::to(&next.header).encode())
    }
}
