//! Making inodes and giving them names: mknod, mkdir, symlink, create, tmpfile, link.

use super::lookup::enter;
use super::{Entry, Overlay, acl};
use crate::attr::{Caller, FileType, InodeNo};
use crate::errno::{Errno, Result};
use crate::journal::Urgency;
use crate::journal::record::{InodeImage, Record};
use crate::name::check_name;
use crate::upper::Dentry;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// What a new inode is to be. `mode` has the type bits.
struct NewInode<'a> {
    mode: u32,
    rdev: u32,
    umask: u32,
    target: &'a [u8],
    caller: &'a Caller,
}

const S_ISGID: u32 = 0o2000;

impl Overlay {
    /// Makes a file that is neither a directory nor a symbolic link. `mode` has the type.
    ///
    /// # Errors
    /// `EEXIST`; `ENOENT` where the parent was removed; `EINVAL` for another type; `EROFS`, `ENOSPC`, `EIO`; what the
    /// host says of a layer.
    pub fn mknod(
        &self,
        parent: InodeNo,
        name: &OsStr,
        mode: u32,
        rdev: u32,
        umask: u32,
        caller: &Caller,
    ) -> Result<Entry> {
        let rdev = match FileType::from_mode(mode) {
            None | Some(FileType::Directory | FileType::Symlink) => return Err(Errno::INVAL),
            Some(FileType::Char | FileType::Block) => rdev,
            Some(_) => 0,
        };
        self.make(parent, Some(name), NewInode { mode, rdev, umask, target: b"", caller })
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`Overlay::mknod`].
    pub fn mkdir(
        &self,
        parent: InodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        caller: &Caller,
    ) -> Result<Entry> {
        let mode = mode & 0o7777 | FileType::Directory.mode_bits();
        self.make(parent, Some(name), NewInode { mode, rdev: 0, umask, target: b"", caller })
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// `ENOENT` for an empty target, `ENAMETOOLONG` for one beyond 4095 bytes; otherwise as [`Overlay::mknod`].
    pub fn symlink(
        &self,
        parent: InodeNo,
        name: &OsStr,
        target: &OsStr,
        caller: &Caller,
    ) -> Result<Entry> {
        let target = target.as_bytes();
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        if target.len() > 4095 {
            return Err(Errno::NAMETOOLONG);
        }
        let mode = 0o777 | FileType::Symlink.mode_bits();
        self.make(parent, Some(name), NewInode { mode, rdev: 0, umask: 0, target, caller })
    }

    /// Makes a regular file; the kernel holds it open with the given open flags.
    ///
    /// # Errors
    /// As [`Overlay::mknod`].
    pub fn create(
        &self,
        parent: InodeNo,
        name: &OsStr,
        flags: u32,
        mode: u32,
        umask: u32,
        caller: &Caller,
    ) -> Result<Entry> {
        let mode = mode & 0o7777 | FileType::Regular.mode_bits();
        let new = NewInode { mode, rdev: 0, umask, target: b"", caller };
        let entry = self.make(parent, Some(name), new)?;
        self.count_writer(entry.attr.ino, flags);
        Ok(entry)
    }

    /// A regular file without a name (O_TMPFILE), which `link` may give one.
    ///
    /// # Errors
    /// As [`Overlay::mknod`], but `EEXIST`.
    pub fn tmpfile(
        &self,
        parent: InodeNo,
        flags: u32,
        mode: u32,
        umask: u32,
        caller: &Caller,
    ) -> Result<Entry> {
        let mode = mode & 0o7777 | FileType::Regular.mode_bits();
        let new = NewInode { mode, rdev: 0, umask, target: b"", caller };
        let entry = self.make(parent, None, new)?;
        self.count_writer(entry.attr.ino, flags);
        Ok(entry)
    }

    fn make(&self, parent: InodeNo, name: Option<&OsStr>, new: NewInode<'_>) -> Result<Entry> {
        self.make_child(parent, name, &new)
    }

    fn make_child(
        &self,
        parent: InodeNo,
        name: Option<&OsStr>,
        new: &NewInode<'_>,
    ) -> Result<Entry> {
        let name = name.map(OsStr::as_bytes);
        let exists_below = match name {
            Some(name) => {
                check_name(name)?;
                self.probe(parent, name)?.is_some()
            }
            None => false,
        };
        let copy = self.prepare(parent)?;
        let mut tx = self.begin()?;
        let hides_lower = match name.and_then(|name| tx.dentry(parent, name)) {
            Some(Dentry::Inode { .. }) => return Err(Errno::EXIST),
            Some(Dentry::Whiteout) => true,
            None if exists_below => return Err(Errno::EXIST),
            None => false,
        };
        let dir = tx.copy_up(parent, &copy)?;
        if dir.nlink == 0 {
            return Err(Errno::NOENT);
        }
        let default_acl = tx.xattr(parent, acl::DEFAULT).map(Vec::from);
        let ino = tx.new_number()?;
        let (image, inherited) =
            new_image(new, &dir, default_acl.as_deref(), name.is_some(), tx.now);
        tx.put(Record::Inode { ino, image });
        if !new.target.is_empty() {
            tx.put(Record::Target { ino, target: new.target });
        }
        for (name, value) in &inherited {
            tx.put(Record::SetXattr { ino, name, value });
        }
        if let Some(name) = name {
            tx.put(Record::Link { parent, ino, hides_lower, name });
            tx.touch(parent);
        }
        let mut st = tx.commit(Urgency::Normal)?;
        enter(&mut st, ino, parent, None)
    }

    /// Gives an inode one more name.
    ///
    /// # Errors
    /// `EPERM` for a directory, `EMLINK`; otherwise as [`Overlay::mknod`].
    pub fn link(&self, ino: InodeNo, new_parent: InodeNo, new_name: &OsStr) -> Result<Entry> {
        let name = new_name.as_bytes();
        check_name(name)?;
        let exists_below = self.probe(new_parent, name)?.is_some();
        let (copy, parent_copy) = (self.prepare(ino)?, self.prepare(new_parent)?);
        let mut tx = self.begin()?;
        let hides_lower = match tx.dentry(new_parent, name) {
            Some(Dentry::Inode { .. }) => return Err(Errno::EXIST),
            Some(Dentry::Whiteout) => true,
            None if exists_below => return Err(Errno::EXIST),
            None => false,
        };
        let dir = tx.copy_up(new_parent, &parent_copy)?;
        if dir.nlink == 0 {
            return Err(Errno::NOENT);
        }
        let mut image = tx.copy_up(ino, &copy)?;
        if FileType::from_mode(image.mode) == Some(FileType::Directory) {
            return Err(Errno::PERM);
        }
        image.nlink = image.nlink.checked_add(1).ok_or(Errno::MLINK)?;
        image.ctime = tx.now;
        tx.put(Record::Inode { ino, image });
        tx.put(Record::Link { parent: new_parent, ino, hides_lower, name });
        tx.touch(new_parent);
        let mut st = tx.commit(Urgency::Normal)?;
        enter(&mut st, ino, new_parent, None)
    }
}

/// Name and value.
type Xattr = (&'static [u8], Vec<u8>);

/// The attributes of a new inode, and the ACLs it inherits. Owner and group as `inode_init_owner`
/// in the kernel's fs/inode.c; ACLs as `posix_acl_create` in fs/posix_acl.c.
fn new_image(
    new: &NewInode<'_>,
    dir: &InodeImage,
    default_acl: Option<&[u8]>,
    named: bool,
    now: crate::attr::Time,
) -> (InodeImage, Vec<Xattr>) {
    let kind = FileType::from_mode(new.mode);
    let mut mode = new.mode;
    let mut inherited: Vec<Xattr> = Vec::new();
    match default_acl {
        Some(default) if kind != Some(FileType::Symlink) => {
            let (access, masked) = acl::inherit(default, mode);
            mode = masked;
            inherited.extend(access.map(|bytes| (acl::ACCESS, bytes)));
            if kind == Some(FileType::Directory) {
                inherited.push((acl::DEFAULT, default.to_vec()));
            }
        }
        _ => mode &= !(new.umask & 0o777),
    }
    let mut gid = new.caller.gid;
    if dir.mode & S_ISGID != 0 {
        gid = dir.gid;
        if kind == Some(FileType::Directory) {
            mode |= S_ISGID;
        }
    }
    let image = InodeImage {
        mode,
        uid: new.caller.uid,
        gid,
        nlink: u32::from(named),
        rdev: new.rdev,
        size: new.target.len() as u64,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    };
    (image, inherited)
}
