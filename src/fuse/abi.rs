//! The kernel's FUSE interface, protocol 7.45: structs as they lie in memory, opcodes, flags.
//!
//! Names follow `include/uapi/linux/fuse.h` without its prefixes. Every struct is plain integers
//! without implicit padding, so any bytes of the right length are a valid value.

#![allow(dead_code, reason = "flags are listed in full, whether or not they are asked for")]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub const KERNEL_VERSION: u32 = 7;
pub const KERNEL_MINOR_VERSION: u32 = 45;

/// The oldest minor version spoken here: Linux 5.4 (2019).
pub const OLDEST_MINOR_VERSION: u32 = 31;

/// A request is at least this long in the buffer handed to `read`.
pub const MIN_READ_BUFFER: usize = 8192;

/// Set in `unique` of an INTERRUPT.
pub const INT_REQ_BIT: u64 = 1;

macro_rules! wire {
    ($($(#[$meta:meta])* struct $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty),* $(,)? })*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$doc])* pub $field: $type),* }
    )* };
}

wire! {
    struct InHeader {
        len: u32,
        opcode: u32,
        unique: u64,
        nodeid: u64,
        uid: u32,
        gid: u32,
        pid: u32,
        /// Length of the extensions after the arguments, in units of eight bytes.
        total_extlen: u16,
        padding: u16,
    }
    struct OutHeader { len: u32, error: i32, unique: u64 }

    struct Attr {
        ino: u64,
        size: u64,
        blocks: u64,
        atime: u64,
        mtime: u64,
        ctime: u64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        rdev: u32,
        blksize: u32,
        flags: u32,
    }
    struct EntryOut {
        nodeid: u64,
        generation: u64,
        entry_valid: u64,
        attr_valid: u64,
        entry_valid_nsec: u32,
        attr_valid_nsec: u32,
        attr: Attr,
    }
    struct AttrOut { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr }

    struct SxTime { sec: i64, nsec: u32, reserved: i32 }
    struct Statx {
        mask: u32,
        blksize: u32,
        attributes: u64,
        nlink: u32,
        uid: u32,
        gid: u32,
        mode: u16,
        spare0: u16,
        ino: u64,
        size: u64,
        blocks: u64,
        attributes_mask: u64,
        atime: SxTime,
        btime: SxTime,
        ctime: SxTime,
        mtime: SxTime,
        rdev_major: u32,
        rdev_minor: u32,
        dev_major: u32,
        dev_minor: u32,
        spare2: [u64; 14],
    }
    struct StatxIn { getattr_flags: u32, reserved: u32, fh: u64, sx_flags: u32, sx_mask: u32 }
    struct StatxOut {
        attr_valid: u64,
        attr_valid_nsec: u32,
        flags: u32,
        spare: [u64; 2],
        stat: Statx,
    }

    struct KStatFs {
        blocks: u64,
        bfree: u64,
        bavail: u64,
        files: u64,
        ffree: u64,
        bsize: u32,
        namelen: u32,
        frsize: u32,
        padding: u32,
        spare: [u32; 6],
    }

    struct ForgetIn { nlookup: u64 }
    struct ForgetOne { nodeid: u64, nlookup: u64 }
    struct BatchForgetIn { count: u32, dummy: u32 }
    struct GetattrIn { getattr_flags: u32, dummy: u32, fh: u64 }
    struct SetattrIn {
        valid: u32,
        padding: u32,
        fh: u64,
        size: u64,
        lock_owner: u64,
        atime: u64,
        mtime: u64,
        ctime: u64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        unused4: u32,
        uid: u32,
        gid: u32,
        unused5: u32,
    }
    struct MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32 }
    struct MkdirIn { mode: u32, umask: u32 }
    struct RenameIn { newdir: u64 }
    struct Rename2In { newdir: u64, flags: u32, padding: u32 }
    struct LinkIn { oldnodeid: u64 }
    struct OpenIn { flags: u32, open_flags: u32 }
    struct CreateIn { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    struct OpenOut { fh: u64, open_flags: u32, backing_id: i32 }
    struct ReleaseIn { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    struct FlushIn { fh: u64, unused: u32, padding: u32, lock_owner: u64 }
    struct ReadIn {
        fh: u64,
        offset: u64,
        size: u32,
        read_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }
    struct WriteIn {
        fh: u64,
        offset: u64,
        size: u32,
        write_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }
    struct WriteOut { size: u32, padding: u32 }
    struct FsyncIn { fh: u64, fsync_flags: u32, padding: u32 }
    /// The first half of SETXATTR's argument; all of it where SETXATTR_EXT was not negotiated.
    struct SetxattrIn { size: u32, flags: u32 }
    /// The second half, where SETXATTR_EXT was negotiated.
    struct SetxattrExt { setxattr_flags: u32, padding: u32 }
    struct GetxattrIn { size: u32, padding: u32 }
    struct GetxattrOut { size: u32, padding: u32 }
    struct AccessIn { mask: u32, padding: u32 }
    struct InterruptIn { unique: u64 }
    struct FallocateIn { fh: u64, offset: u64, length: u64, mode: u32, padding: u32 }
    struct IoctlIn { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32 }
    struct IoctlOut { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 }
    struct LseekIn { fh: u64, offset: u64, whence: u32, padding: u32 }
    struct TrimRange { start: u64, len: u64, minlen: u64 }
    struct LseekOut { offset: u64 }
    /// Attributes only where `offset` is negative, else pages too; all from it where `len` is 0.
    struct NotifyInvalInode { ino: u64, offset: i64, len: i64 }
    /// The name and a NUL follow.
    struct NotifyInvalEntry { parent: u64, namelen: u32, flags: u32 }
    struct CopyFileRangeIn {
        fh_in: u64,
        off_in: u64,
        nodeid_out: u64,
        fh_out: u64,
        off_out: u64,
        len: u64,
        flags: u64,
    }
    /// The answer to COPY_FILE_RANGE_64; the older operation is answered with [`WriteOut`].
    struct CopyFileRangeOut { bytes_copied: u64 }
    struct SyncfsIn { padding: u64 }

    /// What an INIT of any version begins with.
    struct InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32 }
    struct InitOut {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
        max_background: u16,
        congestion_threshold: u16,
        max_write: u32,
        time_gran: u32,
        max_pages: u16,
        map_alignment: u16,
        flags2: u32,
        max_stack_depth: u32,
        request_timeout: u16,
        unused: [u16; 11],
    }

    /// What a request has besides its payload where it travels over io_uring. The in header's
    /// place is the out header's on the way back.
    struct RingHeader { in_out: [u64; 16], op_in: [u64; 16], entry: RingEntry }
    struct RingEntry {
        flags: u64,
        /// Names the request when it is answered.
        commit_id: u64,
        /// Bytes of payload, in either direction.
        payload_size: u32,
        padding: u32,
        reserved: u64,
    }
    /// The argument of both commands of a ring.
    struct RingCommand { flags: u64, commit_id: u64, queue: u16, padding: [u8; 6] }

    /// Followed by the name, padded to eight bytes.
    struct Dirent { ino: u64, off: u64, namelen: u32, dtype: u32 }
}

macro_rules! opcodes {
    ($($name:ident = $value:literal: $arg:ty,)*) => {
        /// The operations this file system knows, by the kernel's numbers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Opcode { $($name = $value),* }

        impl Opcode {
            pub const ALL: &[Opcode] = &[$(Opcode::$name),*];

            /// `None` for an operation unknown here.
            pub fn from_raw(raw: u32) -> Option<Opcode> {
                match raw { $($value => Some(Opcode::$name),)* _ => None }
            }

            /// The length of the struct that the arguments begin with, in bytes; INIT's varies
            /// with the kernel and is given as its shortest.
            pub fn arg_len(self) -> usize {
                match self { $(Opcode::$name => size_of::<$arg>()),* }
            }
        }
    };
}

opcodes! {
    Lookup = 1: (),
    Forget = 2: ForgetIn,
    Getattr = 3: GetattrIn,
    Setattr = 4: SetattrIn,
    Readlink = 5: (),
    Symlink = 6: (),
    Mknod = 8: MknodIn,
    Mkdir = 9: MkdirIn,
    Unlink = 10: (),
    Rmdir = 11: (),
    Rename = 12: RenameIn,
    Link = 13: LinkIn,
    Open = 14: OpenIn,
    Read = 15: ReadIn,
    Write = 16: WriteIn,
    Statfs = 17: (),
    Release = 18: ReleaseIn,
    Fsync = 20: FsyncIn,
    Setxattr = 21: SetxattrIn,
    Getxattr = 22: GetxattrIn,
    Listxattr = 23: GetxattrIn,
    Removexattr = 24: (),
    Flush = 25: FlushIn,
    Init = 26: InitIn,
    Opendir = 27: OpenIn,
    Readdir = 28: ReadIn,
    Releasedir = 29: ReleaseIn,
    Fsyncdir = 30: FsyncIn,
    Access = 34: AccessIn,
    Create = 35: CreateIn,
    Interrupt = 36: InterruptIn,
    Destroy = 38: (),
    Ioctl = 39: IoctlIn,
    Poll = 40: (),
    BatchForget = 42: BatchForgetIn,
    Fallocate = 43: FallocateIn,
    Readdirplus = 44: ReadIn,
    Rename2 = 45: Rename2In,
    Lseek = 46: LseekIn,
    CopyFileRange = 47: CopyFileRangeIn,
    Syncfs = 50: SyncfsIn,
    Tmpfile = 51: CreateIn,
    Statx = 52: StatxIn,
    CopyFileRange64 = 53: CopyFileRangeIn,
}

/// `SetattrIn::valid`.
pub mod fattr {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const CTIME: u32 = 1 << 10;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// `OpenOut::open_flags`.
pub mod fopen {
    pub const DIRECT_IO: u32 = 1 << 0;
    pub const KEEP_CACHE: u32 = 1 << 1;
    pub const NONSEEKABLE: u32 = 1 << 2;
    pub const CACHE_DIR: u32 = 1 << 3;
    pub const STREAM: u32 = 1 << 4;
    pub const NOFLUSH: u32 = 1 << 5;
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
    pub const PASSTHROUGH: u32 = 1 << 7;
}

/// The flags of INIT; bits 32 and up travel in `flags2`.
pub mod init {
    pub const ASYNC_READ: u64 = 1 << 0;
    pub const POSIX_LOCKS: u64 = 1 << 1;
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub const EXPORT_SUPPORT: u64 = 1 << 4;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const DONT_MASK: u64 = 1 << 6;
    pub const SPLICE_WRITE: u64 = 1 << 7;
    pub const SPLICE_MOVE: u64 = 1 << 8;
    pub const SPLICE_READ: u64 = 1 << 9;
    pub const FLOCK_LOCKS: u64 = 1 << 10;
    pub const HAS_IOCTL_DIR: u64 = 1 << 11;
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const WRITEBACK_CACHE: u64 = 1 << 16;
    pub const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const HANDLE_KILLPRIV: u64 = 1 << 19;
    pub const POSIX_ACL: u64 = 1 << 20;
    pub const ABORT_ERROR: u64 = 1 << 21;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    pub const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub const MAP_ALIGNMENT: u64 = 1 << 26;
    pub const SUBMOUNTS: u64 = 1 << 27;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const SETXATTR_EXT: u64 = 1 << 29;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const SECURITY_CTX: u64 = 1 << 32;
    pub const HAS_INODE_DAX: u64 = 1 << 33;
    pub const CREATE_SUPP_GROUP: u64 = 1 << 34;
    pub const HAS_EXPIRE_ONLY: u64 = 1 << 35;
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub const PASSTHROUGH: u64 = 1 << 37;
    pub const NO_EXPORT_SUPPORT: u64 = 1 << 38;
    pub const HAS_RESEND: u64 = 1 << 39;
    pub const ALLOW_IDMAP: u64 = 1 << 40;
    pub const OVER_IO_URING: u64 = 1 << 41;
    pub const REQUEST_TIMEOUT: u64 = 1 << 42;
}

/// The numbers of ioctl(2), with the direction and the length of their argument, of
/// `include/uapi/linux/fs.h`.
pub mod ioctl {
    /// `FS_IOC_SHUTDOWN`, as XFS has it. Its number declares the argument as output only (`_IOR`), so FUSE does not send
    /// the flags.
    pub const SHUTDOWN: u32 = 0x8004_587d;
    /// `FITRIM` of a [`super::TrimRange`].
    pub const TRIM: u32 = 0xc018_5879;
    /// `FS_IOC_GETFLAGS`. The number says that flags are a long; the kernel wants 32 bits.
    pub const GET_FLAGS: u32 = 0x8008_6601;
}

/// The commands of a ring.
pub mod ring_command {
    /// Gives the kernel a place for requests.
    pub const REGISTER: u32 = 1;
    /// Answers a request and gives its place back.
    pub const COMMIT_AND_FETCH: u32 = 2;
}

/// Where a reply has its error, a notification has what it is.
pub const NOTIFY_INVAL_INODE: i32 = 2;
pub const NOTIFY_INVAL_ENTRY: i32 = 3;

pub const WRITE_CACHE: u32 = 1 << 0;
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;
pub const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
pub const FSYNC_FDATASYNC: u32 = 1 << 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_have_the_sizes_of_the_kernel_header() {
        let sizes = [
            (size_of::<InHeader>(), 40),
            (size_of::<OutHeader>(), 16),
            (size_of::<Attr>(), 88),
            (size_of::<EntryOut>(), 128),
            (size_of::<AttrOut>(), 104),
            (size_of::<Statx>(), 256),
            (size_of::<StatxIn>(), 24),
            (size_of::<StatxOut>(), 288),
            (size_of::<KStatFs>(), 80),
            (size_of::<SetattrIn>(), 88),
            (size_of::<ReadIn>(), 40),
            (size_of::<WriteIn>(), 40),
            (size_of::<CreateIn>(), 16),
            (size_of::<OpenOut>(), 16),
            (size_of::<SetxattrIn>() + size_of::<SetxattrExt>(), 16),
            (size_of::<CopyFileRangeIn>(), 56),
            (size_of::<InitOut>(), 64),
            (size_of::<IoctlIn>(), 32),
            (size_of::<IoctlOut>(), 16),
            (size_of::<Dirent>(), 24),
            (size_of::<RingHeader>(), 288),
            (size_of::<RingCommand>(), 24),
        ];
        for (at, (have, want)) in sizes.into_iter().enumerate() {
            assert_eq!(have, want, "entry {at}");
        }
    }

    #[test]
    fn opcodes_come_back_from_their_numbers() {
        for &op in Opcode::ALL {
            assert_eq!(Opcode::from_raw(op as u32), Some(op));
        }
        for unknown in [0, 7, 19, 31, 37, 41, 48, 54, 4096, u32::MAX] {
            assert_eq!(Opcode::from_raw(unknown), None);
        }
    }
}
