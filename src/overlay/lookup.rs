//! Names to inodes, and forgetting them.

use super::Overlay;
use super::state::{Lower, State};
use crate::attr::{Attr, InodeNo};
use crate::errno::{Errno, Result};
use crate::journal::Urgency;
use crate::journal::record::Record;
use crate::layer::Listing;
use crate::name::check_name;
use crate::upper::{Dentry, Inode};
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
        let lower = self.probe(parent, name)?;
        let mut st = self.state.write();
        match st.tree.dentry(parent, name) {
            Some(Dentry::Whiteout) => Ok(None),
            Some(Dentry::Inode { ino, .. }) => enter(&mut st, ino, parent, None).map(Some),
            None => match lower {
                Some(lower) => enter(&mut st, lower.attr.ino, parent, Some(lower)).map(Some),
                None => Ok(None),
            },
        }
    }

    /// The kernel gives back `count` look-ups.
    pub fn forget(&self, ino: InodeNo, count: u64) {
        if ino == InodeNo::ROOT {
            return;
        }
        let mut st = self.state.write();
        let Some(node) = st.nodes.get(&ino) else { return };
        let left = node.lookups.load(Ordering::Relaxed).saturating_sub(count);
        node.lookups.store(left, Ordering::Relaxed);
        if left > 0 {
            return;
        }
        st.nodes.remove(&ino);
        if st.nodes.capacity() > 1024 && st.nodes.len() < st.nodes.capacity() / 8 {
            let keep = st.nodes.len() * 2;
            st.nodes.shrink_to(keep);
        }
        let gone = st.tree.get(ino).is_some_and(|inode| inode.image().nlink == 0);
        drop(st);
        self.lower_files.forget(ino);
        if gone {
            self.drop_orphan(ino);
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
        if self.state.read().tree.orphans().is_empty() {
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

    /// What the layers have under a name that the upper says nothing of.
    ///
    /// Where the upper does have an entry the answer is `None`, and not needed: the entry rules, and
    /// can only give way to another or, where a lower lies beneath, to a whiteout.
    pub(super) fn probe(&self, parent: InodeNo, name: &[u8]) -> Result<Option<Lower>> {
        let (dirs, listing, misses) = {
            let st = self.state.read();
            if st.tree.dentry(parent, name).is_some() {
                return Ok(None);
            }
            let node = st.node(parent)?;
            let misses = node.misses.load(Ordering::Relaxed);
            (st.lower_dirs(parent)?, node.listing.clone(), misses)
        };
        if dirs.is_empty() || listing.as_ref().is_some_and(|l| l.get(name).is_none()) {
            return Ok(None);
        }
        let found = self.stack.lookup(&dirs, name)?;
        if found.is_none() {
            self.note_miss(parent, misses)?;
        }
        Ok(found.map(Lower::from))
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
            st.lower_dirs(ino)?
        };
        if dirs.is_empty() {
            return Ok(None);
        }
        let listing = Arc::new(self.stack.list(&dirs)?);
        if let Some(node) = self.state.write().nodes.get_mut(&ino) {
            node.listing = Some(listing.clone());
        }
        Ok(Some(listing))
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

/// Whether a directory shows no entry: all that the lowers list is whited out, and nothing was added.
pub(super) fn is_empty(inode: Option<&Inode>, listing: Option<&Listing>) -> bool {
    let lower_names = listing.map_or(0, Listing::len);
    match inode.and_then(Inode::dir) {
        Some(dir) => dir.live() == 0 && dir.whiteouts() == lower_names,
        None => lower_names == 0,
    }
}
