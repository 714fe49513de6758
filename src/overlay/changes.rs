//! What the upper changes of the layers, as paths in the merged view.

use super::Overlay;
use crate::attr::{FileType, InodeNo};
use crate::upper::{Dentry, Inode, Tree};
use std::collections::{BTreeMap, HashSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One changed path, without a leading slash; empty is the root.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub kind: ChangeKind,
    pub path: &'a [u8],
    /// `None` for what was deleted.
    pub file_type: Option<FileType>,
}

impl Overlay {
    /// Tells every change. A directory counts as modified where its own attributes differ from the
    /// layers' (as they do once an entry came or went). Holds the state lock: for the end of a
    /// mount, or for small uppers.
    pub fn changes(&self, each: &mut dyn FnMut(Change<'_>)) {
        changes(&self.state.read().tree, each);
    }
}

/// The same of a tree that is not mounted.
pub fn changes(tree: &Tree, each: &mut dyn FnMut(Change<'_>)) {
    let mut walk = Walk { tree, reached: HashSet::new(), moved: BTreeMap::new(), each };
    // Directories and files that kept their place are found by where they were in the layers; what
    // was moved is found by its entry, and takes with it the place of all that lies below.
    let mut kept: Vec<(Vec<u8>, InodeNo)> = tree
        .inodes()
        .filter(|(_, inode)| inode.image().nlink > 0)
        .filter_map(|(ino, inode)| Some((home(inode)?.to_vec(), ino)))
        .collect();
    kept.sort();
    let entered: HashSet<InodeNo> = entered(tree);
    kept.retain(|(_, ino)| !entered.contains(ino));
    // Parents sort before their children, but a moved directory may be found late: those below it
    // wait for the second round.
    let homes: HashSet<&[u8]> = entered.iter().filter_map(|ino| home(tree.get(*ino)?)).collect();
    let below = |path: &[u8]| {
        path.iter().enumerate().any(|(i, b)| *b == b'/' && homes.contains(&path[..i]))
    };
    let (direct, below_moved): (Vec<_>, Vec<_>) =
        kept.into_iter().partition(|(path, _)| !below(path));
    for (path, ino) in direct.into_iter().chain(below_moved) {
        let path = walk.present_path(&path);
        walk.tell(ino, ChangeKind::Modified, &path);
    }
}

/// Where a raised inode lies in its layer.
fn home(inode: &Inode) -> Option<&[u8]> {
    match inode.dir() {
        Some(dir) => dir.lowers().first().map(|lower| &*lower.path),
        None => inode.origin().map(|origin| &*origin.at.path),
    }
}

/// Inodes that an entry of the upper refers to.
fn entered(tree: &Tree) -> HashSet<InodeNo> {
    let dirs = tree.inodes().filter_map(|(_, inode)| inode.dir());
    dirs.flat_map(|dir| dir.entries_from(0))
        .filter_map(|(_, _, dentry)| match dentry {
            Dentry::Inode { ino, .. } => Some(ino),
            Dentry::Whiteout => None,
        })
        .collect()
}

struct Walk<'a> {
    tree: &'a Tree,
    reached: HashSet<InodeNo>,
    /// Lower path of a directory that was moved → its path now.
    moved: BTreeMap<Vec<u8>, Vec<u8>>,
    each: &'a mut dyn FnMut(Change<'_>),
}

impl Walk<'_> {
    fn present_path(&self, path: &[u8]) -> Vec<u8> {
        let mut longest: Option<(&Vec<u8>, &Vec<u8>)> = None;
        for (from, to) in &self.moved {
            let below =
                path.strip_prefix(&from[..]).is_some_and(|rest| rest.first() == Some(&b'/'));
            if below && longest.is_none_or(|(best, _)| best.len() < from.len()) {
                longest = Some((from, to));
            }
        }
        match longest {
            Some((from, to)) => [to, &path[from.len()..]].concat(),
            None => path.to_vec(),
        }
    }

    /// Tells of an inode and, for a directory, of all that the upper has in it.
    fn tell(&mut self, ino: InodeNo, kind: ChangeKind, path: &[u8]) {
        let Some(inode) = self.tree.get(ino) else { return };
        let file_type = FileType::from_mode(inode.image().mode);
        (self.each)(Change { kind, path, file_type });
        if !self.reached.insert(ino) {
            return;
        }
        let Some(dir) = inode.dir() else { return };
        if let Some(home) = home(inode).filter(|home| *home != path) {
            self.moved.insert(home.to_vec(), path.to_vec());
        }
        for (_, name, dentry) in dir.entries_from(0) {
            let child = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
            match dentry {
                Dentry::Whiteout => {
                    (self.each)(Change { kind: ChangeKind::Deleted, path: &child, file_type: None })
                }
                Dentry::Inode { ino, covers } => {
                    let kind = if covers { ChangeKind::Modified } else { ChangeKind::Added };
                    self.tell(ino, kind, &child);
                }
            }
        }
    }
}
