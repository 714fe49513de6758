//! Extended attributes. The kernel has checked who may; an ACL set here also sets the mode.

use super::attr_ops::CAPABILITY;
use super::{Overlay, acl};
use crate::attr::{Caller, InodeNo, LowerPath};
use crate::errno::{Errno, Result};
use crate::journal::Urgency;
use crate::journal::record::Record;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

const CREATE: u32 = 1;
const REPLACE: u32 = 2;
const S_ISGID: u32 = 0o2000;
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

impl Overlay {
    /// ENODATA where there is none.
    pub fn getxattr(&self, ino: InodeNo, name: &OsStr) -> Result<Vec<u8>> {
        let name = name.as_bytes();
        let (at, no_xattrs) = {
            let st = self.state.read();
            if let Some(inode) = st.tree.get(ino) {
                return inode.xattr(name).map(Vec::from).ok_or(Errno::NODATA);
            }
            let node = st.node(ino)?;
            let at = node.lower.as_ref().ok_or(Errno::STALE)?.at.clone();
            (at, node.no_xattrs.get())
        };
        // Most files have none, and are asked for several: whether they have any is asked first.
        let no_xattrs = match no_xattrs {
            _ if !is_listed(name) || !self.stack.lists_all_xattrs(at.layer) => false,
            None => self.lower_xattr_names(ino, &at).is_ok_and(|names| names.is_none()),
            Some(no_xattrs) => no_xattrs,
        };
        if no_xattrs { Err(Errno::NODATA) } else { self.stack.getxattr(&at, name) }
    }

    /// The names that a lower shows; `None` where the host lists none at all.
    fn lower_xattr_names(&self, ino: InodeNo, at: &LowerPath) -> Result<Option<Vec<u8>>> {
        let names = self.stack.listxattr(at)?;
        self.note_no_xattrs(ino, names.is_none() && self.stack.lists_all_xattrs(at.layer));
        Ok(names)
    }

    /// Notes whether the lower of `ino` has no extended attribute.
    pub(super) fn note_no_xattrs(&self, ino: InodeNo, no_xattrs: bool) {
        if let Some(node) = self.state.read().nodes.get(&ino) {
            node.no_xattrs.set(no_xattrs);
        }
    }

    /// The names, each followed by a NUL; those of the `trusted` namespace only for who may use it
    /// (xattr(7)): the kernel leaves this to the file system.
    pub fn listxattr(&self, ino: InodeNo, caller: &Caller) -> Result<Vec<u8>> {
        let names = self.all_xattr_names(ino)?;
        let each = || names.split_inclusive(|b| *b == 0);
        let is_trusted = |name: &&[u8]| name.starts_with(b"trusted.");
        if !each().any(|name| is_trusted(&name)) || caller.sees_trusted_xattrs() {
            return Ok(names);
        }
        Ok(each().filter(|name| !is_trusted(name)).flatten().copied().collect())
    }

    fn all_xattr_names(&self, ino: InodeNo) -> Result<Vec<u8>> {
        let at = {
            let st = self.state.read();
            if let Some(inode) = st.tree.get(ino) {
                return Ok(inode.xattrs().flat_map(|(name, _)| [name, &[0]].concat()).collect());
            }
            let node = st.node(ino)?;
            if node.no_xattrs.get() == Some(true) {
                return Ok(Vec::new());
            }
            node.lower.as_ref().ok_or(Errno::STALE)?.at.clone()
        };
        self.lower_xattr_names(ino, &at).map(Option::unwrap_or_default)
    }

    /// `flags`: XATTR_CREATE or XATTR_REPLACE (setxattr(2)). `kill_sgid`: an ACL set by somebody
    /// outside the group without CAP_FSETID.
    pub fn setxattr(
        &self,
        ino: InodeNo,
        name: &OsStr,
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> Result<()> {
        let name = name.as_bytes();
        check_name(name)?;
        let prepared = self.prepare(ino)?;
        let mut tx = self.begin()?;
        let mut image = tx.copy_up(ino, &prepared)?;
        let exists = tx.xattr(ino, name).is_some();
        if exists && flags & CREATE != 0 {
            return Err(Errno::EXIST);
        }
        if !exists && flags & REPLACE != 0 {
            return Err(Errno::NODATA);
        }
        let mut keep = true;
        if name == acl::ACCESS {
            (image.mode, keep) = acl::mode_from(value, image.mode).ok_or(Errno::INVAL)?;
            if kill_sgid {
                image.mode &= !S_ISGID;
            }
        }
        image.ctime = tx.now;
        tx.put(Record::Inode { ino, image });
        if keep {
            tx.put(Record::SetXattr { ino, name, value });
        } else if exists {
            tx.put(Record::RemoveXattr { ino, name });
        }
        tx.commit(Urgency::Normal).map(drop)
    }

    /// ENODATA where there is none.
    pub fn removexattr(&self, ino: InodeNo, name: &OsStr) -> Result<()> {
        let name = name.as_bytes();
        check_name(name)?;
        let prepared = self.prepare(ino)?;
        let mut tx = self.begin()?;
        let mut image = tx.copy_up(ino, &prepared)?;
        let exists = tx.xattr(ino, name).is_some();
        if !exists {
            // As on ext4: an ACL that is not there is as good as removed.
            let is_acl = name == acl::ACCESS || name == acl::DEFAULT;
            return if is_acl { Ok(()) } else { Err(Errno::NODATA) };
        }
        image.ctime = tx.now;
        tx.put(Record::Inode { ino, image });
        tx.put(Record::RemoveXattr { ino, name });
        tx.commit(Urgency::Normal).map(drop)
    }
}

/// Whether an attribute of this name is listed where it is. (Labels of security modules may not be.)
fn is_listed(name: &[u8]) -> bool {
    let is_user = name.strip_prefix(b"user.").is_some_and(|rest| !rest.is_empty());
    is_user || [acl::ACCESS, acl::DEFAULT, CAPABILITY].contains(&name)
}

/// ERANGE for a name of no length or beyond 255 bytes, EOPNOTSUPP for one in no namespace of
/// xattr(7), EINVAL for one that is a namespace only. The kernel hands every name on.
fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > 255 {
        return Err(Errno::RANGE);
    }
    if name == acl::ACCESS || name == acl::DEFAULT {
        return Ok(());
    }
    match NAMESPACES.iter().find_map(|namespace| name.strip_prefix(*namespace)) {
        None => Err(Errno::OPNOTSUPP),
        Some(b"") => Err(Errno::INVAL),
        Some(_) => Ok(()),
    }
}
