//! Names to inodes, and forgetting them.
//!
//! What a name is, the upper says first. The layers are asked for what it does not name, and for what is merged beneath
//! its directories. Both before the lock is taken; under the lock it is judged whether the right thing was asked.

use super::Overlay;
use super::lower::{Found, Lower, LowerDir};
use super::state::State;
use crate::attr::{Attr, InodeNo};
use crate::errno::{Errno, Result};
use crate::journal::Urgency;
use crate::journal::record::Record;
use crate::layer::Listing;
use crate::name::check_name;
use crate::upper::{Below, Dentry, Inode};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// An inode handed to the kernel: its lookup count was raised by one.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub attr: Attr,
}

/// After so many vain look-ups in one directory its whole listing is read instead.
const MISSES_BEFORE_LISTING: u16 = 16;

/// What was asked of the layers before the lock.
enum Asked {
    /// The upper has a whiteout, or an inode beneath which nothing is merged or for which this is known.
    Nothing,
    /// What is under a name that the upper says nothing of.
    Name(Option<Found>),
    /// What is merged beneath this directory of the upper.
    Below(InodeNo, Option<Found>),
}

impl Overlay {
    /// The inode under `name`; `None` where there is none (which the kernel may remember: nobody
    /// else changes this tree).
    ///
    /// # Errors
    /// `EINVAL` and `ENAMETOOLONG` for what is no name, `ENOTDIR`, `ESTALE` for a parent that the kernel has
    /// forgotten; what the host says of a layer.
    pub fn lookup(&self, parent: InodeNo, name: &OsStr) -> Result<Option<Entry>> {
        let name = name.as_bytes();
        check_name(name)?;
        loop {
            let asked = self.ask(parent, name)?;
            let mut st = self.state.write();
            return match (st.tree.dentry(parent, name), asked) {
                (Some(Dentry::Whiteout), _) => Ok(None),
                (Some(Dentry::Inode { ino, .. }), Asked::Below(of, found)) if of == ino => {
                    enter(&mut st, ino, parent, found.map(|found| found.lower)).map(Some)
                }
                (Some(Dentry::Inode { ino, .. }), _) if st.knows_what_lies_below(ino) => {
                    enter(&mut st, ino, parent, None).map(Some)
                }
                (None, Asked::Name(None)) => Ok(None),
                (None, Asked::Name(Some(mut found))) => {
                    st.give_number(&mut found);
                    let ino = found.lower.attr.ino;
                    let lower = (!st.tree.contains(ino)).then_some(found.lower);
                    enter(&mut st, ino, parent, lower).map(Some)
                }
                // The upper changed between the question and the lock.
                (Some(Dentry::Inode { .. }) | None, _) => continue,
            };
        }
    }

    /// Asks the layers what a look-up of `name` must know.
    fn ask(&self, parent: InodeNo, name: &[u8]) -> Result<Asked> {
        let dentry = {
            let st = self.state.read();
            match st.tree.dentry(parent, name) {
                Some(Dentry::Inode { ino, .. }) if !st.knows_what_lies_below(ino) => Some(ino),
                Some(Dentry::Inode { ino, .. }) if st.may_follow_origin(ino) => {
                    drop(st);
                    self.follow_origin(ino)?;
                    return Ok(Asked::Nothing);
                }
                Some(_) => return Ok(Asked::Nothing),
                None => None,
            }
        };
        match dentry {
            Some(ino) => Ok(Asked::Below(ino, self.below(ino, parent, name)?)),
            None => Ok(Asked::Name(self.ask_layers(parent, name)?)),
        }
    }

    /// The kernel gives back `count` look-ups.
    pub fn forget(&self, ino: InodeNo, count: u64) {
        if ino == InodeNo::ROOT {
            return;
        }
        let mut st = self.state.write();
        let gone = st.forget(ino, count);
        let has_no_link =
            |ino: &InodeNo| st.tree.get(*ino).is_some_and(|inode| inode.image().nlink == 0);
        let unlinked = gone.iter().any(has_no_link);
        drop(st);
        for ino in gone {
            self.stack.forget_file(ino);
            if unlinked {
                self.drop_orphan(ino);
            }
        }
    }

    /// Ends an unlinked inode that the kernel no longer holds. Replay would find it an orphan too, so
    /// a journal that cannot take the record does no harm.
    fn drop_orphan(&self, ino: InodeNo) {
        let Ok(mut tx) = self.begin() else { return };
        if tx.st().nodes.contains_key(&ino) || tx.image(ino).is_none_or(|image| image.nlink > 0) {
            return;
        }
        tx.put(Record::Drop { ino });
        if let Err(err) = tx.commit(Urgency::Freeing).map(drop) {
            tracing::warn!(%err, "cannot journal the end of an unlinked inode");
        }
    }

    /// Ends all unlinked inodes: nobody holds any when a mount begins, nor when it has ended, whether
    /// the kernel has said so or not. Journalled like any other change, so that their blocks are
    /// given back, and not before nothing durable refers to them.
    pub(super) fn end_orphans(&self) {
        if self.state.read().tree.unlinked() == 0 {
            return;
        }
        let Ok(mut tx) = self.begin() else { return };
        for ino in tx.tree().orphans() {
            tx.put(Record::Drop { ino });
        }
        if let Err(err) = tx.commit(Urgency::Freeing).map(drop) {
            tracing::warn!(%err, "cannot journal the end of unlinked inodes");
        }
    }

