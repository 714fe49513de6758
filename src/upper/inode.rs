//! One inode of the upper.

use super::dir::Dir;
use super::extent_map::ExtentMap;
use crate::attr::{Attr, FileType, InodeNo, LowerPath};
use crate::block::{BLOCK_SIZE, blocks_for};
use crate::journal::record::InodeImage;
use std::collections::BTreeMap;

/// Units of `st_blocks` (512 bytes) in a block.
const SECTORS: u64 = BLOCK_SIZE / 512;

/// The lower object that a raised inode was. A file's unmapped blocks read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub at: LowerPath,
    /// Bytes of a file's data that are valid: shrinks with truncation and never grows.
    pub len: u64,
}

/// Name to value, sorted.
pub type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

#[derive(Debug)]
pub struct Inode {
    pub(super) image: InodeImage,
    pub(super) xattrs: Option<Box<Xattrs>>,
    /// `None` for what was made here, and for directories, which keep a list of their own.
    pub(super) origin: Option<Box<Origin>>,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub enum Kind {
    File(ExtentMap),
    Dir(Box<Dir>),
    Symlink(Box<[u8]>),
    Special,
}

impl Inode {
    pub(super) fn new(image: InodeImage) -> Inode {
        let kind = match FileType::from_mode(image.mode) {
            Some(FileType::Regular) => Kind::File(ExtentMap::default()),
            Some(FileType::Directory) => Kind::Dir(Box::default()),
            Some(FileType::Symlink) => Kind::Symlink(Box::default()),
            _ => Kind::Special,
        };
        Inode { image, xattrs: None, origin: None, kind }
    }

    pub fn image(&self) -> &InodeImage {
        &self.image
    }

    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    pub fn dir(&self) -> Option<&Dir> {
        match &self.kind {
            Kind::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir(_))
    }

    /// The extent map and the origin of a regular file.
    pub fn file(&self) -> Option<(&ExtentMap, Option<&Origin>)> {
        match &self.kind {
            Kind::File(map) => Some((map, self.origin())),
            _ => None,
        }
    }

    pub fn xattr(&self, name: &[u8]) -> Option<&[u8]> {
        self.xattrs.as_ref()?.get(name).map(|value| &**value)
    }

    pub fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.xattrs.iter().flat_map(|map| map.iter().map(|(n, v)| (&**n, &**v)))
    }

    /// What `stat` shows. `origin_blocks`: 512-byte units that the lower origin takes on its host.
    pub fn attr(&self, ino: InodeNo, origin_blocks: u64) -> Attr {
        let i = &self.image;
        let (nlink, blocks) = match &self.kind {
            Kind::Dir(dir) if i.nlink > 0 && dir.lowers.is_empty() => (2 + dir.subdirs, 0),
            Kind::Dir(_) => (i.nlink.min(1), 0),
            Kind::File(map) => {
                let below =
                    if self.origin().is_some_and(|o| o.len > 0) { origin_blocks } else { 0 };
                let most = blocks_for(i.size) * SECTORS;
                let own = map.data_blocks() * SECTORS;
                (i.nlink, own.max(most.min(own + below)))
            }
            _ => (i.nlink, 0),
        };
        Attr {
            ino,
            size: i.size,
            blocks,
            mode: i.mode,
            nlink,
            uid: i.uid,
            gid: i.gid,
            rdev: i.rdev,
            atime: i.atime,
            mtime: i.mtime,
            ctime: i.ctime,
            btime: i.btime,
        }
    }
}
