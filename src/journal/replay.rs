//! Opening a filestore: how much of its journal holds, its frames, and the log that goes on.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use super::Result;
use super::chain::{Chain, SMALLEST};
use super::log::Log;
use super::random;
use super::segment::{self, HEADER, Header, Kind, Link, Position, Segment, frame_at, frame_size};
use super::superblock::{self, Format, Superblock};
use crate::block::{BLOCK_SIZE, StoreBlock, StoreOffset, blocks_for};
use crate::config::Medium;
use crate::filestore::{self, Access, Backing, Extent, Filestore, HostFile, OpenError, Options};

/// What opening found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The last mount ended in order.
    pub was_clean: bool,
    /// The host was booted since the last mount: what had not been synced may be lost.
    pub other_boot: bool,
    /// The last mount was volatile: after a crash of the host, file data may be wrong anywhere.
    pub was_volatile: bool,
    /// One of the superblock's two slots is damaged.
    pub damaged_slot: bool,
    /// Frames of records to replay.
    pub frames: u64,
    /// Bytes of frames that are kept.
    pub bytes: u64,
    /// Whole frames after the last sync point, left out because the host crashed.
    pub cut_frames: u64,
    /// Bytes of these.
    pub cut_bytes: u64,
    /// The journal ends in something that is no frame: an append that a kill or a crash cut short,
    /// or damage.
    pub torn: bool,
}

impl Recovery {
    /// The host went down under a mount.
    pub fn host_crash(&self) -> bool {
        self.other_boot && !self.was_clean
    }
    /// Whether anything was left out.
    pub fn cut(&self) -> bool {
        self.torn || self.cut_frames > 0
    }
}

/// An end of frames: behind `pos` of segment number `segment`.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    segment: usize,
    pos: usize,
    frames: u64,
    bytes: u64,
    at_sync_point: bool,
}

/// A journal whose extent is known: call [`Recovering::replay`].
#[derive(Debug)]
pub struct Recovering {
    store: Filestore,
    access: Access,
    boot: [u8; 16],
    superblock: Superblock,
    segments: Vec<Header>,
    end: Place,
    recovery: Recovery,
}

/// A journal that was replayed: mark the extents in use, then [`Replayed::start`].
#[derive(Debug)]
pub struct Replayed {
    recovering: Recovering,
}

/// The running boot's id; a random one where there is none, which errs on the safe side.
fn boot_id() -> Result<[u8; 16], OpenError> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    match u128::from_str_radix(&hex, 16) {
        Ok(id) => Ok(id.to_be_bytes()),
        Err(_) => random().map_err(|err| OpenError::Host("given an id", err)),
    }
}

/// Writes an empty filestore: superblock and first segment.
fn format(backing: &dyn Backing, boot: [u8; 16]) -> Result<()> {
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let uuid = random()?;
    let first = Extent { start: superblock::END, len: SMALLEST };
    let header = Header { extent: first, sequence: 1, seed: u64::from_ne_bytes(random()?) };
    let write = |StoreOffset(offset), bytes: &[u8]| {
        let n = backing.write_at(&[std::io::IoSlice::new(bytes)], offset)?;
        if n == bytes.len() { Ok(()) } else { Err(Errno::NOSPC) }
    };
    backing.allocate(0, first.end().offset().0)?;
    write(first.start.offset(), &header.encode(&uuid))?;
    for generation in [1, 2] {
        let superblock = Superblock {
            format: Format::Two,
            uuid,
            generation,
            head: first.start,
            head_sequence: header.sequence,
            clean: true,
            volatile: false,
            boot,
            created,
        };
        write(StoreBlock(generation & 1).offset(), &superblock.encode())?;
    }
    Ok(())
}

/// Opens the filestore `name` in `dir` for mounting, making it where there is none.
///
/// # Errors
/// See [`OpenError`]; nothing is changed then.
pub fn open_or_create(
    dir: BorrowedFd<'_>,
    name: &Path,
    options: Options,
) -> Result<Recovering, OpenError> {
    let boot = boot_id()?;
    loop {
        if let Some(file) = filestore::open_named(dir, name, Access::ReadWrite)? {
            return recover(Box::new(file), options, Access::ReadWrite, boot);
        }
        let fill = |file: &HostFile| format(file, boot);
        if let Some(file) = filestore::create_named(dir, name, options.durable, fill)? {
            return recover(Box::new(file), options, Access::ReadWrite, boot);
        }
    }
}

