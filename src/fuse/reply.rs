//! Replies: encoded in place, in an area the transport gives.
//!
//! The out header is not part of it: over `/dev/fuse` it precedes the payload in one `writev`, over
//! io_uring it has an area of its own.

use std::time::Duration;

use zerocopy::{Immutable, IntoBytes};

use crate::attr::{Attr, InodeNo, Time};
use crate::errno::{Errno, Result};
use crate::fuse::abi;
use crate::overlay::{DirEntry, StatFs};

/// What `statx` fields an answer carries: STATX_BASIC_STATS and STATX_BTIME.
const STATX_BASIC_AND_BTIME: u32 = 0x7ff | 0x800;

/// What `st_blksize` shows, in bytes.
const BLOCK_SIZE: u32 = 4096;

/// How long the kernel may believe what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Of a name that exists.
    pub entry: Duration,
    /// Of a name that does not.
    pub negative: Duration,
    pub attr: Duration,
}

impl Validity {
    /// Longer than any mount lives; the kernel counts in signed jiffies, so not the largest number.
    pub const FOREVER: Duration = Duration::from_secs(1 << 30);

    /// Not at all: the kernel asks each time.
    pub const NONE: Validity =
        Validity { entry: Duration::ZERO, negative: Duration::ZERO, attr: Duration::ZERO };
}

impl Default for Validity {
    fn default() -> Validity {
        Validity { entry: Validity::FOREVER, negative: Validity::FOREVER, attr: Validity::FOREVER }
    }
}

/// A reply's payload under construction.
#[derive(Debug)]
pub struct Payload<'a> {
    area: &'a mut [u8],
    len: usize,
}

impl<'a> Payload<'a> {
    pub fn new(area: &'a mut [u8]) -> Payload<'a> {
        Payload { area, len: 0 }
    }

    /// Bytes put so far, from the start of the area.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends bytes. `EIO` where the area has no room: the kernel's limits exclude that.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let room = self.area[self.len..].get_mut(..bytes.len()).ok_or(Errno::IO)?;
        room.copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }

    /// Appends a struct.
    pub fn put<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<()> {
        self.bytes(value.as_bytes())
    }

    /// Lets `fill` write up to `size` bytes at the end and appends as many as it says.
    pub fn fill(
        &mut self,
        size: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize>,
    ) -> Result<()> {
        let room = self.area[self.len..].get_mut(..size).ok_or(Errno::IO)?;
        let filled = fill(room)?;
        self.len += filled.min(size);
        Ok(())
    }

    /// Appends an xattr value or list as asked for: its length where `size` is 0, else the bytes.
    /// `ERANGE` where they are more than `size`.
    pub fn sized(&mut self, bytes: &[u8], size: u32) -> Result<()> {
        if size == 0 {
            let size = u32::try_from(bytes.len()).map_err(|_| Errno::TOOBIG)?;
            return self.put(&abi::GetxattrOut { size, padding: 0 });
        }
        if bytes.len() > size as usize {
            return Err(Errno::RANGE);
        }
        self.bytes(bytes)
    }

    /// Starts a READDIR answer of at most `size` bytes.
    pub fn dirents(&mut self, size: u32) -> Dirents<'_, 'a> {
        let end = self.area.len().min(self.len.saturating_add(size as usize));
        Dirents { payload: self, end }
    }
}

/// Directory entries being packed, each padded to eight bytes.
#[derive(Debug)]
pub struct Dirents<'p, 'a> {
    payload: &'p mut Payload<'a>,
    end: usize,
}

impl Dirents<'_, '_> {
    /// Appends an entry; false, with nothing appended, where it does not fit.
    pub fn push(&mut self, entry: &DirEntry<'_>) -> bool {
        self.append(None, entry)
    }

    /// Appends an entry of READDIRPLUS; a zero node id says that nothing was looked up.
    pub fn push_plus(&mut self, looked_up: &abi::EntryOut, entry: &DirEntry<'_>) -> bool {
        self.append(Some(looked_up), entry)
    }

