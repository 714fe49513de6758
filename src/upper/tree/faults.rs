//! Questions to the tree as a whole: is it sound, and what in it has no name.

use super::{Broken, Inode, InodeNo, Tree};
use crate::upper::Dentry;
use rustc_hash::{FxHashMap, FxHashSet};

impl Tree {
    /// Inodes without a link: what was unlinked but open when a mount ended.
    pub fn orphans(&self) -> Vec<InodeNo> {
        self.inodes().filter(|(_, inode)| inode.image.nlink == 0).map(|(ino, _)| ino).collect()
    }

    /// Inodes with links left, none of which is an entry of the upper: lower files with several names, one of which
    /// was removed. Another may show in the layers.
    pub fn nameless(&self) -> Vec<InodeNo> {
        if !self.has_several_names() {
            return Vec::new();
        }
        let may_be = |inode: &Inode| {
            inode.image.nlink > 0 && inode.origin().is_some_and(|o| o.image.several_names)
        };
        let mut found: FxHashSet<InodeNo> =
            self.inodes().filter(|(_, inode)| may_be(inode)).map(|(ino, _)| ino).collect();
        // Most uppers have none.
        if !found.is_empty() {
            self.entries().for_each(|(_, ino)| {
                found.remove(&ino);
            });
        }
        found.into_iter().collect()
    }

    /// Every entry that is an inode: its directory and the inode.
    fn entries(&self) -> impl Iterator<Item = (InodeNo, InodeNo)> {
        let dirs = self.inodes().filter_map(|(ino, inode)| Some((ino, inode.dir()?)));
        dirs.flat_map(|(parent, dir)| {
            dir.entries_from(0).filter_map(move |(_, _, dentry)| match dentry {
                Dentry::Inode { ino, .. } => Some((parent, ino)),
                Dentry::Whiteout => None,
            })
        })
    }

    /// What is wrong with the tree as a whole: entries to nowhere, link counts, directories with two parents or
    /// none. Blocks are the filestore's to check.
    pub fn faults(&self) -> Vec<Broken> {
        let mut faults = Vec::new();
        let mut links: FxHashMap<InodeNo, u32> = FxHashMap::default();
        for (_, ino) in self.entries() {
            let found = links.entry(ino).or_default();
            *found += 1;
            match self.get(ino) {
                None => faults.push(Broken("an entry for an unknown inode", ino)),
                Some(child) if child.is_dir() && *found > 1 => {
                    faults.push(Broken("a directory with two parents", ino));
                }
                Some(_) => {}
            }
        }
        for (ino, inode) in self.inodes().filter(|(ino, _)| *ino != InodeNo::ROOT) {
            let (nlink, found) = (inode.image.nlink, links.get(&ino).copied().unwrap_or(0));
            let elsewhere = inode.origin().is_some_and(|origin| origin.image.several_names);
            if inode.is_dir() {
                if nlink > 0 && found == 0 {
                    faults.push(Broken("a directory without a parent", ino));
                }
            } else if nlink < found || nlink > found && !elsewhere {
                faults.push(Broken("a link count that is not the number of entries", ino));
            }
        }
        faults
    }
}
