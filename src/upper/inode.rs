//! One inode of the upper.

use super::dir::{Below, Dir};
use super::extent_map::ExtentMap;
use crate::attr::{Attr, FileType, InodeNo};
use crate::block::{BLOCK_SIZE, SECTOR_SIZE, blocks_for};
use crate::journal::record::{InodeImage, OriginImage};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Units of `st_blocks` (512 bytes) in a block.
const SECTORS: u64 = BLOCK_SIZE / SECTOR_SIZE;

/// The lower object that an inode was copied up from: a file, whose unmapped blocks read from it, or what had several
/// names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Path bytes in the layer, as in [`crate::attr::LowerPath`].
    pub path: Arc<[u8]>,
    pub image: OriginImage,
}

/// Name to value, sorted.
pub type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

#[derive(Debug)]
pub struct Inode {
    pub(super) image: InodeImage,
    pub(super) xattrs: Option<Box<Xattrs>>,
    /// `None` for what was made here or is in no need of it, and for directories.
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

    /// Whether all data and the size of a regular file are still those of its origin: only metadata were changed.
    pub fn has_only_origin_data(&self) -> bool {
        let Some((map, Some(Origin { image: origin, .. }))) = self.file() else { return false };
        let size = origin.stamp.size;
        map.runs() == 0 && self.image.size == size && origin.len == size
    }

    /// What `stat` shows.
    pub fn attr(&self, ino: InodeNo) -> Attr {
        let i = &self.image;
        let (nlink, blocks) = match &self.kind {
            Kind::Dir(dir) if i.nlink > 0 && dir.below == Below::Nothing => (2 + dir.subdirs, 0),
            Kind::Dir(_) => (i.nlink.min(1), 0),
            Kind::File(map) => {
                let origin = self.origin().map(|o| &o.image).filter(|o| o.len > 0);
                let below = origin.map_or(0, |o| o.blocks.into());
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
