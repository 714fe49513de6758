//! rename, with its flags. A merged directory moves like any other: what lies below it travels with
//! its inode, so this is one entry less here and one more there, whatever the directory holds.

use super::Overlay;
use super::lookup::{check_name, is_empty};
use super::remove::{Probed, Target, note_unlinked, target, unlink_inode};
use super::txn::Txn;
use crate::attr::{Caller, FileType, InodeNo};
use crate::errno::{Errno, Result};
use crate::journal::Urgency;
use crate::journal::record::{InodeImage, Record};
use crate::upper::Dentry;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;
const WHITEOUT: u32 = 4;

/// One side of a rename.
struct Side<'a> {
    parent: InodeNo,
    name: &'a [u8],
    probed: Probed,
}

impl Overlay {
    /// `flags`: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT (renameat2(2)).
    pub fn rename(
        &self,
        parent: InodeNo,
        name: &OsStr,
        new_parent: InodeNo,
        new_name: &OsStr,
        flags: u32,
        caller: &Caller,
    ) -> Result<()> {
        if flags & !(NOREPLACE | EXCHANGE | WHITEOUT) != 0
            || flags & EXCHANGE != 0 && flags & (NOREPLACE | WHITEOUT) != 0
        {
            return Err(Errno::INVAL);
        }
        let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
        check_name(name)?;
        check_name(new_name)?;
        let exchange = flags & EXCHANGE != 0;
        let from = Side { parent, name, probed: self.probe_target(parent, name, true)? };
        let to = Side {
            parent: new_parent,
            name: new_name,
            probed: self.probe_target(new_parent, new_name, exchange)?,
        };
        let raised_parents = (self.prepare(parent)?, self.prepare(new_parent)?);
        let mut tx = self.begin()?;
        let source = target(&mut tx, parent, name, &from.probed)?.ok_or(Errno::NOENT)?;
        let victim = target(&mut tx, new_parent, new_name, &to.probed)?;
        if flags & NOREPLACE != 0 && victim.is_some() {
            return Err(Errno::EXIST);
        }
        if (parent, name) == (new_parent, new_name)
            || victim.as_ref().is_some_and(|victim| victim.ino == source.ino)
        {
            return Ok(());
        }
        tx.raise(parent, &raised_parents.0)?;
        if parent != new_parent && tx.raise(new_parent, &raised_parents.1)?.nlink == 0 {
            return Err(Errno::NOENT);
        }
        let image = tx.raise(source.ino, &from.probed.raised)?;
        let gone = match (exchange, &victim) {
            (true, Some(victim)) => {
                swap(&mut tx, &from, &source, &to, victim, image).map(|()| false)
            }
            (true, None) => Err(Errno::NOENT),
            (false, victim) => {
                let whiteout = (flags & WHITEOUT != 0).then_some(caller);
                displace(&mut tx, &from, &source, &to, victim.as_ref(), image, whiteout)
            }
        }?;
        tx.touch(parent);
        tx.touch(new_parent);
        let now = tx.now;
        let mut st = tx.commit(Urgency::Normal)?;
        if let Some(victim) = victim.filter(|_| gone) {
            note_unlinked(&mut st, victim.ino, now);
        }
        if let Some(node) = st.nodes.get_mut(&source.ino) {
            node.parent = new_parent;
        }
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
    image: InodeImage,
    whiteout: Option<&Caller>,
) -> Result<bool> {
    if let Some(victim) = victim {
        match (source.is_dir, victim.is_dir) {
            (true, false) => return Err(Errno::NOTDIR),
            (false, true) => return Err(Errno::ISDIR),
            _ => {}
        }
        if victim.is_dir && !is_empty(tx.inode(victim.ino), to.probed.listing.as_deref()) {
            return Err(Errno::NOTEMPTY);
        }
    }
    let covers = match victim {
        Some(victim) => victim.covers,
        None => tx.dentry(to.parent, to.name) == Some(Dentry::Whiteout),
    };
    let whiteout_ino = whiteout.map(|caller| leave_whiteout(tx, caller)).transpose()?;
    match whiteout_ino {
        Some(ino) => tx.put(Record::Link {
            parent: from.parent,
            ino,
            covers: source.covers,
            name: from.name,
        }),
        None => tx.remove_entry(from.parent, from.name, source.covers),
    }
    place(tx, source.ino, image, to, covers);
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
    image: InodeImage,
) -> Result<()> {
    let victim_image = tx.raise(victim.ino, &to.probed.raised)?;
    place(tx, source.ino, image, to, victim.covers);
    place(tx, victim.ino, victim_image, from, source.covers);
    if let Some(node) = tx.st().nodes.get_mut(&victim.ino) {
        node.parent = from.parent;
    }
    Ok(())
}

fn place(tx: &mut Txn<'_>, ino: InodeNo, mut image: InodeImage, at: &Side<'_>, covers: bool) {
    image.ctime = tx.now;
    tx.put(Record::Inode { ino, image });
    tx.put(Record::Link { parent: at.parent, ino, covers, name: at.name });
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
