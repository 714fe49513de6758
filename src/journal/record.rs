//! The record codec. A record is one change of the upper tree; a frame (see the log) holds the
//! records of one operation, so that an operation is kept whole or not at all.
//!
//! Layout: one tag byte, then the fields in the order of the enum, integers little-endian, byte
//! strings behind their length (u16 for names and paths in records, u32 for values). `doc/FORMAT.md`
//! is the specification. Decoding takes hostile bytes: it never panics and never reads past the end.

use crate::attr::{FileType, InodeNo, LayerId, Time};
use crate::block::{FileBlock, StoreBlock};

/// Attributes as the journal keeps them: an after-image, so that replaying twice does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeImage {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u32,
    /// Bytes. Of a symlink: the target's length. Of a directory: 0.
    pub size: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
}

impl InodeImage {
    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        FileType::from_mode(self.mode) == Some(FileType::Directory)
    }
}

/// One change of the upper tree. Block numbers are in filestore blocks (4 KiB).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// The inode exists with these attributes. An after-image: made new where there was none.
    Inode {
        ino: InodeNo,
        image: InodeImage,
    },
    /// The inode is gone, with its extents, xattrs and entries.
    Drop {
        ino: InodeNo,
    },
    /// Modification and change time.
    Times {
        ino: InodeNo,
        mtime: Time,
        ctime: Time,
    },
    /// A symlink's target (once, right after its `Inode`).
    Target {
        ino: InodeNo,
        target: &'a [u8],
    },
    /// What lies below an inode: a file's data where nothing is mapped, up to `len` bytes; or, for a
    /// directory (`len` 0), one more merged directory, topmost first.
    Origin {
        ino: InodeNo,
        layer: LayerId,
        len: u64,
        path: &'a [u8],
    },
    /// Directory entry `name` of `parent` is `ino`. `covers`: a lower name lies beneath.
    Link {
        parent: InodeNo,
        ino: InodeNo,
        covers: bool,
        name: &'a [u8],
    },
    /// Entry `name` of `parent` is absent although a lower has it.
    Whiteout {
        parent: InodeNo,
        name: &'a [u8],
    },
    /// Entry `name` of `parent` is absent and no lower has it.
    Unlink {
        parent: InodeNo,
        name: &'a [u8],
    },
    SetXattr {
        ino: InodeNo,
        name: &'a [u8],
        value: &'a [u8],
    },
    RemoveXattr {
        ino: InodeNo,
        name: &'a [u8],
    },
    /// `len` file blocks from `at` are kept in the filestore from `block`.
    Map {
        ino: InodeNo,
        at: FileBlock,
        block: StoreBlock,
        len: u64,
    },
    /// `len` file blocks from `at` read as zeros and are kept nowhere (they also hide the origin).
    Hole {
        ino: InodeNo,
        at: FileBlock,
        len: u64,
    },
    /// The file's size in bytes, and how many bytes of its origin are still valid; `None`: as many as before
    /// (2^64 - 1 on the disk).
    Size {
        ino: InodeNo,
        size: u64,
        origin_len: Option<u64>,
    },
    /// Upper inode numbers below this are taken.
    NextInode {
        next: u64,
    },
    /// All that precedes was on stable storage when the flush that followed this ended.
    SyncPoint,
}

/// The bytes are no record of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

mod tag {
    pub const INODE: u8 = 1;
    pub const DROP: u8 = 2;
    pub const TIMES: u8 = 3;
    pub const TARGET: u8 = 4;
    pub const ORIGIN: u8 = 5;
    pub const LINK: u8 = 6;
    pub const WHITEOUT: u8 = 7;
    pub const UNLINK: u8 = 8;
    pub const SET_XATTR: u8 = 9;
    pub const REMOVE_XATTR: u8 = 10;
    pub const MAP: u8 = 11;
    pub const HOLE: u8 = 12;
    pub const SIZE: u8 = 13;
    pub const NEXT_INODE: u8 = 14;
    pub const SYNC_POINT: u8 = 15;
}

fn put_name(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&bytes[..usize::from(len)]);
}

fn put_time(out: &mut Vec<u8>, t: Time) {
    out.extend_from_slice(&t.sec.to_le_bytes());
    out.extend_from_slice(&t.nsec.to_le_bytes());
}

