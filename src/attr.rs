//! The vocabulary of attributes: inode numbers, times, file types, attributes and changes of them.

use std::ops::Range;
use std::sync::Arc;

/// An inode number as `stat` shows it; for life, also across copy-up and remount. Node ids on the wire are
/// the same numbers, but for [`InodeNo::NODE_IDS`].
///
/// | range | whose numbers |
/// |---|---|
/// | 1 | the root's |
/// | [`InodeNo::MADE_HERE`], then [`InodeNo::MADE_HERE_TOO`] | inodes that the mount made, and inodes of layers whose own number is taken |
/// | [`InodeNo::NODE_IDS`] | node ids that stand for another inode number; no inode has one |
/// | any other below 2^48, and more where nothing else is there | the host's own, of layers on the main device (`layer::number`) |
/// | 2^48 and above | inodes of layers on other devices |
///
/// The ranges overlap (a host file system may number an inode 2^30), so a number is looked up before it is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeNo(pub u64);

impl InodeNo {
    /// The root of the merged view (FUSE_ROOT_ID).
    pub const ROOT: InodeNo = InodeNo(1);
    /// Fits 31 bits, for programs without large-file support.
    pub const MADE_HERE: Range<u64> = 1 << 30..1 << 31;
    /// Used when all of [`InodeNo::MADE_HERE`] is taken.
    pub const MADE_HERE_TOO: Range<u64> = 1 << 40..1 << 47;
    pub const NODE_IDS: Range<u64> = 1 << 47..1 << 48;
}

/// A place in the listing of a directory: 0 is the start, and each entry has the one of what follows it. All are
/// below 2^31, for programs without large-file support.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirCookie(pub u64);

impl DirCookie {
    pub const START: DirCookie = DirCookie(0);
    /// No place lies behind this one.
    #[cfg(test)]
    pub const END: DirCookie = DirCookie(1 << 31);
}

/// The number of a layer in the records of one upper, for the upper's life. Which of today's layers that is, if
/// any, is found out at each mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordedLayer(pub u32);

/// A layer's place, counted from the bottom: 1 is the bottom `lowerdir`, and
/// [`LayerId::HOST_UPPER`] is the host's `upperdir` read as the topmost read-only layer.
/// Counting from the bottom keeps numbers when layers are added on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId(pub u16);

impl LayerId {
    pub const HOST_UPPER: LayerId = LayerId(0x7fff);
}

/// Where an object lies in a read-only layer: path bytes relative to the layer's root, no leading
/// slash, no `.` or `..`; empty is the root itself. May be longer than `PATH_MAX`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LowerPath {
    pub layer: LayerId,
    pub path: Arc<[u8]>,
}

/// Seconds and nanoseconds since 1970; seconds may be negative, nanoseconds are 0..10^9. Packed, as
/// each inode in memory has four.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, packed(4))]
pub struct Time {
    pub sec: i64,
    pub nsec: u32,
}

/// File types, by their `S_IFMT` values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    Fifo,
    Char,
    Directory,
    Block,
    Regular,
    Symlink,
    Socket,
}

impl FileType {
    /// From the type bits of a mode; `None` for an unknown type.
    pub fn from_mode(mode: u32) -> Option<FileType> {
        Some(match mode & 0o170000 {
            0o010000 => FileType::Fifo,
            0o020000 => FileType::Char,
            0o040000 => FileType::Directory,
            0o060000 => FileType::Block,
            0o100000 => FileType::Regular,
            0o120000 => FileType::Symlink,
            0o140000 => FileType::Socket,
            _ => return None,
        })
    }

    /// The `S_IF*` bits.
    pub fn mode_bits(self) -> u32 {
        match self {
            FileType::Fifo => 0o010000,
            FileType::Char => 0o020000,
            FileType::Directory => 0o040000,
            FileType::Block => 0o060000,
            FileType::Regular => 0o100000,
            FileType::Symlink => 0o120000,
            FileType::Socket => 0o140000,
        }
    }

    /// The `d_type` of `getdents64` (DT_*), which is the mode's type bits shifted.
    pub fn dtype(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }

    /// From a `d_type`; `None` for DT_UNKNOWN and DT_WHT.
    pub fn from_dtype(dtype: u8) -> Option<FileType> {
        FileType::from_mode(u32::from(dtype) << 12)
    }
}

/// Everything `statx` shows of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub ino: InodeNo,
    /// Bytes.
    pub size: u64,
    /// 512-byte units.
    pub blocks: u64,
    /// Type and permission bits.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Linux `new_encode_dev` form, as FUSE carries it: (minor & 0xff) | major << 8 | (minor & ~0xff) << 12.
    pub rdev: u32,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
}

impl Attr {
    pub fn file_type(&self) -> FileType {
        FileType::from_mode(self.mode).unwrap_or(FileType::Regular)
    }
    pub fn is_dir(&self) -> bool {
        self.mode & 0o170000 == 0o040000
    }
    pub fn is_regular(&self) -> bool {
        self.mode & 0o170000 == 0o100000
    }
}

/// A time to set: now, or a given one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    Now,
    At(Time),
}

/// A change of attributes; what is `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits only; type bits are ignored.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// Only the kernel's writeback cache sends one.
    pub ctime: Option<Time>,
    /// FATTR_KILL_SUIDGID: a truncation by somebody without CAP_FSETID.
    pub kill_suidgid: bool,
}

impl SetAttr {
    /// Whether nothing is asked for but times, of which the change time moves by itself.
    pub fn is_of_times(&self) -> bool {
        let SetAttr { mode, uid, gid, size, atime: _, mtime: _, ctime: _, kill_suidgid } = self;
        let ids = mode.is_none() && uid.is_none() && gid.is_none();
        ids && size.is_none() && !kill_suidgid
    }

    /// Whether nothing is asked for, but that the change time moves.
    pub fn is_empty(&self) -> bool {
        self.is_of_times() && self.atime.is_none() && self.mtime.is_none()
    }
}

/// Who asks: the ids the kernel sends with a request. Where mounts can be id-mapped (FUSE_ALLOW_IDMAP), `uid` and
/// `gid` are those of what is made, and -1 where nothing is.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}