/// Opens the filestore in `backing`, whatever that is. `boot` is the running boot's id.
///
/// # Errors
/// See [`OpenError`].
#[cfg(test)]
pub(crate) fn over(
    backing: Box<dyn Backing>,
    options: Options,
    boot: [u8; 16],
) -> Result<Recovering, OpenError> {
    recover(backing, options, Access::ReadWrite, boot)
}

/// Opens the filestore `name` in `dir` to look at it: it can be replayed, not started.
///
/// # Errors
/// See [`OpenError`].
pub fn open_read_only(dir: BorrowedFd<'_>, name: &Path) -> Result<Recovering, OpenError> {
    let file = filestore::open_named(dir, name, Access::ReadOnly)?.ok_or(OpenError::Missing)?;
    recover(Box::new(file), Options::default(), Access::ReadOnly, boot_id()?)
}

/// A filestore that ends with the mount, and a log that forgets. The reclaimer runs.
///
/// # Errors
/// [`OpenError::Host`].
pub fn unkept(medium: &Medium, options: Options) -> Result<(Arc<Filestore>, Log), OpenError> {
    let file = filestore::unnamed(medium)?;
    let options = Options { durable: false, ..options };
    let store = Arc::new(Filestore::new(Box::new(file), options));
    // No file has block 0, whatever the medium.
    let superblock = Extent { start: StoreBlock(0), len: superblock::BLOCKS };
    store.mark_used(superblock).map_err(|err| OpenError::Host("started", err))?;
    store.go_live();
    store.start_reclaimer().map_err(|err| OpenError::Host("started", err))?;
    Ok((Arc::clone(&store), Log::forgetful(store)))
}

/// Reads the superblock and the journal's structure. `boot` is the running boot's id.
pub(super) fn recover(
    backing: Box<dyn Backing>,
    options: Options,
    access: Access,
    boot: [u8; 16],
) -> Result<Recovering, OpenError> {
    let store = Filestore::new(backing, options);
    let (superblock, damaged_slot) = Superblock::read(&store)?;
    let mut recovery = Recovery {
        was_clean: superblock.clean,
        other_boot: superblock.boot != boot,
        was_volatile: superblock.volatile,
        damaged_slot,
        ..Recovery::default()
    };
    let host = |err| OpenError::Host("read", err);
    let Some(scan) = Scan::run(&store, &superblock).map_err(host)? else {
        let len = store.host_len().map_err(host)?;
        let cut_off = superblock.head.0 >= blocks_for(len);
        return Err(if cut_off { OpenError::Truncated } else { OpenError::DamagedJournal });
    };
    // In order, a mount ends with a sync point, and zeros behind it.
    let ends_in_order = scan.end.at_sync_point || scan.end.bytes == 0;
    if recovery.was_clean && (scan.torn || !ends_in_order) {
        return Err(OpenError::CutJournal);
    }
    let end = if recovery.other_boot { scan.last_sync } else { scan.end };
    recovery.torn = scan.torn;
    recovery.frames = end.frames;
    recovery.bytes = end.bytes;
    recovery.cut_frames = scan.end.frames - end.frames;
    recovery.cut_bytes = scan.end.bytes - end.bytes;

    let mut segments = scan.segments;
    segments.truncate(end.segment + 1);
    let fixed = Extent { start: StoreBlock(0), len: superblock::BLOCKS };
    let taken = segments.iter().map(|h| h.extent).chain([fixed]);
    for extent in taken {
        store.mark_used(extent).map_err(|_| OpenError::DamagedJournal)?;
    }
    Ok(Recovering { store, access, boot, superblock, segments, end, recovery })
}

/// The bytes of a segment, as far as the file goes.
fn read_segment(store: &Filestore, header: &Header) -> Result<Vec<u8>> {
    let offset = header.extent.start.offset();
    let len = (header.extent.len * BLOCK_SIZE).min(store.host_len()?.saturating_sub(offset.0));
    let mut bytes = vec![0; len as usize];
    store.gate().read_at(offset, &mut bytes)?;
    Ok(bytes)
}

/// The header of the segment at block `start`, when it is the one expected.
fn read_header(
    store: &Filestore,
    uuid: &[u8; 16],
    start: StoreBlock,
    expected: impl FnOnce(&Header) -> bool,
) -> Result<Option<Header>> {
    let in_file = store.host_len().is_ok_and(|len| start.0 < blocks_for(len));
    if !in_file {
        return Ok(None);
    }
    let mut bytes = [0; HEADER];
    store.gate().read_at(start.offset(), &mut bytes)?;
    let header = Header::decode(&bytes, uuid);
    Ok(header.filter(|h| h.extent.start == start && expected(h)))
}

