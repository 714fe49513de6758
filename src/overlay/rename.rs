//! rename, with its flags. A merged directory moves like any other: what lies below it travels with
//! its inode, so this is one entry less here and one more there, whatever the directory holds.

use super::Overlay;
use super::lookup::is_empty;
use super::remove::{Fate, Probed, Target, keep_other_names, note_unlinked, target, unlink_inode};
use super::txn::Txn;
use crate::attr::{Caller, FileType, InodeNo};
use crate::errno::{Errno, Result};
use crate::journal::Urgency;
use crate::journal::record::{BelowImage, InodeImage, Record};
use crate::name::check_name;
use crate::upper::{Below, Dentry};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// What renameat2(2) is asked for: a valid combination of its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameFlags {
    /// RENAME_EXCHANGE.
    Exchange,
    Move {
        /// RENAME_NOREPLACE.
        no_replace: bool,
        /// RENAME_WHITEOUT.
        leave_whiteout: bool,
    },
}

impl RenameFlags {
    /// From the bits of renameat2(2).
    ///
    /// # Errors
    /// `EINVAL` for unknown flags and for RENAME_EXCHANGE with another flag.
    pub fn from_bits(bits: u32) -> Result<RenameFlags> {
        use rustix::fs::RenameFlags as Bits;
        const MOVE: Bits = Bits::NOREPLACE.union(Bits::WHITEOUT);
        let has = |flag: Bits| bits & flag.bits() != 0;
        if bits == Bits::EXCHANGE.bits() {
            return Ok(RenameFlags::Exchange);
        }
        if bits & !MOVE.bits() != 0 {
            return Err(Errno::INVAL);
        }
        let (no_replace, leave_whiteout) = (has(Bits::NOREPLACE), has(Bits::WHITEOUT));
        Ok(RenameFlags::Move { no_replace, leave_whiteout })
    }
}

/// One side of a rename.
struct Side<'a> {
    parent: InodeNo,
    name: &'a [u8],
    probed: Probed,
}

impl Overlay {
    /// renameat2(2).
    ///
    /// # Errors
    /// As renameat2(2), but what the kernel has checked (permissions, a directory moved below itself).
    pub fn rename(
        &self,
        parent: InodeNo,
        name: &OsStr,
        new_parent: InodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        caller: &Caller,
    ) -> Result<()> {
        let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
        check_name(name)?;
        check_name(new_name)?;
        let (source_fate, victim_fate) = match flags {
            RenameFlags::Exchange => (Fate::Exchanged, Fate::Exchanged),
            RenameFlags::Move { .. } => (Fate::Moved, Fate::Replaced),
        };
        let from = Side { parent, name, probed: self.probe_target(parent, name, source_fate)? };
        let probed = self.probe_target(new_parent, new_name, victim_fate)?;
        let to = Side { parent: new_parent, name: new_name, probed };
        let parent_copies = (self.prepare(parent)?, self.prepare(new_parent)?);
        let mut tx = self.begin()?;
        let source = target(&mut tx, parent, name, &from.probed)?.ok_or(Errno::NOENT)?;
        let victim = target(&mut tx, new_parent, new_name, &to.probed)?;
        if matches!(flags, RenameFlags::Move { no_replace: true, .. }) && victim.is_some() {
            return Err(Errno::EXIST);
        }
        if (parent, name) == (new_parent, new_name)
            || victim.as_ref().is_some_and(|victim| victim.ino == source.ino)
        {
            return Ok(());
        }
        tx.copy_up(parent, &parent_copies.0)?;
        if parent != new_parent && tx.copy_up(new_parent, &parent_copies.1)?.nlink == 0 {
            return Err(Errno::NOENT);
        }
        tx.copy_up(source.ino, &from.probed.copy)?;
        let gone = match (flags, &victim) {
            (RenameFlags::Exchange, Some(victim)) => {
                swap(&mut tx, &from, &source, &to, victim).map(|()| false)
            }
            (RenameFlags::Exchange, None) => Err(Errno::NOENT),
            (RenameFlags::Move { leave_whiteout, .. }, victim) => {
                let whiteout = leave_whiteout.then_some(caller);
                displace(&mut tx, &from, &source, &to, victim.as_ref(), whiteout)
            }
        }?;
        tx.touch(parent);
        tx.touch(new_parent);
        let now = tx.now;
        let mut st = tx.commit(Urgency::Normal)?;
        match (flags, victim) {
            (RenameFlags::Exchange, Some(victim)) => st.set_parent(victim.ino, parent),
            (_, Some(victim)) if gone => note_unlinked(&mut st, victim.ino, now),
            _ => {}
        }
        st.set_parent(source.ino, new_parent);
        Ok(())
    }
}

