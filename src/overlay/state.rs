//! What one lock protects: the upper, the inodes the kernel knows, and the journal.

use crate::attr::{Attr, InodeNo, LowerPath};
use crate::errno::{Errno, Result};
use crate::filestore::Extent;
use crate::journal::Log;
use crate::layer::{Listing, LowerNode};
use crate::upper::Tree;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// What the layers say of an inode. Immutable but for `attr.nlink` and the times of a file
/// that was unlinked while the kernel still holds it.
#[derive(Debug)]
pub(super) struct Lower {
    pub attr: Attr,
    /// Where the attributes and data come from.
    pub at: LowerPath,
    /// Of a directory: everything merged, topmost first.
    pub dirs: Option<Arc<[LowerPath]>>,
}

impl From<LowerNode> for Lower {
    fn from(node: LowerNode) -> Lower {
        let dirs = (!node.dirs.is_empty()).then(|| node.dirs.into_iter().collect());
        Lower { attr: node.attr, at: node.at, dirs }
    }
}

/// The answer to a question, once somebody asked it. It never changes.
#[derive(Debug, Default)]
pub(super) struct Known(AtomicU8);

impl Known {
    pub fn get(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            answer => Some(answer == 2),
        }
    }

    pub fn set(&self, answer: bool) {
        self.0.store(1 + u8::from(answer), Ordering::Relaxed);
    }
}

/// An inode that the kernel has looked up and not forgotten.
#[derive(Debug)]
pub(super) struct Node {
    pub lookups: AtomicU64,
    /// `None` for an inode that was reached through an entry of the upper.
    pub lower: Option<Box<Lower>>,
    /// Names in the lower directories, once somebody needed them all.
    pub listing: Option<Arc<Listing>>,
    /// Of a directory: where it hangs.
    pub parent: InodeNo,
    /// Names asked for in vain; many of them make it worth reading the whole listing.
    pub misses: AtomicU16,
    /// Whether the lower has no extended attribute.
    pub bare: Known,
    /// Open descriptors of a file that may write.
    pub writers: AtomicU32,
}

pub(super) struct State {
    pub tree: Tree,
    pub nodes: FxHashMap<InodeNo, Node>,
    /// `None` after the end of the mount.
    pub log: Option<Log>,
    /// Buffers kept between operations.
    pub spare_frame: Vec<u8>,
    pub spare_freed: Vec<Extent>,
    /// The journal has a record that the tree refused, so it has to be replaced by a checkpoint.
    pub unreplayable: bool,
    /// When the first change was journalled since the last sync point.
    pub unsynced_since: Option<Instant>,
}

impl State {
    pub fn node(&self, ino: InodeNo) -> Result<&Node> {
        self.nodes.get(&ino).ok_or(Errno::STALE)
    }

    /// The attributes of an inode of the merged view.
    pub fn attr(&self, ino: InodeNo) -> Result<Attr> {
        let lower = self.nodes.get(&ino).and_then(|node| node.lower.as_deref());
        if let Some(inode) = self.tree.get(ino) {
            let origin_blocks = match (lower, inode.file()) {
                (Some(lower), _) => lower.attr.blocks,
                (None, Some((_, Some(origin)))) => origin.len.div_ceil(512),
                _ => 0,
            };
            return Ok(inode.attr(ino, origin_blocks));
        }
        Ok(lower.ok_or(Errno::STALE)?.attr)
    }

    /// The merged lower directories of a directory; empty where it hides what lies below.
    pub fn lower_dirs(&self, ino: InodeNo) -> Result<Arc<[LowerPath]>> {
        if let Some(lower) = self.nodes.get(&ino).and_then(|node| node.lower.as_deref()) {
            return lower.dirs.clone().ok_or(Errno::NOTDIR);
        }
        let inode = self.tree.get(ino).ok_or(Errno::STALE)?;
        Ok(inode.dir().ok_or(Errno::NOTDIR)?.lowers().into())
    }

    /// Counts one more lookup of an inode, which the kernel will give back with FORGET.
    pub fn remember(&mut self, ino: InodeNo, parent: InodeNo, lower: Option<Lower>) {
        let node = self.nodes.entry(ino).or_insert_with(|| Node {
            lookups: AtomicU64::new(0),
            lower: None,
            listing: None,
            parent,
            misses: AtomicU16::new(0),
            bare: Known::default(),
            writers: AtomicU32::new(0),
        });
        node.lookups.fetch_add(1, Ordering::Relaxed);
        node.parent = parent;
        if node.lower.is_none() {
            node.lower = lower.map(Box::new);
        }
    }
}