impl<'a> Record<'a> {
    /// Appends the encoded record. Names and paths must be shorter than 64 KiB.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let u64s = |out: &mut Vec<u8>, tag: u8, values: &[u64]| {
            out.push(tag);
            values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
        };
        match *self {
            Record::Inode { ino, image } => {
                u64s(out, tag::INODE, &[ino.0]);
                for v in [image.mode, image.uid, image.gid, image.nlink, image.rdev] {
                    out.extend_from_slice(&v.to_le_bytes());
                }
                out.extend_from_slice(&image.size.to_le_bytes());
                for t in [image.atime, image.mtime, image.ctime, image.btime] {
                    put_time(out, t);
                }
            }
            Record::Drop { ino } => u64s(out, tag::DROP, &[ino.0]),
            Record::Times { ino, mtime, ctime } => {
                u64s(out, tag::TIMES, &[ino.0]);
                put_time(out, mtime);
                put_time(out, ctime);
            }
            Record::Target { ino, target } => {
                u64s(out, tag::TARGET, &[ino.0]);
                put_name(out, target);
            }
            Record::Origin { ino, layer, len, path } => {
                u64s(out, tag::ORIGIN, &[ino.0]);
                out.extend_from_slice(&layer.0.to_le_bytes());
                out.extend_from_slice(&len.to_le_bytes());
                put_name(out, path);
            }
            Record::Link { parent, ino, covers, name } => {
                u64s(out, tag::LINK, &[parent.0, ino.0]);
                out.push(u8::from(covers));
                put_name(out, name);
            }
            Record::Whiteout { parent, name } => {
                u64s(out, tag::WHITEOUT, &[parent.0]);
                put_name(out, name);
            }
            Record::Unlink { parent, name } => {
                u64s(out, tag::UNLINK, &[parent.0]);
                put_name(out, name);
            }
            Record::SetXattr { ino, name, value } => {
                u64s(out, tag::SET_XATTR, &[ino.0]);
                put_name(out, name);
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(value);
            }
            Record::RemoveXattr { ino, name } => {
                u64s(out, tag::REMOVE_XATTR, &[ino.0]);
                put_name(out, name);
            }
            Record::Map { ino, at, block, len } => {
                u64s(out, tag::MAP, &[ino.0, at.0, block.0, len])
            }
            Record::Hole { ino, at, len } => u64s(out, tag::HOLE, &[ino.0, at.0, len]),
            Record::Size { ino, size, origin_len } => {
                u64s(out, tag::SIZE, &[ino.0, size, origin_len.unwrap_or(u64::MAX)]);
            }
            Record::NextInode { next } => u64s(out, tag::NEXT_INODE, &[next]),
            Record::SyncPoint => out.push(tag::SYNC_POINT),
        }
    }

    /// Takes one record off the front of `bytes`.
    ///
    /// # Errors
    /// [`Malformed`]; `bytes` is as it was then.
    pub fn decode(bytes: &mut &'a [u8]) -> Result<Record<'a>, Malformed> {
        let mut r = Reader(bytes);
        let record = r.record()?;
        *bytes = r.0;
        Ok(record)
    }
}

