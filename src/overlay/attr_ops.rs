//! getattr, setattr, readlink.

use super::{Overlay, acl};
use crate::attr::{Attr, Caller, FileType, InodeNo, SetAttr, SetTime, Time};
use crate::errno::{Errno, Result};
use crate::journal::Urgency;
use crate::journal::record::{InodeImage, Record};
use crate::upper::Kind;

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o010;
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// A mode without what a write or a change of owner takes away: setuid, and setgid where the group
/// may execute or the caller is a stranger to it (`setattr_should_drop_suidgid`).
pub(super) fn without_privilege(mode: u32, in_group: bool) -> u32 {
    let sgid = if mode & S_IXGRP != 0 || !in_group { S_ISGID } else { 0 };
    mode & !(S_ISUID | sgid)
}

impl Overlay {
    pub fn getattr(&self, ino: InodeNo) -> Result<Attr> {
        self.state.read().attr(ino)
    }

    pub fn readlink(&self, ino: InodeNo) -> Result<Vec<u8>> {
        let at = {
            let st = self.state.read();
            match st.tree.get(ino).map(|inode| inode.kind()) {
                Some(Kind::Symlink(target)) => return Ok(target.to_vec()),
                Some(_) => return Err(Errno::INVAL),
                None => st.node(ino)?.lower.as_ref().ok_or(Errno::STALE)?.at.clone(),
            }
        };
        self.stack.readlink(&at)
    }

    /// Whether `caller` counts as in the file's group for [`without_privilege`]. Asks the host where that
    /// makes a difference, so no lock is to be held.
    pub(super) fn counts_as_in_group(&self, ino: InodeNo, caller: &Caller) -> Result<bool> {
        let attr = self.getattr(ino)?;
        let matters = attr.mode & (S_ISGID | S_IXGRP) == S_ISGID;
        Ok(!matters || caller.is_in_group_or_capable(attr.gid))
    }

    /// Whether this takes setuid and setgid away with nothing else: chown(2) that names no id. The kernel asks
    /// the same before anybody's write to a file with privileges (`file_remove_privs` in its fs/inode.c), and
    /// the write then says whether they go. An owner without CAP_FSETID loses them either way. A chown
    /// by anybody else is not told from a write.
    fn is_chown_of_nothing(&self, ino: InodeNo, set: &SetAttr, caller: &Caller) -> Result<bool> {
        if !set.is_empty() {
            return Ok(false);
        }
        let attr = self.getattr(ino)?;
        Ok(attr.mode & (S_ISUID | S_ISGID) != 0 && caller.is_owner_without_fsetid(attr.uid))
    }

    /// Changes attributes; returns all of them. A new size takes effect together with the rest.
    pub fn setattr(&self, ino: InodeNo, set: &SetAttr, caller: &Caller) -> Result<Attr> {
        let _io = set.size.map(|_| self.io_lock(ino));
        // The kernel's own time of the change, where it keeps the times.
        let now = set.ctime.unwrap_or_else(|| self.clock.now());
        let new_owner = set.uid.is_some() || set.gid.is_some();
        let strips = new_owner
            || set.kill_suidgid && set.size.is_some()
            || self.is_chown_of_nothing(ino, set, caller)?;
        if !strips && set.is_of_times() {
            if let Some(attr) = self.set_times_of_unlinked(ino, set, now)? {
                return Ok(attr);
            }
        }
        let in_group = !strips || self.counts_as_in_group(ino, caller)?;
        let prepared = self.prepare(ino)?;
        if let Some(size) = set.size {
            self.clear_tail(ino, size)?;
        }
        let mut tx = self.begin_at(now)?;
        let old = tx.copy_up(ino, &prepared)?;
        let mut image = old;
        if let Some(size) = set.size {
            if FileType::from_mode(old.mode) != Some(FileType::Regular) {
                return Err(Errno::INVAL);
            }
            check_size(size)?;
            tx.put(Record::Size { ino, size, origin_len: Some(size) });
            (image.size, image.mtime) = (size, tx.now);
        }
        if strips && FileType::from_mode(image.mode) != Some(FileType::Directory) {
            image.mode = without_privilege(image.mode, in_group);
        }
        change(&mut image, set, tx.now);
        tx.put(Record::Inode { ino, image });
        let loses_capability =
            (new_owner || set.size.is_some()) && tx.xattr(ino, CAPABILITY).is_some();
        let new_acl = match set.mode {
            Some(_) => tx.xattr(ino, acl::ACCESS).and_then(|own| acl::chmod(own, image.mode)),
            None => None,
        };
        if loses_capability {
            tx.put(Record::RemoveXattr { ino, name: CAPABILITY });
        }
        if let Some(value) = &new_acl {
            tx.put(Record::SetXattr { ino, name: acl::ACCESS, value });
        }
        let frees = set.size.is_some_and(|size| size < old.size);
        let st = tx.commit(if frees { Urgency::Freeing } else { Urgency::Normal })?;
        st.attr(ino)
    }
}

impl Overlay {
    /// The times of a file of a layer that was unlinked are nobody's when the mount ends: they need no record.
    /// (The kernel's writeback cache sends them after each unlink.) `None` for any other inode.
    fn set_times_of_unlinked(
        &self,
        ino: InodeNo,
        set: &SetAttr,
        now: Time,
    ) -> Result<Option<Attr>> {
        let mut st = self.state.write();
        if st.log.is_none() || st.tree.contains(ino) {
            return Ok(None);
        }
        let lower = st.nodes.get_mut(&ino).and_then(|node| node.lower.as_deref_mut());
        let Some(lower) = lower.filter(|lower| lower.attr.nlink == 0) else { return Ok(None) };
        let attr = &mut lower.attr;
        attr.atime = resolve(set.atime, now, attr.atime);
        attr.mtime = resolve(set.mtime, now, attr.mtime);
        attr.ctime = now;
        Ok(Some(*attr))
    }
}

fn resolve(time: Option<SetTime>, now: Time, old: Time) -> Time {
    match time {
        None => old,
        Some(SetTime::Now) => now,
        Some(SetTime::At(time)) => time,
    }
}

/// EFBIG for a size that no file offset reaches.
pub(super) fn check_size(size: u64) -> Result<()> {
    if size > i64::MAX as u64 { Err(Errno::FBIG) } else { Ok(()) }
}

fn change(image: &mut InodeImage, set: &SetAttr, now: Time) {
    if let Some(mode) = set.mode {
        image.mode = image.mode & 0o170000 | mode & 0o7777;
    }
    image.uid = set.uid.unwrap_or(image.uid);
    image.gid = set.gid.unwrap_or(image.gid);
    image.atime = resolve(set.atime, now, image.atime);
    image.mtime = resolve(set.mtime, now, image.mtime);
    image.ctime = now;
}
