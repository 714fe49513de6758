//! One operation's change of the upper: its records are journalled as one frame, then applied. Until then the
//! frame is also what the operation's own reads take into account.

use super::Overlay;
use super::layers::Today;
use super::state::State;
use super::state_lock::WriteState;
use crate::attr::{InodeNo, LayerId, RecordedLayer, Time};
use crate::errno::{Errno, Result};
use crate::journal::Urgency;
use crate::journal::record::{InodeImage, Record, decode_all};
use crate::layer::FileKey;
use crate::upper::{Dentry, Inode, Tree};
use smallvec::SmallVec;
use std::cmp::Ordering;
use std::time::Instant;

/// Holds the state lock. Dropped without [`Txn::commit`], it leaves everything as it was.
pub(super) struct Txn<'a> {
    overlay: &'a Overlay,
    st: WriteState<'a>,
    frame: Vec<u8>,
    new_inodes: u64,
    /// What [`State::links`] gets when the change is made.
    new_links: SmallVec<[(FileKey, InodeNo); 1]>,
    /// What the change is stamped with.
    pub now: Time,
}

impl Overlay {
    /// Starts a change.
    ///
    /// # Errors
    /// `EROFS` on a read-only view, and after [`Overlay::fail_read_only`].
    pub(super) fn begin(&self) -> Result<Txn<'_>> {
        // Before the lock: the kernel does not send two changes of one inode at a time, so that no stamp of an inode
        // is followed by an earlier one.
        self.begin_at(self.clock.now())
    }

    /// Starts a change that needs no time of this process, or has the kernel's.
    ///
    /// # Errors
    /// As of [`Overlay::begin`].
    pub(super) fn begin_at(&self, now: Time) -> Result<Txn<'_>> {
        let mut st = self.state.write();
        // Under the lock: what waited for a change that failed does not change anything any more.
        self.writable()?;
        let mut frame = std::mem::take(&mut st.spare_frame);
        frame.clear();
        Ok(Txn { overlay: self, st, frame, new_inodes: 0, new_links: SmallVec::new(), now })
    }
}

impl<'a> Txn<'a> {
    pub fn st(&mut self) -> &mut State {
        &mut self.st
    }

    pub fn tree(&self) -> &Tree {
        &self.st.tree
    }

    /// Adds a record. Later reads through this transaction see it.
    pub fn put(&mut self, record: Record<'_>) {
        record.encode(&mut self.frame);
    }

    /// A number for one new inode.
    ///
    /// # Errors
    /// `ENOSPC` at the limit of inodes.
    pub fn new_number(&mut self) -> Result<InodeNo> {
        self.new_inodes += 1;
        let total = self.st.tree.len() as u64 + self.new_inodes;
        if total > self.overlay.inode_limit() {
            return Err(Errno::NOSPC);
        }
        Ok(self.st.free_number())
    }

    /// The number that records have of a layer of this mount; adds the record of the layer where there is none.
    ///
    /// # Errors
    /// `ESTALE` where there is no such layer.
    pub fn recorded_layer(&mut self, place: LayerId) -> Result<RecordedLayer> {
        let Today { id, layer } = self.overlay.layers.at(place).ok_or(Errno::STALE)?;
        if self.st.tree.layer(id).is_none() {
            self.put(Record::Layer { id, identity: layer.identity, place: layer.place });
        }
        Ok(id)
    }

    /// Lets the other names of a lower file that is copied up find its inode.
    pub fn note_link(&mut self, key: FileKey, ino: InodeNo) {
        self.new_links.push((key, ino));
    }

    /// Stamps a directory of the upper whose entries change.
    pub fn touch(&mut self, dir: InodeNo) {
        let now = self.now;
        self.put(Record::Times { ino: dir, mtime: now, ctime: now });
    }

    /// Takes an entry away: by a whiteout where a lower has the name, else without a trace.
    pub fn remove_entry(&mut self, parent: InodeNo, name: &[u8], lower_has_name: bool) {
        self.put(match lower_has_name {
            true => Record::Whiteout { parent, name },
            false => Record::Unlink { parent, name },
        });
    }