/// The records of a frame's payload, in order; ends after the first malformed one.
pub fn decode_all(mut bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let record = Record::decode(&mut bytes);
        if record.is_err() {
            bytes = &[];
        }
        Some(record)
    })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed)
    }
    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }
    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }
    fn ino(&mut self) -> Result<InodeNo, Malformed> {
        self.u64().map(InodeNo)
    }
    fn name(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.u16()?;
        self.bytes(usize::from(n))
    }
    fn time(&mut self) -> Result<Time, Malformed> {
        let sec = self.array().map(i64::from_le_bytes)?;
        let nsec = self.u32()?;
        if nsec >= 1_000_000_000 {
            return Err(Malformed);
        }
        Ok(Time { sec, nsec })
    }
    fn image(&mut self) -> Result<InodeImage, Malformed> {
        Ok(InodeImage {
            mode: self.u32()?,
            uid: self.u32()?,
            gid: self.u32()?,
            nlink: self.u32()?,
            rdev: self.u32()?,
            size: self.u64()?,
            atime: self.time()?,
            mtime: self.time()?,
            ctime: self.time()?,
            btime: self.time()?,
        })
    }
    fn record(&mut self) -> Result<Record<'a>, Malformed> {
        Ok(match self.u8()? {
            tag::INODE => Record::Inode { ino: self.ino()?, image: self.image()? },
            tag::DROP => Record::Drop { ino: self.ino()? },
            tag::TIMES => {
                Record::Times { ino: self.ino()?, mtime: self.time()?, ctime: self.time()? }
            }
            tag::TARGET => Record::Target { ino: self.ino()?, target: self.name()? },
            tag::ORIGIN => Record::Origin {
                ino: self.ino()?,
                layer: LayerId(self.u16()?),
                len: self.u64()?,
                path: self.name()?,
            },
            tag::LINK => Record::Link {
                parent: self.ino()?,
                ino: self.ino()?,
                covers: self.u8()? != 0,
                name: self.name()?,
            },
            tag::WHITEOUT => Record::Whiteout { parent: self.ino()?, name: self.name()? },
            tag::UNLINK => Record::Unlink { parent: self.ino()?, name: self.name()? },
            tag::SET_XATTR => {
                let (ino, name) = (self.ino()?, self.name()?);
                let len = self.u32()? as usize;
                Record::SetXattr { ino, name, value: self.bytes(len)? }
            }
            tag::REMOVE_XATTR => Record::RemoveXattr { ino: self.ino()?, name: self.name()? },
            tag::MAP => Record::Map {
                ino: self.ino()?,
                at: FileBlock(self.u64()?),
                block: StoreBlock(self.u64()?),
                len: self.u64()?,
            },
            tag::HOLE => {
                Record::Hole { ino: self.ino()?, at: FileBlock(self.u64()?), len: self.u64()? }
            }
            tag::SIZE => {
                let (ino, size, valid) = (self.ino()?, self.u64()?, self.u64()?);
                Record::Size { ino, size, origin_len: (valid != u64::MAX).then_some(valid) }
            }
            tag::NEXT_INODE => Record::NextInode { next: self.u64()? },
            tag::SYNC_POINT => Record::SyncPoint,
            _ => return Err(Malformed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Record<'static>> {
        let t = |sec| Time { sec, nsec: 999_999_999 };
        let ino = InodeNo(77);
        let image = InodeImage {
            mode: 0o100644,
            uid: 1,
            gid: 2,
            nlink: 3,
            rdev: 4,
            size: u64::MAX,
            atime: t(-1),
            mtime: t(i64::MIN),
            ctime: t(i64::MAX),
            btime: t(0),
        };
        vec![
            Record::Inode { ino, image },
            Record::Drop { ino },
            Record::Times { ino, mtime: t(1), ctime: t(2) },
            Record::Target { ino, target: b"../x" },
            Record::Origin { ino, layer: LayerId::HOST_UPPER, len: 9, path: b"a/b" },
            Record::Link { parent: ino, ino, covers: true, name: &[0xff; 255] },
            Record::Whiteout { parent: ino, name: b"w" },
            Record::Unlink { parent: ino, name: b"" },
            Record::SetXattr { ino, name: b"user.a", value: &[7; 65536] },
            Record::RemoveXattr { ino, name: b"user.a" },
            Record::Map { ino, at: FileBlock(1), block: StoreBlock(2), len: 3 },
            Record::Hole { ino, at: FileBlock(1), len: 3 },
            Record::Size { ino, size: 5, origin_len: Some(4) },
            Record::Size { ino, size: 5, origin_len: None },
            Record::NextInode { next: 12 },
            Record::SyncPoint,
        ]
    }

    #[test]
    fn every_record_comes_back() {
        let mut bytes = Vec::new();
        samples().iter().for_each(|r| r.encode(&mut bytes));
        let back: Vec<_> = decode_all(&bytes).map(|r| r.expect("well formed")).collect();
        assert_eq!(back, samples());
    }

    #[test]
    fn a_cut_record_is_malformed_at_every_length() {
        for record in samples() {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            for cut in 0..bytes.len() {
                assert_eq!(
                    Record::decode(&mut &bytes[..cut]),
                    Err(Malformed),
                    "{record:?} at {cut}"
                );
            }
        }
    }
}
