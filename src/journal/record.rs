//! The record codec. A record is one change of the upper tree; a frame (see the log) holds the
//! records of one operation, so that an operation is kept whole or not at all.
//!
//! Layout: one tag byte, then the fields in the order of the enum, integers as LEB128, byte strings behind their
//! length. `doc/FORMAT.md` is the specification. Decoding takes hostile bytes: it never panics and never reads past
//! the end.

use crate::attr::{FileType, InodeNo, LayerId, RecordedLayer, Time};
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

/// What the upper keeps of the lower object that an inode was copied up from, besides its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginImage {
    pub layer: RecordedLayer,
    /// Bytes of a file's data that are valid.
    pub len: u64,
    /// Tells whether a file is still the one that was copied up.
    pub stamp: Stamp,
    /// 512-byte units that the object took on its host.
    pub blocks: u32,
    /// It had more than one hard link.
    pub several_names: bool,
}

/// What changes when the data of a lower file do. Packed, as each copied-up inode in memory has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, packed(4))]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    pub mtime: Time,
}

/// What is merged beneath a directory of the upper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BelowImage<'a> {
    Nothing,
    /// What lies under the directory's name beneath its parent.
    SameName,
    /// What lies at this path in the merged view of the layers alone.
    Path(&'a [u8]),
}