    fn append(&mut self, looked_up: Option<&abi::EntryOut>, entry: &DirEntry<'_>) -> bool {
        let Ok(namelen) = u32::try_from(entry.name.len()) else { return false };
        let dirent = abi::Dirent {
            ino: entry.ino.0,
            off: entry.next.0,
            namelen,
            dtype: u32::from(entry.dtype),
        };
        let before = self.payload.len;
        let plain = size_of::<abi::Dirent>() + entry.name.len();
        let padding = plain.next_multiple_of(8) - plain;
        let need = looked_up.map_or(0, |_| size_of::<abi::EntryOut>()) + plain + padding;
        if self.end - before < need {
            return false;
        }
        let put = looked_up.map_or(Ok(()), |out| self.payload.put(out));
        put.and_then(|()| self.payload.put(&dirent))
            .and_then(|()| self.payload.bytes(entry.name))
            .and_then(|()| self.payload.bytes(&[0; 8][..padding]))
            .is_ok()
    }
}

/// The attributes as the wire has them.
pub fn attr(attr: &Attr) -> abi::Attr {
    abi::Attr {
        ino: attr.ino.0,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.sec as u64,
        mtime: attr.mtime.sec as u64,
        ctime: attr.ctime.sec as u64,
        atimensec: attr.atime.nsec,
        mtimensec: attr.mtime.nsec,
        ctimensec: attr.ctime.nsec,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// The answer to GETATTR and SETATTR.
pub fn attr_out(a: &Attr, valid: &Validity) -> abi::AttrOut {
    abi::AttrOut {
        attr_valid: valid.attr.as_secs(),
        attr_valid_nsec: valid.attr.subsec_nanos(),
        dummy: 0,
        attr: attr(a),
    }
}

/// The answer to LOOKUP and to everything that makes an entry. Node ids are inode numbers or stand
/// for one (`fuse/passthrough.rs`) and are never reused, so the generation is constant.
pub fn entry_out(nodeid: u64, a: &Attr, valid: &Validity) -> abi::EntryOut {
    abi::EntryOut {
        nodeid,
        generation: 0,
        entry_valid: valid.entry.as_secs(),
        attr_valid: valid.attr.as_secs(),
        entry_valid_nsec: valid.entry.subsec_nanos(),
        attr_valid_nsec: valid.attr.subsec_nanos(),
        attr: attr(a),
    }
}

/// The answer to a LOOKUP of a name that is absent, for the kernel to remember.
pub fn negative_out(valid: &Validity) -> abi::EntryOut {
    abi::EntryOut {
        entry_valid: valid.negative.as_secs(),
        entry_valid_nsec: valid.negative.subsec_nanos(),
        ..Default::default()
    }
}

/// The answer to STATX: attributes and the time of birth.
pub fn statx_out(a: &Attr, valid: &Validity) -> abi::StatxOut {
    let time = |t: Time| abi::SxTime { sec: t.sec, nsec: t.nsec, reserved: 0 };
    let stat = abi::Statx {
        mask: STATX_BASIC_AND_BTIME,
        blksize: BLOCK_SIZE,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        mode: a.mode as u16,
        ino: a.ino.0,
        size: a.size,
        blocks: a.blocks,
        atime: time(a.atime),
        btime: time(a.btime),
        ctime: time(a.ctime),
        mtime: time(a.mtime),
        rdev_major: (a.rdev >> 8) & 0xfff,
        rdev_minor: (a.rdev & 0xff) | ((a.rdev >> 12) & 0xf_ff00),
        ..Default::default()
    };
    abi::StatxOut {
        attr_valid: valid.attr.as_secs(),
        attr_valid_nsec: valid.attr.subsec_nanos(),
        stat,
        ..Default::default()
    }
}

/// The answer to STATFS.
pub fn statfs_out(s: &StatFs) -> abi::KStatFs {
    abi::KStatFs {
        blocks: s.blocks,
        bfree: s.bfree,
        bavail: s.bavail,
        files: s.files,
        ffree: s.ffree,
        bsize: s.bsize,
        namelen: s.namelen,
        frsize: s.frsize,
        ..Default::default()
    }
}

/// The out header of a reply whose payload has `payload` bytes; errors have none.
pub fn out_header(unique: u64, outcome: Result<usize>) -> abi::OutHeader {
    let (payload, error) = match outcome {
        Ok(len) => (len, 0),
        Err(errno) => (0, -errno.raw_os_error()),
    };
    let len = (size_of::<abi::OutHeader>() + payload) as u32;
    abi::OutHeader { len, error, unique }
}

/// What stands for "nothing looked up" in READDIRPLUS: `.` and `..`.
pub fn no_entry(ino: InodeNo, dtype: u8) -> abi::EntryOut {
    let attr = abi::Attr { ino: ino.0, mode: u32::from(dtype) << 12, ..Default::default() };
    abi::EntryOut { attr, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::DirCookie;

    fn entry(ino: u64, next: u64, name: &[u8]) -> DirEntry<'_> {
        DirEntry { ino: InodeNo(ino), next: DirCookie(next), dtype: 8, name }
    }

    #[test]
    fn dirents_are_packed_on_eight_bytes() {
        let mut area = [0xaa; 96];
        let mut payload = Payload::new(&mut area);
        let mut dirents = payload.dirents(80);
        assert!(dirents.push(&entry(0x11, 1, b"a")));
        assert!(dirents.push(&entry(0x22, 2, b"12345678")));
        assert!(!dirents.push(&entry(0x33, 3, b"123456789")), "80 bytes asked for");
        assert_eq!(payload.len(), 64);
        #[rustfmt::skip]
        let golden = [
            0x11, 0, 0, 0, 0, 0, 0, 0,  1, 0, 0, 0, 0, 0, 0, 0,  1, 0, 0, 0,  8, 0, 0, 0,
            b'a', 0, 0, 0, 0, 0, 0, 0,
            0x22, 0, 0, 0, 0, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0,  8, 0, 0, 0,  8, 0, 0, 0,
            b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'8',
        ];
        assert_eq!(area[..64], golden);
        assert_eq!(area[64..], [0xaa; 32], "an entry that did not fit left nothing");
    }

    #[test]
    fn direntplus_has_the_entry_before_the_name() {
        let mut area = vec![0; 400];
        let mut payload = Payload::new(&mut area);
        let mut dirents = payload.dirents(400);
        let node = abi::EntryOut { nodeid: 5, ..Default::default() };
        assert!(dirents.push_plus(&no_entry(InodeNo(1), 4), &entry(1, 1, b".")));
        assert!(dirents.push_plus(&node, &entry(5, 2, b"five")));
        assert!(!dirents.push_plus(&node, &entry(5, 3, b"six")));
        assert_eq!(payload.len(), 2 * (128 + 32));
        assert_eq!(area[0], 0, "no node id for a dot");
        assert_eq!(area[160], 5);
        assert_eq!(&area[160 + 128 + 24..][..8], b"five\0\0\0\0");
    }

    #[test]
    fn xattr_values_answer_both_questions() {
        let mut area = [0; 16];
        let mut payload = Payload::new(&mut area);
        payload.sized(b"value", 0).unwrap();
        assert_eq!(payload.len(), 8);
        assert_eq!(payload.sized(b"value", 4), Err(Errno::RANGE));
        payload.sized(b"value", 5).unwrap();
        assert_eq!(payload.len(), 13);
        assert_eq!(payload.sized(b"value", 64), Err(Errno::IO), "no room");
    }

    #[test]
    fn fill_takes_no_more_than_its_room() {
        let mut area = [0; 16];
        let mut payload = Payload::new(&mut area);
        payload.fill(8, |room| Ok(room.len() + 100)).unwrap();
        assert_eq!(payload.len(), 8);
        assert_eq!(payload.fill(9, |_| Ok(9)), Err(Errno::IO));
    }

    #[test]
    fn device_numbers_of_statx_are_split() {
        let t = Time { sec: -5, nsec: 7 };
        let a = Attr {
            ino: InodeNo(9),
            size: 0,
            blocks: 0,
            mode: 0o020666,
            nlink: 1,
            uid: 0,
            gid: 0,
            // Major 0xabc, minor 0xdef12.
            rdev: 0x12 | 0xabc << 8 | 0xdef << 20,
            atime: t,
            mtime: t,
            ctime: t,
            btime: t,
        };
        let out = statx_out(&a, &Validity::default());
        assert_eq!((out.stat.rdev_major, out.stat.rdev_minor), (0xabc, 0xdef12));
        assert_eq!((out.stat.btime.sec, out.stat.btime.nsec), (-5, 7));
        assert_eq!(attr(&a).atime as i64, -5);
    }

    #[test]
    fn headers_of_errors_are_negative_and_bare() {
        let header = out_header(3, Err(Errno::NOENT));
        assert_eq!((header.len, header.error, header.unique), (16, -2, 3));
        assert_eq!(out_header(3, Ok(8)).len, 24);
    }
}
