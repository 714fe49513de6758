//! One operation's change of the upper: its records are journalled as one frame, then applied.

use super::Overlay;
use super::raise::Raised;
use super::state::State;
use crate::attr::{Attr, InodeNo, Time};
use crate::errno::{Errno, Result};
use crate::journal::Urgency;
use crate::journal::record::{InodeImage, Record, decode_all};
use crate::upper::{Dentry, Inode, Tree};
use parking_lot::RwLockWriteGuard;
use std::time::Instant;

/// Holds the state lock. Dropped without [`Txn::commit`], it leaves everything as it was.
pub(super) struct Txn<'a> {
    overlay: &'a Overlay,
    st: RwLockWriteGuard<'a, State>,
    frame: Vec<u8>,
    new_inodes: u64,
    pub now: Time,
}

impl Overlay {
    /// Starts a change. EROFS on a read-only view.
    pub(super) fn begin(&self) -> Result<Txn<'_>> {
        self.writable()?;
        let mut st = self.state.write();
        let mut frame = std::mem::take(&mut st.spare_frame);
        frame.clear();
        Ok(Txn { overlay: self, st, frame, new_inodes: 0, now: Time::now() })
    }
}

impl<'a> Txn<'a> {
    pub fn st(&mut self) -> &mut State {
        &mut self.st
    }

    pub fn tree(&self) -> &Tree {
        &self.st.tree
    }

    pub fn put(&mut self, record: Record<'_>) {
        record.encode(&mut self.frame);
    }

    /// A number for one new inode. ENOSPC at the limit of inodes.
    pub fn new_number(&mut self) -> Result<InodeNo> {
        self.new_inodes += 1;
        let total = self.st.tree.len() as u64 + self.new_inodes;
        if total > self.overlay.inode_limit() {
            return Err(Errno::NOSPC);
        }
        Ok(InodeNo(self.st.tree.next_number().0 + self.new_inodes - 1))
    }

    /// Makes a lower inode one of the upper, unless it has become that in the meantime; returns its
    /// image. Never stopped by the limit of inodes: a full view must stay one that can be tidied up.
    /// `prepared` comes from [`Overlay::prepare`], before the lock was taken.
    pub fn raise(&mut self, ino: InodeNo, prepared: &Option<Raised>) -> Result<InodeImage> {
        if let Some(inode) = self.st.tree.get(ino) {
            return Ok(*inode.image());
        }
        let raised = prepared.as_ref().ok_or(Errno::STALE)?;
        let mut image = raised.image;
        if let Some(lower) = self.st.nodes.get(&ino).and_then(|n| n.lower.as_deref()) {
            // An unlinked but open file.
            let Attr { nlink, atime, mtime, ctime, .. } = lower.attr;
            image = InodeImage { nlink, atime, mtime, ctime, ..image };
        }
        raised.records(ino, image, |record| record.encode(&mut self.frame));
        Ok(image)
    }

    /// Stamps a directory whose entries change; `image` is from [`Txn::raise`].
    pub fn touch(&mut self, dir: InodeNo) {
        let now = self.now;
        self.put(Record::Times { ino: dir, mtime: now, ctime: now });
    }

    /// Takes an entry away: by a whiteout where a lower has the name, else without a trace.
    pub fn remove_entry(&mut self, parent: InodeNo, name: &[u8], covers: bool) {
        self.put(match covers {
            true => Record::Whiteout { parent, name },
            false => Record::Unlink { parent, name },
        });
    }

    /// Journals and applies. On an error (ENOSPC, EIO) nothing has changed. `urgency` tells whether
    /// the change sets space free and may use what is kept back for that.
    pub fn commit(mut self, urgency: Urgency) -> Result<RwLockWriteGuard<'a, State>> {
        let st = &mut *self.st;
        if !self.frame.is_empty() {
            let appended = match &mut st.log {
                Some(log) => log.append(&self.frame, urgency),
                None => Err(Errno::IO),
            };
            if let Err(err) = appended {
                st.spare_frame = self.frame;
                return Err(err);
            }
            st.unsynced_since.get_or_insert_with(Instant::now);
            let mut freed = std::mem::take(&mut st.spare_freed);
            for record in decode_all(&self.frame) {
                let applied = record.map(|record| st.tree.apply(&record, &mut freed));
                if !matches!(applied, Ok(Ok(()))) {
                    // A bug of ours: what is journalled would not replay either.
                    tracing::error!(?applied, "a change does not fit the tree");
                    debug_assert!(false, "a change does not fit the tree: {applied:?}");
                }
            }
            freed.drain(..).for_each(|extent| self.overlay.store.free(extent));
            st.spare_freed = freed;
            self.overlay.upkeep.note_change();
        }
        st.spare_frame = self.frame;
        Ok(self.st)
    }

    /// What the upper says of a name.
    pub fn dentry(&self, parent: InodeNo, name: &[u8]) -> Option<Dentry> {
        self.st.tree.dentry(parent, name)
    }

    pub fn inode(&self, ino: InodeNo) -> Option<&Inode> {
        self.st.tree.get(ino)
    }
}
