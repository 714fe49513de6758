//! Validated settings of one mount. Knows nothing of the command line.

use std::path::PathBuf;

/// The filestore's name in the host's `upperdir`. A layer's root never shows a file of this name.
pub const FILESTORE_NAME: &str = ".overcoat.filestore";

/// Log events of this target are for whoever starts a mount, and not for the log alone: the command shows them on
/// stderr too, until the mount answers.
pub const NOTICE: &str = "overcoat::notice";

/// Where file data of the upper live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    /// `UPPERDIR/.overcoat.filestore`: kept over an unmount.
    OwnFile,
    /// An unlinked file in this directory: gone with the mount.
    Dir(PathBuf),
    /// A memfd: gone with the mount.
    Memory,
}

/// What fsync, fdatasync and syncfs promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// They return when the data and the journal are on stable storage.
    Full,
    /// They return at once (`volatile`).
    Volatile,
}

/// One range of an id mapping: `count` ids from `inside` (as the mount shows them) stand for those
/// from `outside` (as the layers on the host have them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// How owners in the layers are shown. Empty maps mean identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    pub uid: Vec<IdRange>,
    pub gid: Vec<IdRange>,
    pub squash_uid: Option<u32>,
    pub squash_gid: Option<u32>,
}

/// The settings of one overlay.
#[derive(Clone, Debug)]
pub struct Config {
    /// Topmost first, as `lowerdir=` lists them.
    pub lowers: Vec<PathBuf>,
    /// `None`: a read-only view of the lowers.
    pub upper: Option<PathBuf>,
    pub medium: Medium,
    /// Bytes of data and metadata the upper may take.
    pub size_limit: Option<u64>,
    /// Inodes the upper may hold.
    pub inode_limit: Option<u64>,
    pub durability: Durability,
    pub idmap: IdMap,
}