    /// What the layers have under a name that the upper says nothing of, with the number that is shown. Where the
    /// upper does have an entry the answer is `None`, and not needed: the entry rules.
    pub(super) fn probe(&self, parent: InodeNo, name: &[u8]) -> Result<Option<Found>> {
        if self.state.read().tree.dentry(parent, name).is_some() {
            return Ok(None);
        }
        let mut found = self.ask_layers(parent, name)?;
        if let Some(found) = &mut found {
            let ino = self.state.read().number_of(found);
            match ino {
                Some(ino) => found.lower.attr.ino = ino,
                None => self.state.write().give_number(found),
            }
        }
        Ok(found)
    }

    /// Whether the layers have a name, whatever the upper says of it.
    pub(super) fn lower_has(&self, parent: InodeNo, name: &[u8]) -> Result<bool> {
        {
            let st = self.state.read();
            if st.lower_dir(parent)?.is_none() {
                return Ok(false);
            }
            if let Some(listing) = &st.node(parent)?.listing {
                return Ok(listing.get(name).is_some());
            }
        }
        Ok(self.ask_layers(parent, name)?.is_some())
    }

    /// What the layers have under a name, with the number that its layer gives.
    fn ask_layers(&self, parent: InodeNo, name: &[u8]) -> Result<Option<Found>> {
        let (dir, misses) = {
            let st = self.state.read();
            let Some(dir) = st.lower_dir(parent)? else { return Ok(None) };
            let node = st.node(parent)?;
            if node.listing.as_ref().is_some_and(|listing| listing.get(name).is_none()) {
                return Ok(None);
            }
            (dir.clone(), node.misses.load(Ordering::Relaxed))
        };
        let found = self.find_in(&dir, name)?;
        if found.is_none() {
            self.note_miss(parent, misses)?;
        }
        Ok(found)
    }

    /// What the lower directories have under a name.
    pub(super) fn find_in(&self, dir: &LowerDir, name: &[u8]) -> Result<Option<Found>> {
        let node = self.stack.lookup(&dir.dirs, name)?;
        Ok(node.map(|node| Found::new(node, || join(&dir.view, name))))
    }

    /// What is merged beneath a directory of the upper that is `name` in `parent`: no lower, or a lower directory.
    pub(super) fn below(
        &self,
        ino: InodeNo,
        parent: InodeNo,
        name: &[u8],
    ) -> Result<Option<Found>> {
        let (below, dir) = {
            let st = self.state.read();
            let Some(dir) = st.tree.get(ino).and_then(Inode::dir) else { return Ok(None) };
            (dir.below().clone(), st.lower_dir(parent)?.cloned())
        };
        let found = match (below, dir) {
            (Below::Nothing, _) | (Below::SameName, None) => None,
            (Below::SameName, Some(dir)) => self.find_in(&dir, name)?,
            (Below::Path(path), _) => {
                self.stack.resolve(&path)?.map(|node| Found::new(node, || path))
            }
        };
        // What is no directory merges nothing.
        Ok(found.filter(|found| found.lower.dir.is_some()))
    }

    fn note_miss(&self, parent: InodeNo, misses: u16) -> Result<()> {
        if misses >= MISSES_BEFORE_LISTING {
            self.listing(parent)?;
        } else if let Some(node) = self.state.read().nodes.get(&parent) {
            node.misses.store(misses + 1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// All names in the lower directories of `ino`; `None` where there are none. Kept while the
    /// kernel knows the directory.
    pub(super) fn listing(&self, ino: InodeNo) -> Result<Option<Arc<Listing>>> {
        let dirs = {
            let st = self.state.read();
            if let Some(listing) = &st.node(ino)?.listing {
                return Ok(Some(listing.clone()));
            }
            let Some(dir) = st.lower_dir(ino)? else { return Ok(None) };
            dir.dirs.clone()
        };
        let listing = Arc::new(self.stack.list(&dirs)?);
        if let Some(node) = self.state.write().nodes.get_mut(&ino) {
            node.listing = Some(listing.clone());
        }
        Ok(Some(listing))
    }
}

impl State {
    /// Whether nothing has to be asked about what is merged beneath an inode of the upper.
    fn knows_what_lies_below(&self, ino: InodeNo) -> bool {
        let merges_nothing =
            |inode: &Inode| inode.dir().is_none_or(|dir| *dir.below() == Below::Nothing);
        self.nodes.contains_key(&ino) || self.tree.get(ino).is_some_and(merges_nothing)
    }
}

/// Hands an inode to the kernel.
pub(super) fn enter(
    st: &mut State,
    ino: InodeNo,
    parent: InodeNo,
    lower: Option<Lower>,
) -> Result<Entry> {
    if lower.is_none() && !st.tree.contains(ino) && !st.nodes.contains_key(&ino) {
        return Err(Errno::STALE);
    }
    st.remember(ino, parent, lower);
    Ok(Entry { attr: st.attr(ino)? })
}

/// The path of `name` in the directory `parent`.
fn join(parent: &[u8], name: &[u8]) -> Arc<[u8]> {
    match parent {
        [] => name.into(),
        parent => [parent, b"/", name].concat().into(),
    }
}

/// Whether a directory shows no entry: nothing is in the upper, and each name of the layers is whited out.
pub(super) fn is_empty(inode: Option<&Inode>, listing: Option<&Listing>) -> bool {
    let lower_names = listing.map_or(0, Listing::len);
    let Some(dir) = inode.and_then(Inode::dir) else { return lower_names == 0 };
    if dir.live() > 0 || dir.whiteouts() < lower_names {
        return false;
    }
    let is_gone = |entry: crate::layer::Entry<'_>| dir.get(entry.name) == Some(Dentry::Whiteout);
    listing.is_none_or(|listing| listing.iter().all(is_gone))
}
