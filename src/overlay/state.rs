//! What one lock protects: the upper, the inodes the kernel knows, and the journal.

use super::given_numbers::GivenNumbers;
use super::lower::{Lower, LowerDir};
use crate::attr::{Attr, InodeNo};
use crate::errno::{Errno, Result};
use crate::filestore::Extent;
use crate::journal::Log;
use crate::layer::{FileKey, Listing};
use crate::upper::Tree;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// The answer to a question, once somebody asked it. It never changes.
#[derive(Debug, Default)]
pub(super) struct Known(AtomicU8);

impl Known {
    const ASKED: u8 = 1;
    const YES: u8 = 2;

    pub fn get(&self) -> Option<bool> {
        let answer = self.0.load(Ordering::Relaxed);
        (answer & Known::ASKED != 0).then_some(answer & Known::YES != 0)
    }

    pub fn set(&self, answer: bool) {
        self.0.store(Known::ASKED | if answer { Known::YES } else { 0 }, Ordering::Relaxed);
    }
}

/// An inode that the kernel has looked up and not forgotten, or an ancestor of one.
#[derive(Debug)]
pub(super) struct Node {
    pub lookups: AtomicU64,
    /// Of an inode of the upper: only of a directory with something merged beneath it, and of what was copied up
    /// while the kernel knew it.
    pub lower: Option<Box<Lower>>,
    /// Names in the lower directories, once somebody needed them all.
    pub listing: Option<Arc<Listing>>,
    /// Of a directory: where it hangs. Of anything else: where it was first found.
    pub parent: InodeNo,
    /// Nodes whose `parent` this is. It stays as long as there are any, so that what holds a copied-up inode can be
    /// copied up.
    children: u32,
    /// Names asked for in vain; many of them make it worth reading the whole listing.
    pub misses: AtomicU16,
    /// Whether the lower has no extended attribute.
    pub no_xattrs: Known,
    /// Open descriptors of a file that may write.
    pub writers: AtomicU32,
}

pub(super) struct State {
    pub tree: Tree,
    pub nodes: FxHashMap<InodeNo, Node>,
    /// Inodes of the upper by the lower file with several names that they were copied up from: how its other names
    /// find them.
    pub links: FxHashMap<FileKey, InodeNo>,
    pub numbers: GivenNumbers,
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
    pub fn new(tree: Tree, log: Log) -> State {
        State {
            numbers: GivenNumbers::after(tree.next_number()),
            tree,
            nodes: FxHashMap::default(),
            links: FxHashMap::default(),
            log: Some(log),
            spare_frame: Vec::new(),
            spare_freed: Vec::new(),
            unreplayable: false,
            unsynced_since: None,
        }
    }

    pub fn node(&self, ino: InodeNo) -> Result<&Node> {
        self.nodes.get(&ino).ok_or(Errno::STALE)
    }

    fn lower(&self, ino: InodeNo) -> Option<&Lower> {
        self.nodes.get(&ino)?.lower.as_deref()
    }

    /// The attributes of an inode of the merged view.
    pub fn attr(&self, ino: InodeNo) -> Result<Attr> {
        let Some(inode) = self.tree.get(ino) else {
            return Ok(self.lower(ino).ok_or(Errno::STALE)?.attr);
        };
        let mut attr = inode.attr(ino);
        if let (Some(dir), Some(lower)) = (inode.dir(), self.lower(ino)) {
            // As before its copy-up: the upper's part of a directory takes no block, and the kernel has cached what a
            // directory showed that was copied up only because of a file in it.
            attr.blocks = lower.attr.blocks;
            if dir.is_untouched() {
                (attr.nlink, attr.size) = (lower.attr.nlink, lower.attr.size);
            }
        }
        Ok(attr)
    }

    /// What the layers have of a directory that the kernel knows; `None` where nothing lies below.
    pub fn lower_dir(&self, ino: InodeNo) -> Result<Option<&LowerDir>> {
        match (self.lower(ino), self.tree.get(ino)) {
            (_, Some(inode)) if !inode.is_dir() => Err(Errno::NOTDIR),
            (Some(lower), upper) => match &lower.dir {
                None if upper.is_none() => Err(Errno::NOTDIR),
                dir => Ok(dir.as_ref()),
            },
            (None, Some(_)) => Ok(None),
            (None, None) => Err(Errno::STALE),
        }
    }

    /// Counts one more lookup of an inode, which the kernel will give back with FORGET.
    pub fn remember(&mut self, ino: InodeNo, parent: InodeNo, lower: Option<Lower>) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.nodes.insert(
            ino,
            Node {
                lookups: AtomicU64::new(1),
                lower: lower.map(Box::new),
                listing: None,
                parent,
                children: 0,
                misses: AtomicU16::new(0),
                no_xattrs: Known::default(),
                writers: AtomicU32::new(0),
            },
        );
        if let Some(node) = self.nodes.get_mut(&parent) {
            node.children += 1;
        }
    }

    /// A directory hangs elsewhere now.
    pub fn set_parent(&mut self, ino: InodeNo, parent: InodeNo) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        let old = std::mem::replace(&mut node.parent, parent);
        if let Some(node) = self.nodes.get_mut(&parent) {
            node.children += 1;
        }
        self.lose_child(old);
    }

    fn lose_child(&mut self, parent: InodeNo) {
        if let Some(node) = self.nodes.get_mut(&parent) {
            node.children = node.children.saturating_sub(1);
        }
    }

    /// Takes `count` look-ups back. Returns the inodes that are not known any more.
    pub fn forget(&mut self, ino: InodeNo, count: u64) -> SmallVec<[InodeNo; 1]> {
        let mut gone = SmallVec::new();
        let Some(node) = self.nodes.get(&ino) else { return gone };
        let left = node.lookups.load(Ordering::Relaxed).saturating_sub(count);
        node.lookups.store(left, Ordering::Relaxed);
        let mut at = ino;
        while let Some(node) = self.nodes.get(&at) {
            let held = node.lookups.load(Ordering::Relaxed) > 0 || node.children > 0;
            if held || at == InodeNo::ROOT {
                break;
            }
            let parent = node.parent;
            self.nodes.remove(&at);
            gone.push(at);
            self.lose_child(parent);
            at = parent;
        }
        if self.nodes.capacity() > 1024 && self.nodes.len() < self.nodes.capacity() / 8 {
            let keep = self.nodes.len() * 2;
            self.nodes.shrink_to(keep);
        }
        gone
    }
}