/// The walk along the journal: which segments, and where the valid frames end.
struct Scan {
    segments: Vec<Header>,
    end: Place,
    last_sync: Place,
    /// Ends of frames since `last_sync`, which a sync point may count to.
    since: Vec<Place>,
    torn: bool,
}

impl Scan {
    /// `None` when the first segment is not there.
    fn run(store: &Filestore, superblock: &Superblock) -> Result<Option<Scan>> {
        let wanted = |h: &Header| h.sequence == superblock.head_sequence;
        let Some(head) = read_header(store, &superblock.uuid, superblock.head, wanted)? else {
            return Ok(None);
        };
        let start = Place { pos: HEADER, ..Place::default() };
        let mut scan = Scan {
            segments: vec![head],
            end: start,
            last_sync: start,
            since: Vec::new(),
            torn: false,
        };
        let mut next = scan.segment(store, &head)?;
        while let Some(link) = next {
            let last = scan.segments[scan.end.segment].sequence;
            let wanted = |h: &Header| Link::to(h) == link && link.sequence > last;
            let found = read_header(store, &superblock.uuid, link.start, wanted)?;
            let Some(header) = found.filter(|h| scan.is_apart(h.extent)) else {
                scan.torn = true;
                break;
            };
            scan.segments.push(header);
            scan.end.segment += 1;
            scan.end.pos = HEADER;
            scan.since.push(scan.end);
            next = scan.segment(store, &header)?;
        }
        Ok(Some(scan))
    }

    /// Whether no segment shares a block with `e`. (Journals have few segments.)
    fn is_apart(&self, e: Extent) -> bool {
        e.start >= superblock::END
            && self.segments.iter().all(|h| h.extent.end() <= e.start || e.end() <= h.extent.start)
    }

    /// All before `place` was durable.
    fn count_to(&mut self, place: Place) {
        self.last_sync = place;
        self.since.clear();
    }

    /// The same of a position, which was passed since the last sync point; else it says nothing new: it is of a
    /// journal that an image replaced.
    fn count_to_position(&mut self, position: Position) {
        let segments = &self.segments;
        let found = self.since.iter().rposition(|place| {
            place.pos == position.pos && segments[place.segment].sequence == position.sequence
        });
        if let Some(found) = found {
            self.last_sync = self.since[found];
            self.since.drain(..=found);
        }
    }

    /// Goes over the frames of the last segment; the link it ends with.
    fn segment(&mut self, store: &Filestore, header: &Header) -> Result<Option<Link>> {
        let bytes = read_segment(store, header)?;
        while let Some((kind, payload, next)) = frame_at(&bytes, self.end.pos, header.seed) {
            if kind == Kind::Link {
                return Ok(Link::decode(payload));
            }
            self.end.pos = next;
            self.end.bytes += frame_size(payload.len()) as u64;
            self.end.frames += u64::from(kind == Kind::Records);
            let position = Position::of_sync_point(payload);
            self.end.at_sync_point = kind == Kind::SyncPoint && position.is_none();
            match (kind, position) {
                (Kind::SyncPoint, None) => self.count_to(self.end),
                (Kind::SyncPoint, Some(position)) => self.count_to_position(position),
                _ => {}
            }
            self.since.push(self.end);
        }
        self.torn = bytes.get(self.end.pos..).is_some_and(|rest| rest.iter().any(|b| *b != 0));
        Ok(None)
    }
}

impl Recovering {
    /// What opening found out.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// How the records in the frames are written. A checkpoint of the [`Log`] writes format 2, whatever it was.
    pub fn format(&self) -> Format {
        self.superblock.format
    }

    /// Hands the payload of every frame that holds to `apply`, in order.
    ///
    /// # Errors
    /// The first one of `apply`, or of reading.
    pub fn replay<E: From<Errno>>(
        self,
        mut apply: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Replayed, E> {
        for (n, header) in self.segments.iter().enumerate() {
            let bytes = read_segment(&self.store, header)?;
            let stop = if n == self.end.segment { self.end.pos } else { usize::MAX };
            let mut at = HEADER;
            while at < stop {
                let Some((kind, payload, next)) = frame_at(&bytes, at, header.seed) else { break };
                if kind == Kind::Records {
                    apply(payload)?;
                }
                at = next;
            }
        }
        Ok(Replayed { recovering: self })
    }
}

impl Replayed {
    /// What opening found out.
    #[cfg(test)]
    pub fn recovery(&self) -> &Recovery {
        &self.recovering.recovery
    }

