//! unlink and rmdir.

use super::Overlay;
use super::copy_up::CopyUp;
use super::lookup::is_empty;
use super::lower::{Found, LowerDir};
use super::txn::Txn;
use crate::attr::{InodeNo, Time};
use crate::errno::{Errno, Result};
use crate::journal::Urgency;
use crate::journal::record::Record;
use crate::layer::Listing;
use crate::name::check_name;
use crate::upper::Dentry;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// What the merged view has under a name, found before the lock and judged again under it.
pub(super) struct Target {
    pub ino: InodeNo,
    /// What a new entry of this name says of the layers.
    pub hides_lower: bool,
    pub is_dir: bool,
}

/// What had to be asked of the layers about a name before the lock.
pub(super) struct Probed {
    /// What is under a name that the upper says nothing of.
    pub found: Option<Found>,
    /// The layers have the name, so a whiteout must replace its entry. Asked each time: layers may have come and
    /// gone since the entry was made. Unknown, and not needed, for a name that is not removed.
    pub lower_has_name: bool,
    /// Of a directory that is renamed: its path in the merged view of the layers alone, if it has lower directories.
    pub view: Option<Arc<[u8]>>,
    /// All names below, where the name is a directory that might be removed or replaced.
    pub listing: Option<Arc<Listing>>,
    pub copy: Option<CopyUp>,
}

/// What becomes of an inode whose name is probed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It loses the name, and may go.
    Removed,
    /// It gets another name.
    Moved,
    /// It gets another inode's name, and that one gets its.
    Exchanged,
    /// It loses the name to another inode, and may go.
    Replaced,
}

impl Fate {
    fn may_end_inode(self) -> bool {
        matches!(self, Fate::Removed | Fate::Replaced)
    }

    fn frees_name(self) -> bool {
        matches!(self, Fate::Removed | Fate::Moved)
    }
}

impl Overlay {
    /// # Errors
    /// `ENOENT`, and `EISDIR` for a directory; `EROFS`, `ENOSPC`, `EIO`; what the host says of a layer.
    pub fn unlink(&self, parent: InodeNo, name: &OsStr) -> Result<()> {
        self.remove(parent, name.as_bytes(), false)
    }

    /// # Errors
    /// `ENOENT`, `ENOTDIR`, and `ENOTEMPTY` where the merged view shows a name in it; otherwise as
    /// [`Overlay::unlink`].
    pub fn rmdir(&self, parent: InodeNo, name: &OsStr) -> Result<()> {
        self.remove(parent, name.as_bytes(), true)
    }

    fn remove(&self, parent: InodeNo, name: &[u8], want_dir: bool) -> Result<()> {
        check_name(name)?;
        let probed = self.probe_target(parent, name, Fate::Removed)?;
        let parent_copy = self.prepare(parent)?;
        let mut tx = self.begin()?;
        let target = target(&mut tx, parent, name, &probed)?.ok_or(Errno::NOENT)?;
        match (want_dir, target.is_dir) {
            (true, false) => return Err(Errno::NOTDIR),
            (false, true) => return Err(Errno::ISDIR),
            _ => {}
        }
        if target.is_dir && !is_empty(tx.committed(target.ino), probed.listing.as_deref()) {
            return Err(Errno::NOTEMPTY);
        }
        tx.copy_up(parent, &parent_copy)?;
        keep_other_names(&mut tx, &target, &probed)?;
        tx.remove_entry(parent, name, probed.lower_has_name);
        tx.touch(parent);
        let forgotten = unlink_inode(&mut tx, &target, &probed)?;
        let now = tx.now;
        let mut st = tx.commit(Urgency::Freeing)?;
        if forgotten {
            note_unlinked(&mut st, target.ino, now);
        }
        Ok(())
    }

