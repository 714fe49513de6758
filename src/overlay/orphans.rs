//! Lower files with several names, some of which were removed: how the others find them after a remount, and what
//! becomes of those that have no name left.

use super::Overlay;
use super::layers::Layers;
use super::lower_files::{is_absence, is_like};
use super::state::State;
use crate::attr::{FileType, InodeNo, LowerPath};
use crate::errno::{Errno, Result};
use crate::journal::Urgency;
use crate::journal::record::Record;
use crate::layer::{FileKey, Listing, Stack};
use crate::upper::{Dentry, Inode, Origin};
use rustc_hash::{FxHashMap, FxHashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Finds the lower files with several names that were copied up, by where they were: [`State::links`] after a mount.
/// Returns the inodes of which a layer did not say whether it has them.
pub(super) fn find_links(st: &mut State, stack: &Stack, layers: &Layers) -> FxHashSet<InodeNo> {
    let mut unknown = FxHashSet::default();
    if !st.tree.has_several_names() {
        return unknown;
    }
    for (ino, inode) in st.tree.inodes() {
        let origin = inode.origin().filter(|origin| origin.image.several_names);
        let Some(origin) = origin.filter(|_| inode.image().nlink > 0) else { continue };
        match find_link(stack, layers, origin) {
            Ok(Some(key)) => {
                st.links.insert(key, ino);
            }
            Ok(None) => {}
            Err(err) => {
                tracing::warn!(%err, file = %String::from_utf8_lossy(&origin.path), "a layer cannot be asked");
                unknown.insert(ino);
            }
        }
    }
    unknown
}

/// A file at this path, in a layer of the same identity too, must agree in size and times: names on the host may have
/// been given to another file.
fn find_link(stack: &Stack, layers: &Layers, origin: &Origin) -> Result<Option<FileKey>> {
    let mut failed = Ok(None);
    for layer in layers.candidates(origin.image.layer) {
        let at = LowerPath { layer, path: origin.path.clone() };
        match stack.stat_with_key(&at) {
            Ok((attr, key)) => {
                let agrees = is_like(&attr, origin.image.stamp);
                if agrees && !attr.is_dir() && attr.nlink > 1 {
                    return Ok(Some(key));
                }
            }
            Err(err) if is_absence(err) => {}
            Err(err) => failed = Err(err),
        }
    }
    failed
}

/// Inodes whose other names are looked for, by the lower file they were.
type Wanted = FxHashMap<FileKey, InodeNo>;

impl Overlay {
    /// Gives inodes without an entry one of the names that their lower files still show; those that show none are
    /// dropped, blocks and all, but for those that are `unknown`. Called once, before anybody uses the mount.
    pub(super) fn settle_nameless(&self, unknown: &FxHashSet<InodeNo>) {
        let nameless: FxHashSet<InodeNo> = self.state.read().tree.nameless().into_iter().collect();
        if nameless.is_empty() || self.writable().is_err() {
            return;
        }
        match self.find_names(&nameless) {
            Ok(found) => {
                let gone = nameless.difference(&found).filter(|ino| !unknown.contains(ino));
                let gone: Vec<_> = gone.copied().collect();
                if let Err(err) = self.drop_all(&gone) {
                    tracing::warn!(%err, "cannot drop files that have no name left");
                }
            }
            // What was not seen may have the names.
            Err(err) => {
                tracing::warn!(%err, "cannot look for the names of hard links in the layers")
            }
        }
    }

    fn drop_all(&self, gone: &[InodeNo]) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        tracing::info!(files = gone.len(), "files that have no name left are dropped");
        let mut tx = self.begin()?;
        gone.iter().for_each(|ino| tx.put(Record::Drop { ino: *ino }));
        tx.commit(Urgency::Freeing).map(drop)
    }

    /// The inodes that got an entry. Looks in the directories that they were copied up from, then everywhere.
    fn find_names(&self, nameless: &FxHashSet<InodeNo>) -> Result<FxHashSet<InodeNo>> {
        let (mut wanted, parents) = {
            let st = self.state.read();
            let links = st.links.iter().filter(|(_, ino)| nameless.contains(ino));
            let wanted: Wanted = links.map(|(key, ino)| (*key, *ino)).collect();
            let parent = |ino: &InodeNo| parent_of(&st.tree.get(*ino)?.origin()?.path);
            let parents: FxHashSet<Vec<u8>> = wanted.values().filter_map(parent).collect();
            (wanted, parents)
        };
        let all: FxHashSet<InodeNo> = wanted.values().copied().collect();
        for path in parents {
            if let Some(dir) = self.walk_to(&path)? {
                let done = self.take_names(dir, &mut wanted, &mut |_| {});
                self.forget(dir, 1);
                done?;
            }
        }
        self.walk_everything(&mut wanted)?;
        let left: FxHashSet<InodeNo> = wanted.into_values().collect();
        Ok(all.difference(&left).copied().collect())
    }

    /// Looks a directory up, which is then to be forgotten once.
    fn walk_to(&self, path: &[u8]) -> Result<Option<InodeNo>> {
        let mut at = InodeNo::ROOT;
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            let next = self.lookup(at, OsStr::from_bytes(name));
            self.forget(at, 1);
            match next? {
                Some(entry) if entry.attr.is_dir() => at = entry.attr.ino,
                Some(entry) => {
                    self.forget(entry.attr.ino, 1);
                    return Ok(None);
                }
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn walk_everything(&self, wanted: &mut Wanted) -> Result<()> {
        let mut dirs = vec![InodeNo::ROOT];
        let mut done = Ok(());
        while let Some(dir) = dirs.pop() {
            if done.is_ok() && !wanted.is_empty() {
                let mut subdirs: Vec<Vec<u8>> = Vec::new();
                done = self.take_names(dir, wanted, &mut |name| subdirs.push(name.to_vec()));
                for name in subdirs {
                    match self.lookup(dir, OsStr::from_bytes(&name)) {
                        Ok(Some(entry)) => dirs.push(entry.attr.ino),
                        Ok(None) => {}
                        Err(err) => done = Err(err),
                    }
                }
            }
            self.forget(dir, 1);
        }
        done
    }

    /// Gives wanted inodes the names that lower files have in `dir`, and tells the directories in it.
    fn take_names(
        &self,
        dir: InodeNo,
        wanted: &mut Wanted,
        each_subdir: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        let listing = self.listing(dir)?;
        let names: Vec<&[u8]> = {
            let st = self.state.read();
            let upper = st.tree.get(dir).and_then(Inode::dir);
            for (_, name, dentry) in upper.iter().flat_map(|dir| dir.entries_from(0)) {
                let Dentry::Inode { ino, .. } = dentry else { continue };
                if st.tree.get(ino).is_some_and(Inode::is_dir) {
                    each_subdir(name);
                }
            }
            let names = listing.iter().flat_map(|listing: &std::sync::Arc<Listing>| listing.iter());
            let names = names.filter(|entry| upper.is_none_or(|dir| dir.get(entry.name).is_none()));
            let may_be = may_be(wanted);
            names
                .filter_map(|entry| match entry.file_type {
                    FileType::Directory => {
                        each_subdir(entry.name);
                        None
                    }
                    _ => may_be(entry.ino).then_some(entry.name),
                })
                .collect()
        };
        let below = self.state.read().lower_dir(dir)?.cloned();
        let Some(below) = below else { return Ok(()) };
        for name in names {
            let Some(found) = self.find_in(&below, name)? else { continue };
            if let Some(ino) = wanted.get(&found.key).filter(|_| found.has_several_names()) {
                self.adopt(dir, name, *ino)?;
                wanted.remove(&found.key);
            }
        }
        Ok(())
    }

    /// Writes the entry of a name that the layers have.
    fn adopt(&self, parent: InodeNo, name: &[u8], ino: InodeNo) -> Result<()> {
        let copy = self.prepare(parent)?;
        let mut tx = self.begin()?;
        tx.copy_up(parent, &copy)?;
        if tx.dentry(parent, name).is_some() {
            return Err(Errno::EXIST);
        }
        tx.put(Record::Link { parent, ino, hides_lower: true, name });
        tx.commit(Urgency::Normal).map(drop)
    }
}

/// Whether a listed number may be that of a wanted file, of which only the host's own number is known.
fn may_be(wanted: &Wanted) -> impl Fn(Option<InodeNo>) -> bool {
    const HOST_BITS: u64 = InodeNo::NODE_IDS.end - 1;
    let numbers: FxHashSet<u64> = wanted.keys().map(|key| key.ino & HOST_BITS).collect();
    move |listed| {
        listed.is_none_or(|ino| ino.0 >> 63 == 1 || numbers.contains(&(ino.0 & HOST_BITS)))
    }
}

/// The directory part of a path.
fn parent_of(path: &[u8]) -> Option<Vec<u8>> {
    Some(match path.iter().rposition(|b| *b == b'/') {
        Some(end) => path[..end].to_vec(),
        None => Vec::new(),
    })
}