/// A record of format 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format1Record<'a> {
    /// One that format 2 has too.
    Same(Record<'a>),
    /// What lies below an inode: a file's data, up to `len` bytes; or, for a directory, one more merged directory,
    /// topmost first.
    Origin { ino: InodeNo, layer: LayerId, len: u64, path: &'a [u8] },
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
    /// What an inode was copied up from. A file's data are there where nothing is mapped.
    Origin {
        ino: InodeNo,
        origin: OriginImage,
        path: &'a [u8],
    },
    /// What is merged beneath a directory. Of a new directory: nothing. `untouched`: the directory was copied up only
    /// to hold an entry; any later record of the inode ends that.
    Below {
        ino: InodeNo,
        below: BelowImage<'a>,
        untouched: bool,
    },
    /// A layer that origins refer to: what it is known by (`layer::LayerIdentity`), and its place when it was
    /// first recorded.
    Layer {
        id: RecordedLayer,
        identity: u64,
        place: LayerId,
    },
    /// Directory entry `name` of `parent` is `ino`. `hides_lower`: the layers had the name when the entry was made.
    Link {
        parent: InodeNo,
        ino: InodeNo,
        hides_lower: bool,
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
    /// The file's size in bytes, and how many bytes of its origin are still valid; `None`: as many as before.
    Size {
        ino: InodeNo,
        size: u64,
        origin_len: Option<u64>,
    },
    /// The number that the next new inode gets, if it is free.
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
    pub const BELOW: u8 = 16;
    pub const LAYER: u8 = 17;
}

/// How [`BelowImage`] and the flags beside it are written.
mod bits {
    pub const NOTHING: u64 = 0;
    pub const SAME_NAME: u64 = 1;
    pub const PATH: u64 = 2;
    pub const BELOW: u64 = 3;
    pub const UNTOUCHED: u64 = 4;
    pub const SEVERAL_NAMES: u64 = 1;
}

/// LEB128, unsigned.
fn put_number(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_time(out: &mut Vec<u8>, t: Time) {
    // Zigzag: the sign in the lowest bit.
    let sec = t.sec;
    put_number(out, (sec << 1 ^ sec >> 63) as u64);
    out.extend_from_slice(&t.nsec.to_le_bytes());
}

fn put_image(out: &mut Vec<u8>, image: &InodeImage) {
    for v in [image.mode, image.uid, image.gid, image.nlink, image.rdev] {
        put_number(out, v.into());
    }
    put_number(out, image.size);
    for t in [image.atime, image.mtime, image.ctime, image.btime] {
        put_time(out, t);
    }
}

fn put_origin(out: &mut Vec<u8>, origin: &OriginImage) {
    let OriginImage { layer, len, stamp, blocks, several_names } = *origin;
    let flags = u64::from(several_names) * bits::SEVERAL_NAMES;
    for v in [layer.0.into(), len, stamp.size, blocks.into(), flags] {
        put_number(out, v);
    }
    put_time(out, stamp.mtime);
}

fn put_below(out: &mut Vec<u8>, below: BelowImage<'_>, untouched: bool) {
    let (kind, path) = match below {
        BelowImage::Nothing => (bits::NOTHING, &[][..]),
        BelowImage::SameName => (bits::SAME_NAME, &[][..]),
        BelowImage::Path(path) => (bits::PATH, path),
    };
    put_number(out, kind | if untouched { bits::UNTOUCHED } else { 0 });
    put_bytes(out, path);
}

impl Record<'_> {
    /// Appends the encoded record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let put = |out: &mut Vec<u8>, tag: u8, values: &[u64]| {
            out.push(tag);
            values.iter().for_each(|v| put_number(out, *v));
        };
        match *self {
            Record::Inode { ino, ref image } => {
                put(out, tag::INODE, &[ino.0]);
                put_image(out, image);
            }
            Record::Drop { ino } => put(out, tag::DROP, &[ino.0]),
            Record::Times { ino, mtime, ctime } => {
                put(out, tag::TIMES, &[ino.0]);
                put_time(out, mtime);
                put_time(out, ctime);
            }
            Record::Target { ino, target } => {
                put(out, tag::TARGET, &[ino.0]);
                put_bytes(out, target);
            }
            Record::Origin { ino, ref origin, path } => {
                put(out, tag::ORIGIN, &[ino.0]);
                put_origin(out, origin);
                put_bytes(out, path);
            }
            Record::Below { ino, below, untouched } => {
                put(out, tag::BELOW, &[ino.0]);
                put_below(out, below, untouched);
            }
            Record::Layer { id, identity, place } => {
                put(out, tag::LAYER, &[id.0.into(), identity, place.0.into()]);
            }
            Record::Link { parent, ino, hides_lower, name } => {
                put(out, tag::LINK, &[parent.0, ino.0, hides_lower.into()]);
                put_bytes(out, name);
            }
            Record::Whiteout { parent, name } => {
                put(out, tag::WHITEOUT, &[parent.0]);
                put_bytes(out, name);
            }
            Record::Unlink { parent, name } => {
                put(out, tag::UNLINK, &[parent.0]);
                put_bytes(out, name);
            }
            Record::SetXattr { ino, name, value } => {
                put(out, tag::SET_XATTR, &[ino.0]);
                put_bytes(out, name);
                put_bytes(out, value);
            }
            Record::RemoveXattr { ino, name } => {
                put(out, tag::REMOVE_XATTR, &[ino.0]);
                put_bytes(out, name);
            }
            Record::Map { ino, at, block, len } => put(out, tag::MAP, &[ino.0, at.0, block.0, len]),
            Record::Hole { ino, at, len } => put(out, tag::HOLE, &[ino.0, at.0, len]),
            Record::Size { ino, size, origin_len } => {
                let len = origin_len.map_or(0, |len| len.saturating_add(1));
                put(out, tag::SIZE, &[ino.0, size, len]);
            }
            Record::NextInode { next } => put(out, tag::NEXT_INODE, &[next]),
            Record::SyncPoint => out.push(tag::SYNC_POINT),
        }
    }

    /// Takes one record off the front of `bytes`.
    ///
    /// # Errors
    /// [`Malformed`]; `bytes` is as it was then.
    pub fn decode<'a>(bytes: &mut &'a [u8]) -> Result<Record<'a>, Malformed> {
        let mut r = Reader { rest: bytes, integers: Integers::Leb128 };
        let record = r.record()?;
        *bytes = r.rest;
        Ok(record)
    }
}

impl Format1Record<'_> {
    /// As [`Record::decode`], of format 1.
    ///
    /// # Errors
    /// [`Malformed`]; `bytes` is as it was then.
    pub fn decode<'a>(bytes: &mut &'a [u8]) -> Result<Format1Record<'a>, Malformed> {
        let mut r = Reader { rest: bytes, integers: Integers::Fixed };
        let record = match bytes.first() {
            Some(&tag::ORIGIN) => r.format1_origin()?,
            Some(&(tag::BELOW | tag::LAYER)) => return Err(Malformed),
            _ => Format1Record::Same(r.record()?),
        };
        *bytes = r.rest;
        Ok(record)
    }
}

/// The records of a frame's payload, in order; ends after the first malformed one.
pub fn decode_all(bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>, Malformed>> {
    each(bytes, Record::decode)
}

/// As [`decode_all`], of format 1.
pub fn decode_all_format1(
    bytes: &[u8],
) -> impl Iterator<Item = Result<Format1Record<'_>, Malformed>> {
    each(bytes, Format1Record::decode)
}