    /// Asks the layers what a removal, renaming or replacement of `name` must know.
    pub(super) fn probe_target(&self, parent: InodeNo, name: &[u8], fate: Fate) -> Result<Probed> {
        let found = self.probe(parent, name)?;
        let upper = {
            let st = self.state.read();
            match st.tree.dentry(parent, name) {
                Some(Dentry::Inode { ino, .. }) => Some((ino, st.attr(ino)?.is_dir())),
                _ => None,
            }
        };
        let lower_has_name = match upper {
            Some(_) if fate.frees_name() => self.lower_has(parent, name)?,
            _ => found.is_some(),
        };
        let dir = match (&found, upper) {
            (_, Some((ino, true))) => self.lower_dir_of(ino, parent, name)?,
            (Some(found), None) => found.lower.dir.clone(),
            _ => None,
        };
        let known = upper.map(|(ino, _)| ino).or(found.as_ref().map(|found| found.lower.attr.ino));
        let listing = match (&dir, known) {
            (Some(dir), Some(ino)) if fate.may_end_inode() => Some(self.listing_of(ino, dir)?),
            _ => None,
        };
        let copy = match &found {
            Some(found) if !fate.may_end_inode() || found.has_several_names() => {
                self.prepare_found(parent, found)?
            }
            _ => None,
        };
        Ok(Probed { found, lower_has_name, view: dir.map(|dir| dir.view), listing, copy })
    }

    /// What is merged beneath a directory of the upper, which the kernel need not know.
    fn lower_dir_of(&self, ino: InodeNo, parent: InodeNo, name: &[u8]) -> Result<Option<LowerDir>> {
        {
            let st = self.state.read();
            if st.nodes.contains_key(&ino) {
                return Ok(st.lower_dir(ino)?.cloned());
            }
        }
        Ok(self.below(ino, parent, name)?.and_then(|found| found.lower.dir))
    }

    /// The names in lower directories, kept where the kernel knows the directory.
    fn listing_of(&self, ino: InodeNo, dir: &LowerDir) -> Result<Arc<Listing>> {
        let known = self.state.read().nodes.contains_key(&ino);
        match if known { self.listing(ino)? } else { None } {
            Some(listing) => Ok(listing),
            None => Ok(Arc::new(self.stack.list(&dir.dirs)?)),
        }
    }
}

/// Judges under the lock what a name is now; `None`: nothing.
pub(super) fn target(
    tx: &mut Txn<'_>,
    parent: InodeNo,
    name: &[u8],
    probed: &Probed,
) -> Result<Option<Target>> {
    let (ino, hides_lower) = match (tx.dentry(parent, name), &probed.found) {
        (Some(Dentry::Whiteout), _) | (None, None) => return Ok(None),
        (Some(Dentry::Inode { ino, hides_lower }), _) => (ino, hides_lower),
        (None, Some(found)) => (found.lower.attr.ino, true),
    };
    let is_dir = match (tx.image(ino), &probed.found) {
        (Some(image), _) => image.is_dir(),
        (None, Some(found)) => found.lower.attr.is_dir(),
        (None, None) => return Err(Errno::STALE),
    };
    Ok(Some(Target { ino, hides_lower, is_dir }))
}

/// Before a name is taken away: makes a lower file with other names one of the upper, while its entry can be written.
pub(super) fn keep_other_names(tx: &mut Txn<'_>, target: &Target, probed: &Probed) -> Result<()> {
    match &probed.copy {
        Some(_) => tx.copy_up(target.ino, &probed.copy).map(drop),
        None => Ok(()),
    }
}

/// Takes one link off an inode that lost a name. True where the inode is one of a layer's alone and
/// needs no record: its only name is whited out; the caller then calls [`note_unlinked`].
pub(super) fn unlink_inode(tx: &mut Txn<'_>, target: &Target, probed: &Probed) -> Result<bool> {
    let ino = target.ino;
    if !tx.tree().contains(ino) && probed.copy.is_none() {
        return Ok(true);
    }
    let mut image = tx.copy_up(ino, &probed.copy)?;
    image.nlink = if image.is_dir() { 0 } else { image.nlink.saturating_sub(1) };
    image.ctime = tx.now;
    tx.put(Record::Inode { ino, image });
    let held = tx.st().nodes.contains_key(&ino);
    if image.nlink == 0 && !held {
        tx.put(Record::Drop { ino });
    }
    Ok(false)
}

/// An unlinked file of a layer that somebody still has open shows no links.
pub(super) fn note_unlinked(st: &mut super::state::State, ino: InodeNo, now: Time) {
    if let Some(lower) = st.nodes.get_mut(&ino).and_then(|node| node.lower.as_deref_mut()) {
        (lower.attr.nlink, lower.attr.ctime) = (0, now);
    }
}
