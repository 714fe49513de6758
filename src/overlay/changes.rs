//! What the upper changes of the layers, as paths in the merged view.

use super::Overlay;
use crate::attr::{FileType, InodeNo};
use crate::upper::{Dentry, Dir, Tree};
use std::collections::HashSet;

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
    /// Tells every change, directories before what is in them. A directory counts as modified where its own
    /// attributes differ from the layers' (as they do once an entry came or went). Holds the state lock: for
    /// the end of a mount, or for small uppers.
    pub fn changes(&self, each: &mut dyn FnMut(Change<'_>)) {
        changes(&self.state.read().tree, each);
    }
}

/// The same of a tree that is not mounted.
pub fn changes(tree: &Tree, each: &mut dyn FnMut(Change<'_>)) {
    let mut dirs = HashSet::new();
    // Directories whose entries are still to be told, by their paths.
    let mut left = vec![(InodeNo::ROOT, Vec::new())];
    if tree.get(InodeNo::ROOT).and_then(|root| root.dir()).is_some_and(|dir| !dir.is_untouched()) {
        let (kind, file_type) = (ChangeKind::Modified, Some(FileType::Directory));
        each(Change { kind, path: b"", file_type });
    }
    while let Some((ino, path)) = left.pop() {
        let Some(dir) = tree.get(ino).and_then(|inode| inode.dir()) else { continue };
        // A hostile journal may have a directory inside itself.
        if dirs.insert(ino) {
            let from = left.len();
            tell_entries(tree, dir, &path, &mut left, each);
            left[from..].reverse();
        }
    }
}

fn tell_entries(
    tree: &Tree,
    dir: &Dir,
    path: &[u8],
    left: &mut Vec<(InodeNo, Vec<u8>)>,
    each: &mut dyn FnMut(Change<'_>),
) {
    for (_, name, dentry) in dir.entries_from(0) {
        let child = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
        let Dentry::Inode { ino, hides_lower } = dentry else {
            each(Change { kind: ChangeKind::Deleted, path: &child, file_type: None });
            continue;
        };
        let Some(inode) = tree.get(ino) else { continue };
        let kind = if hides_lower { ChangeKind::Modified } else { ChangeKind::Added };
        let file_type = FileType::from_mode(inode.image().mode);
        if inode.dir().is_none_or(|dir| !dir.is_untouched()) {
            each(Change { kind, path: &child, file_type });
        }
        if inode.is_dir() {
            left.push((ino, child));
        }
    }
}
