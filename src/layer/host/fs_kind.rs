//! What a host file system promises, by its type.

use rustix::fd::BorrowedFd;
use rustix::fs::fstatfs;

/// How far directory entries' inode numbers can be trusted to be the ones `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DirentNumbers {
    Exact,
    /// Directories may be roots of other trees (btrfs subvolumes).
    ExactForFiles,
    Unreliable,
}

/// What is known of a type of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FsKind {
    pub dirent_numbers: DirentNumbers,
    /// Extended attributes that it does not list are not there.
    pub lists_all_xattrs: bool,
    /// Its operations wait for local storage at most.
    pub is_local: bool,
}

/// `f_type` of statfs(2), from the kernel's include/uapi/linux/magic.h.
pub(super) mod magic {
    pub const BCACHEFS: u32 = 0xca45_1a4e;
    pub const BTRFS: u32 = 0x9123_683e;
    pub const CRAMFS: u32 = 0x28cd_3d45;
    pub const EROFS: u32 = 0xe0f5_e1e2;
    pub const EXFAT: u32 = 0x2011_bab0;
    pub const EXT: u32 = 0xef53;
    pub const F2FS: u32 = 0xf2f5_2010;
    pub const ISO9660: u32 = 0x9660;
    pub const JFS: u32 = 0x3153_464a;
    pub const MSDOS: u32 = 0x4d44;
    pub const NILFS: u32 = 0x3434;
    pub const NTFS3: u32 = 0x7366_746e;
    pub const OVERLAY: u32 = 0x794c_7630;
    pub const RAMFS: u32 = 0x8584_58f6;
    pub const SQUASHFS: u32 = 0x7371_7368;
    pub const TMPFS: u32 = 0x0102_1994;
    pub const UDF: u32 = 0x1501_3346;
    pub const XFS: u32 = 0x5846_5342;
    pub const ZFS: u32 = 0x2fc1_2fc1;
}

impl FsKind {
    /// What may be relied on where nothing is known. Network file systems and FUSE may wait for ever, and have
    /// attributes that are shown only to who knows the name.
    const UNKNOWN: FsKind = FsKind {
        dirent_numbers: DirentNumbers::Unreliable,
        lists_all_xattrs: false,
        is_local: false,
    };

    /// The kind of file system that `file` lies on.
    pub fn of(file: BorrowedFd<'_>) -> FsKind {
        fstatfs(file).map_or(FsKind::UNKNOWN, |fs| FsKind::of_type(fs.f_type as u32))
    }

    fn of_type(f_type: u32) -> FsKind {
        use magic::*;
        let disk =
            FsKind { dirent_numbers: DirentNumbers::Exact, lists_all_xattrs: true, is_local: true };
        match f_type {
            EXT | XFS | F2FS | EROFS | SQUASHFS | TMPFS => disk,
            BTRFS => FsKind { dirent_numbers: DirentNumbers::ExactForFiles, ..disk },
            // An overlay may lie over any file system, but mostly lies over disks. Without `xino` its directory
            // entries have the numbers of its own layers.
            OVERLAY => FsKind { is_local: true, ..FsKind::UNKNOWN },
            BCACHEFS | CRAMFS | EXFAT | ISO9660 | JFS | MSDOS | NILFS | NTFS3 | RAMFS | UDF
            | ZFS => FsKind { is_local: true, ..FsKind::UNKNOWN },
            _ => FsKind::UNKNOWN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_may_block_and_is_trusted_in_nothing() {
        const FUSE: u32 = 0x6573_5546;
        const NFS: u32 = 0x6969;
        for f_type in [FUSE, NFS, 0, u32::MAX] {
            assert_eq!(FsKind::of_type(f_type), FsKind::UNKNOWN);
        }
    }

    #[test]
    fn disks_are_local() {
        for f_type in
            [magic::EXT, magic::XFS, magic::BTRFS, magic::TMPFS, magic::MSDOS, magic::OVERLAY]
        {
            assert!(FsKind::of_type(f_type).is_local);
        }
        let btrfs = FsKind::of_type(magic::BTRFS);
        assert_eq!(btrfs.dirent_numbers, DirentNumbers::ExactForFiles);
    }
}