/// The plain rename: `source` takes the place of `victim`, if there is one. True where the victim was
/// one of a layer's alone.
fn displace(
    tx: &mut Txn<'_>,
    from: &Side<'_>,
    source: &Target,
    to: &Side<'_>,
    victim: Option<&Target>,
    whiteout: Option<&Caller>,
) -> Result<bool> {
    if let Some(victim) = victim {
        match (source.is_dir, victim.is_dir) {
            (true, false) => return Err(Errno::NOTDIR),
            (false, true) => return Err(Errno::ISDIR),
            _ => {}
        }
        if victim.is_dir && !is_empty(tx.committed(victim.ino), to.probed.listing.as_deref()) {
            return Err(Errno::NOTEMPTY);
        }
    }
    if let Some(victim) = victim {
        keep_other_names(tx, victim, &to.probed)?;
    }
    let hides_lower = match victim {
        Some(victim) => victim.hides_lower,
        None => tx.dentry(to.parent, to.name) == Some(Dentry::Whiteout),
    };
    let whiteout_ino = whiteout.map(|caller| leave_whiteout(tx, caller)).transpose()?;
    match whiteout_ino {
        Some(ino) => tx.put(Record::Link {
            parent: from.parent,
            ino,
            hides_lower: source.hides_lower,
            name: from.name,
        }),
        None => tx.remove_entry(from.parent, from.name, from.probed.lower_has_name),
    }
    place(tx, source, from, to, hides_lower)?;
    // Last: as long as it has its entry, the tree must know what that counts as.
    match victim {
        Some(victim) => unlink_inode(tx, victim, &to.probed),
        None => Ok(false),
    }
}

fn swap(
    tx: &mut Txn<'_>,
    from: &Side<'_>,
    source: &Target,
    to: &Side<'_>,
    victim: &Target,
) -> Result<()> {
    tx.copy_up(victim.ino, &to.probed.copy)?;
    place(tx, source, from, to, victim.hides_lower)?;
    place(tx, victim, to, from, source.hides_lower)
}

/// Gives an inode of the upper that was `from` the name of `to`.
fn place(
    tx: &mut Txn<'_>,
    moved: &Target,
    from: &Side<'_>,
    to: &Side<'_>,
    hides_lower: bool,
) -> Result<()> {
    let ino = moved.ino;
    let image = tx.image(ino).ok_or(Errno::STALE)?;
    tx.put(Record::Inode { ino, image: InodeImage { ctime: tx.now, ..image } });
    tx.put(Record::Link { parent: to.parent, ino, hides_lower, name: to.name });
    // What is merged beneath a directory is no longer what has its name.
    let dir = tx.committed(ino).and_then(|inode| inode.dir());
    let is_in_place = moved.is_dir && dir.is_none_or(|dir| *dir.below() == Below::SameName);
    if is_in_place {
        let below = from.probed.view.as_deref().map_or(BelowImage::Nothing, BelowImage::Path);
        tx.put(Record::Below { ino, below, untouched: false });
    }
    Ok(())
}

/// What RENAME_WHITEOUT leaves: a character device 0:0, which a union mount on top of this one reads
/// as a whiteout.
fn leave_whiteout(tx: &mut Txn<'_>, caller: &Caller) -> Result<InodeNo> {
    let ino = tx.new_number()?;
    let now = tx.now;
    let image = InodeImage {
        mode: FileType::Char.mode_bits(),
        uid: caller.uid,
        gid: caller.gid,
        nlink: 1,
        rdev: 0,
        size: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    };
    tx.put(Record::Inode { ino, image });
    Ok(ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_checked() {
        let moved =
            |no_replace, leave_whiteout| Ok(RenameFlags::Move { no_replace, leave_whiteout });
        let want = [
            moved(false, false),
            moved(true, false),
            Ok(RenameFlags::Exchange),
            Err(Errno::INVAL),
            moved(false, true),
            moved(true, true),
            Err(Errno::INVAL),
            Err(Errno::INVAL),
            Err(Errno::INVAL),
        ];
        for (bits, want) in want.into_iter().enumerate() {
            assert_eq!(RenameFlags::from_bits(bits as u32), want, "{bits}");
        }
    }
}