fn each<'a, T>(
    mut bytes: &'a [u8],
    decode: impl Fn(&mut &'a [u8]) -> Result<T, Malformed>,
) -> impl Iterator<Item = Result<T, Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let record = decode(&mut bytes);
        if record.is_err() {
            bytes = &[];
        }
        Some(record)
    })
}

/// How integers are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Integers {
    /// Format 1: little-endian, of fixed width.
    Fixed,
    Leb128,
}

struct Reader<'a> {
    rest: &'a [u8],
    integers: Integers,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: u64) -> Result<&'a [u8], Malformed> {
        let n = usize::try_from(n).map_err(|_| Malformed)?;
        let (head, tail) = self.rest.split_at_checked(n).ok_or(Malformed)?;
        self.rest = tail;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N as u64)?.try_into().map_err(|_| Malformed)
    }
    fn leb128(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(Malformed);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }
    /// An integer that format 1 writes in `N` bytes.
    fn integer<const N: usize>(&mut self) -> Result<u64, Malformed> {
        match self.integers {
            Integers::Leb128 => self.leb128(),
            Integers::Fixed => {
                let mut wide = [0; 8];
                wide[..N].copy_from_slice(&self.array::<N>()?);
                Ok(u64::from_le_bytes(wide))
            }
        }
    }
    fn u64(&mut self) -> Result<u64, Malformed> {
        self.integer::<8>()
    }
    fn u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.integer::<4>()?).map_err(|_| Malformed)
    }
    fn flag(&mut self) -> Result<bool, Malformed> {
        Ok(self.integer::<1>()? != 0)
    }
    fn layer_id(&mut self) -> Result<LayerId, Malformed> {
        u16::try_from(self.integer::<2>()?).map(LayerId).map_err(|_| Malformed)
    }
    fn ino(&mut self) -> Result<InodeNo, Malformed> {
        self.u64().map(InodeNo)
    }
    /// A name, a path or a target.
    fn name(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.integer::<2>()?;
        self.bytes(len)
    }
    fn value(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.integer::<4>()?;
        self.bytes(len)
    }
    fn time(&mut self) -> Result<Time, Malformed> {
        let sec = match self.integers {
            Integers::Fixed => i64::from_le_bytes(self.array()?),
            Integers::Leb128 => {
                let zigzag = self.leb128()?;
                (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)
            }
        };
        let nsec = u32::from_le_bytes(self.array()?);
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
    fn origin(&mut self) -> Result<OriginImage, Malformed> {
        let layer = RecordedLayer(self.u32()?);
        let (len, size, blocks, flags) = (self.u64()?, self.u64()?, self.u32()?, self.u64()?);
        if flags & !bits::SEVERAL_NAMES != 0 {
            return Err(Malformed);
        }
        let stamp = Stamp { size, mtime: self.time()? };
        let several_names = flags & bits::SEVERAL_NAMES != 0;
        Ok(OriginImage { layer, len, stamp, blocks, several_names })
    }
    fn below(&mut self) -> Result<(BelowImage<'a>, bool), Malformed> {
        let flags = self.u64()?;
        let path = self.name()?;
        let below = match flags & bits::BELOW {
            bits::NOTHING => BelowImage::Nothing,
            bits::SAME_NAME => BelowImage::SameName,
            bits::PATH => BelowImage::Path(path),
            _ => return Err(Malformed),
        };
        if flags & !(bits::BELOW | bits::UNTOUCHED) != 0 {
            return Err(Malformed);
        }
        Ok((below, flags & bits::UNTOUCHED != 0))
    }
    fn origin_len(&mut self) -> Result<Option<u64>, Malformed> {
        let len = self.u64()?;
        Ok(match self.integers {
            Integers::Fixed => (len != u64::MAX).then_some(len),
            Integers::Leb128 => len.checked_sub(1),
        })
    }
    fn format1_origin(&mut self) -> Result<Format1Record<'a>, Malformed> {
        let [_tag] = self.array()?;
        Ok(Format1Record::Origin {
            ino: self.ino()?,
            layer: self.layer_id()?,
            len: self.u64()?,
            path: self.name()?,
        })
    }
    fn record(&mut self) -> Result<Record<'a>, Malformed> {
        let [tag] = self.array()?;
        Ok(match tag {
            tag::INODE => Record::Inode { ino: self.ino()?, image: self.image()? },
            tag::DROP => Record::Drop { ino: self.ino()? },
            tag::TIMES => {
                Record::Times { ino: self.ino()?, mtime: self.time()?, ctime: self.time()? }
            }
            tag::TARGET => Record::Target { ino: self.ino()?, target: self.name()? },
            tag::ORIGIN => {
                Record::Origin { ino: self.ino()?, origin: self.origin()?, path: self.name()? }
            }
            tag::BELOW => {
                let (ino, (below, untouched)) = (self.ino()?, self.below()?);
                Record::Below { ino, below, untouched }
            }
            tag::LAYER => {
                let id = RecordedLayer(self.u32()?);
                Record::Layer { id, identity: self.u64()?, place: self.layer_id()? }
            }
            tag::LINK => Record::Link {
                parent: self.ino()?,
                ino: self.ino()?,
                hides_lower: self.flag()?,
                name: self.name()?,
            },
            tag::WHITEOUT => Record::Whiteout { parent: self.ino()?, name: self.name()? },
            tag::UNLINK => Record::Unlink { parent: self.ino()?, name: self.name()? },
            tag::SET_XATTR => {
                Record::SetXattr { ino: self.ino()?, name: self.name()?, value: self.value()? }
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
                let (ino, size) = (self.ino()?, self.u64()?);
                Record::Size { ino, size, origin_len: self.origin_len()? }
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
        let origin = OriginImage {
            layer: RecordedLayer(u32::MAX),
            len: 9,
            stamp: Stamp { size: 10, mtime: t(-77) },
            blocks: 11,
            several_names: true,
        };
        vec![
            Record::Inode { ino, image },
            Record::Drop { ino },
            Record::Times { ino, mtime: t(1), ctime: t(2) },
            Record::Target { ino, target: b"../x" },
            Record::Origin { ino, origin, path: b"a/b" },
            Record::Below { ino, below: BelowImage::Nothing, untouched: false },
            Record::Below { ino, below: BelowImage::SameName, untouched: true },
            Record::Below { ino, below: BelowImage::Path(b"a/b"), untouched: false },
            Record::Layer { id: RecordedLayer(8), identity: u64::MAX, place: LayerId::HOST_UPPER },
            Record::Link { parent: ino, ino, hides_lower: true, name: &[0xff; 255] },
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

    #[test]
    fn integers_are_as_long_as_they_need_to_be() {
        for (value, len) in [(0, 1), (127, 1), (128, 2), (1 << 30, 5), (u64::MAX, 10)] {
            let mut bytes = Vec::new();
            put_number(&mut bytes, value);
            assert_eq!(bytes.len(), len);
            let mut reader = Reader { rest: &bytes, integers: Integers::Leb128 };
            assert_eq!(reader.leb128(), Ok(value));
        }
        let read = |bytes| Reader { rest: bytes, integers: Integers::Leb128 }.leb128();
        assert_eq!(read(&[0xff; 11]), Err(Malformed));
        assert_eq!(
            read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
            Err(Malformed)
        );
    }

    /// Bytes that the first released version wrote.
    #[test]
    fn records_of_format_1_are_read() {
        let link =
            [&[6, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 1, 0, 1, 2, 0][..], b"ab"].concat();
        let (parent, ino) = (InodeNo::ROOT, InodeNo(1 << 48 | 9));
        let want = Record::Link { parent, ino, hides_lower: true, name: b"ab" };
        assert_eq!(Format1Record::decode(&mut &*link), Ok(Format1Record::Same(want)));
        let origin =
            [&[5, 9, 0, 0, 0, 0, 0, 1, 0, 0xff, 0x7f, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], b"f"];
        let want = Format1Record::Origin { ino, layer: LayerId::HOST_UPPER, len: 5, path: b"f" };
        assert_eq!(Format1Record::decode(&mut &*origin.concat()), Ok(want));
        let size = [&[13][..], &[9, 0, 0, 0, 0, 0, 1, 0], &[5, 0, 0, 0, 0, 0, 0, 0], &[0xff; 8]];
        let want = Record::Size { ino, size: 5, origin_len: None };
        assert_eq!(Format1Record::decode(&mut &*size.concat()), Ok(Format1Record::Same(want)));
        assert_eq!(Format1Record::decode(&mut &[16, 0, 0, 0][..]), Err(Malformed));
    }
}
