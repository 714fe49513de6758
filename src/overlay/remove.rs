//! unlink and rmdir.

use super::Overlay;
use super::lookup::is_empty;
use super::state::Lower;
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
    /// A lower has the name, so a whiteout must replace the entry.
    pub covers: bool,
    pub is_dir: bool,
}

/// What had to be asked of the layers about a name before the lock.
pub(super) struct Probed {
    pub lower: Option<Lower>,
    /// All names below, where the name is a directory that might be removed or replaced.
    pub listing: Option<Arc<Listing>>,
    pub raised: Option<super::raise::Raised>,
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
        let probed = self.probe_target(parent, name, false)?;
        let raised_parent = self.prepare(parent)?;
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
        tx.raise(parent, &raised_parent)?;
        tx.remove_entry(parent, name, target.covers);
        tx.touch(parent);
        let forgotten = unlink_inode(&mut tx, &target, &probed)?;
        let now = tx.now;
        let mut st = tx.commit(Urgency::Freeing)?;
        if forgotten {
            note_unlinked(&mut st, target.ino, now);
        }
        Ok(())
    }

    /// Asks the layers what a removal or replacement of `name` must know. `keep`: the inode lives on
    /// (it is renamed), so what raises it is gathered too.
    pub(super) fn probe_target(&self, parent: InodeNo, name: &[u8], keep: bool) -> Result<Probed> {
        let lower = self.probe(parent, name)?;
        let upper = match self.state.read().tree.dentry(parent, name) {
            Some(Dentry::Inode { ino, .. }) => Some(ino),
            _ => None,
        };
        let is_dir = match (&lower, upper) {
            (_, Some(ino)) => self.state.read().attr(ino)?.is_dir(),
            (Some(lower), None) => lower.attr.is_dir(),
            (None, None) => false,
        };
        let listing = match (&lower, upper) {
            _ if !is_dir || keep => None,
            (_, Some(ino)) => self.listing_of(ino)?,
            (Some(lower), None) => self.listing_below(lower)?,
            (None, None) => None,
        };
        let raised = match &lower {
            Some(lower) if keep || (!is_dir && lower.attr.nlink > 1) => {
                self.prepare_found(lower)?
            }
            _ => None,
        };
        Ok(Probed { lower, listing, raised })
    }

    /// The listing of a directory of the upper, which the kernel need not know.
    fn listing_of(&self, ino: InodeNo) -> Result<Option<Arc<Listing>>> {
        if self.state.read().nodes.contains_key(&ino) {
            return self.listing(ino);
        }
        let dirs = self.state.read().lower_dirs(ino)?;
        if dirs.is_empty() { Ok(None) } else { Ok(Some(Arc::new(self.stack.list(&dirs)?))) }
    }

    fn listing_below(&self, lower: &Lower) -> Result<Option<Arc<Listing>>> {
        if self.state.read().nodes.contains_key(&lower.attr.ino) {
            return self.listing(lower.attr.ino);
        }
        match &lower.dirs {
            Some(dirs) => Ok(Some(Arc::new(self.stack.list(dirs)?))),
            None => Ok(None),
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
    let (ino, covers) = match (tx.dentry(parent, name), &probed.lower) {
        (Some(Dentry::Whiteout), _) | (None, None) => return Ok(None),
        (Some(Dentry::Inode { ino, covers }), _) => (ino, covers),
        (None, Some(lower)) => (lower.attr.ino, true),
    };
    let is_dir = match (tx.image(ino), &probed.lower) {
        (Some(image), _) => image.is_dir(),
        (None, Some(lower)) => lower.attr.is_dir(),
        (None, None) => return Err(Errno::STALE),
    };
    Ok(Some(Target { ino, covers, is_dir }))
}

/// Takes one link off an inode that lost a name. True where the inode is one of a layer's alone and
/// needs no record: its only name is whited out; the caller then calls [`note_unlinked`].
pub(super) fn unlink_inode(tx: &mut Txn<'_>, target: &Target, probed: &Probed) -> Result<bool> {
    let ino = target.ino;
    if !tx.tree().contains(ino) && probed.raised.is_none() {
        return Ok(true);
    }
    let mut image = tx.raise(ino, &probed.raised)?;
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