    /// The filestore: for [`Filestore::mark_used`], and to look at.
    pub fn store(&self) -> &Filestore {
        &self.recovering.store
    }

    /// Blocks that the journal takes.
    pub fn journal_blocks(&self) -> u64 {
        self.recovering.segments.iter().map(|h| h.extent.len).sum()
    }

    /// Ends the looking; the filestore remains, for reads.
    pub fn into_store(self) -> Filestore {
        self.recovering.store
    }

    /// Makes the log appendable and starts the filestore's reclaimer. All extents in use must have
    /// been marked: the rest is given back to the host.
    ///
    /// # Errors
    /// [`OpenError::Host`] (`EROFS` after [`open_read_only`]).
    pub fn start(self) -> Result<(Arc<Filestore>, Log), OpenError> {
        self.resume(true).map_err(|err| OpenError::Host("started", err))
    }

    /// [`Replayed::start`] without the reclaimer's thread.
    ///
    /// # Errors
    /// As [`Replayed::start`].
    #[cfg(test)]
    pub(crate) fn start_without_thread(self) -> Result<(Arc<Filestore>, Log), OpenError> {
        self.resume(false).map_err(|err| OpenError::Host("started", err))
    }

    /// [`Replayed::start`], with or without the reclaimer's thread.
    pub(super) fn resume(self, reclaimer: bool) -> Result<(Arc<Filestore>, Log)> {
        let Recovering { store, access, boot, mut superblock, mut segments, end, recovery } =
            self.recovering;
        if access == Access::ReadOnly {
            return Err(Errno::ROFS);
        }
        let store = Arc::new(store);
        let last = segments.pop().ok_or(Errno::INVAL)?;
        let open = Segment::resume(&store, last, end.pos)?;
        superblock.clean = false;
        superblock.volatile = !store.durable();
        superblock.boot = boot;
        let mut begin = || {
            clear_tail(&store, &last, end.pos)?;
            superblock.write(&store)
        };
        match begin() {
            Err(Errno::NOSPC | Errno::DQUOT) if store.needs_space_to_overwrite() => {
                // What the file keeps for free blocks, the last mount's reserve at least, is room for it.
                store.go_live();
                store.distrust_free();
                store.reclaim_now();
                begin()?;
            }
            done => done?,
        }
        // Should the host crash, it must not look as if the last mount had ended in order.
        store.flush_always()?;

        let mut chain = Chain::new(&store, superblock.uuid, open);
        chain.closed = segments.iter().map(|h| h.extent).collect();
        chain.bytes = end.bytes;
        chain.frames = end.frames;
        chain.at_sync_point = end.at_sync_point;
        // A crash of the host would go back to the last sync point: what was freed after it must not
        // be punched or used again before there is another one on stable storage.
        if store.durable() && !chain.at_sync_point {
            chain.put_sync_point(chain.open.position())?;
            store.flush()?;
        }
        store.go_live();
        if !recovery.was_clean || recovery.cut() {
            store.distrust_free();
        }
        if reclaimer {
            store.start_reclaimer()?;
        }
        Ok((store, Log::resume(superblock, chain)))
    }
}

/// Zeroes what follows the last frame that counts, durably where that is promised: of a later crash,
/// no frame from before this one must come back.
fn clear_tail(store: &Filestore, header: &Header, pos: usize) -> Result<()> {
    let bytes = read_segment(store, header)?;
    let Some(rest) = bytes.get(pos..).filter(|rest| rest.iter().any(|b| *b != 0)) else {
        return Ok(());
    };
    let dirty = rest.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    store.gate().write_at(header.extent.start.offset() + pos as u64, &vec![0; dirty])?;
    store.flush()
}

/// The most memory that reading a journal takes at a time.
const _: () = assert!(segment::MAX_SEGMENT * BLOCK_SIZE < 32 << 20);

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::filestore::faulty::Faulty;

    /// An empty filestore in memory, of boot 1.
    pub fn formatted() -> Faulty {
        let file = Faulty::default();
        format(&file, [1; 16]).unwrap();
        file.settle();
        file
    }

    /// Opens `file` during boot `boot`.
    pub fn opened(file: &Faulty, durable: bool, boot: u8) -> Result<Recovering, OpenError> {
        let options = Options { block_limit: None, durable };
        recover(Box::new(file.clone()), options, Access::ReadWrite, [boot; 16])
    }
}