    /// The records put so far.
    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        decode_all(&self.frame).map_while(std::result::Result::ok)
    }

    /// The attributes of an inode of the upper; `None` where the upper does not have it.
    pub fn image(&self, ino: InodeNo) -> Option<InodeImage> {
        let mut image = self.st.tree.get(ino).map(|inode| *inode.image());
        for record in self.records() {
            match (record, &mut image) {
                (Record::Inode { ino: of, image: new }, _) if of == ino => image = Some(new),
                (Record::Drop { ino: of }, _) if of == ino => image = None,
                (Record::Times { ino: of, mtime, ctime }, Some(image)) if of == ino => {
                    (image.mtime, image.ctime) = (mtime, ctime);
                }
                (Record::Size { ino: of, size, .. }, Some(image)) if of == ino => image.size = size,
                _ => {}
            }
        }
        image
    }

    /// What the upper says of a name.
    pub fn dentry(&self, parent: InodeNo, name: &[u8]) -> Option<Dentry> {
        let mut dentry = self.st.tree.dentry(parent, name);
        for record in self.records() {
            let (at, now) = match record {
                Record::Link { parent, ino, hides_lower, name } => {
                    ((parent, name), Some(Dentry::Inode { ino, hides_lower }))
                }
                Record::Whiteout { parent, name } => ((parent, name), Some(Dentry::Whiteout)),
                Record::Unlink { parent, name } => ((parent, name), None),
                _ => continue,
            };
            if at == (parent, name) {
                dentry = now;
            }
        }
        dentry
    }

    /// An extended attribute of an inode of the upper. One of a layer has none here before [`Txn::copy_up`].
    pub fn xattr(&self, ino: InodeNo, name: &[u8]) -> Option<&[u8]> {
        let mut value = self.st.tree.get(ino).and_then(|inode| inode.xattr(name));
        for record in self.records() {
            match record {
                Record::SetXattr { ino: of, name: n, value: new } if (of, n) == (ino, name) => {
                    value = Some(new);
                }
                Record::RemoveXattr { ino: of, name: n } if (of, n) == (ino, name) => value = None,
                Record::Drop { ino: of } if of == ino => value = None,
                _ => {}
            }
        }
        value
    }

    /// An inode of the upper as it is without the records put so far.
    pub fn committed(&self, ino: InodeNo) -> Option<&Inode> {
        self.st.tree.get(ino)
    }

    /// Journals and applies. `urgency` tells whether the change sets space free and may use what is kept back
    /// for that.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO` and what the host says of the append: nothing has changed then. `EIO` also where a record
    /// does not fit the tree, which is a bug of this program: the mount is read-only from then on.
    pub fn commit(mut self, urgency: Urgency) -> Result<WriteState<'a>> {
        if self.frame.is_empty() {
            return Ok(self.st);
        }
        let st = &mut *self.st;
        let appended = match &mut st.log {
            Some(log) => log.append(&self.frame, urgency),
            None => Err(Errno::IO),
        };
        let done = appended.and_then(|()| {
            st.unsynced_since.get_or_insert_with(Instant::now);
            self.overlay.apply(st, &self.frame)?;
            st.links.extend(self.new_links.drain(..));
            Ok(())
        });
        st.spare_frame = self.frame;
        done.map(|()| self.st)
    }
}

impl Overlay {
    /// Applies a frame that the journal has, and returns the blocks it sets free.
    fn apply(&self, st: &mut State, frame: &[u8]) -> Result<()> {
        let mut freed = std::mem::take(&mut st.spare_freed);
        let unlinked = st.tree.unlinked();
        let broken = decode_all(frame).find_map(|record| match record {
            Ok(record) => st.tree.apply(&record, &mut freed).err().map(|broken| broken.to_string()),
            Err(_) => Some("a record that cannot be read".into()),
        });
        freed.drain(..).for_each(|extent| self.store.free(extent));
        st.spare_freed = freed;
        match st.tree.unlinked().cmp(&unlinked) {
            Ordering::Greater => self.room.note_unlinked(),
            Ordering::Less => self.room.note_dropped(),
            Ordering::Equal => {}
        }
        if let Some(broken) = broken {
            // The journal would not replay either: upkeep replaces it by an image of the tree.
            st.unreplayable = true;
            self.fail_read_only(&format!("a change does not fit the tree: {broken}"));
            self.upkeep.note_change();
            return Err(Errno::IO);
        }
        self.upkeep.note_change();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
