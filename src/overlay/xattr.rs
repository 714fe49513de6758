//! Extended attributes. The kernel has checked who may; an ACL set here also sets the mode.

use super::{Overlay, acl};
use crate::attr::InodeNo;
use crate::errno::{Errno, Result};
use crate::journal::Urgency;
use crate::journal::record::Record;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

const CREATE: u32 = 1;
const REPLACE: u32 = 2;
const S_ISGID: u32 = 0o2000;

impl Overlay {
    /// ENODATA where there is none.
    pub fn getxattr(&self, ino: InodeNo, name: &OsStr) -> Result<Vec<u8>> {
        let at = {
            let st = self.state.read();
            if let Some(inode) = st.tree.get(ino) {
                return inode.xattr(name.as_bytes()).map(Vec::from).ok_or(Errno::NODATA);
            }
            st.node(ino)?.lower.as_ref().ok_or(Errno::STALE)?.at.clone()
        };
        self.stack.getxattr(&at, name.as_bytes())
    }

    /// The names, each followed by a NUL.
    pub fn listxattr(&self, ino: InodeNo) -> Result<Vec<u8>> {
        let at = {
            let st = self.state.read();
            if let Some(inode) = st.tree.get(ino) {
                return Ok(inode.xattrs().flat_map(|(name, _)| [name, &[0]].concat()).collect());
            }
            st.node(ino)?.lower.as_ref().ok_or(Errno::STALE)?.at.clone()
        };
        self.stack.listxattr(&at)
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
        if name.is_empty() || name.len() > 255 {
            return Err(Errno::RANGE);
        }
        let prepared = self.prepare(ino)?;
        let mut tx = self.begin()?;
        let exists = match (tx.inode(ino), &prepared) {
            (Some(inode), _) => inode.xattr(name).is_some(),
            (None, Some(raised)) => raised.xattr(name).is_some(),
            (None, None) => false,
        };
        if exists && flags & CREATE != 0 {
            return Err(Errno::EXIST);
        }
        if !exists && flags & REPLACE != 0 {
            return Err(Errno::NODATA);
        }
        let mut image = tx.raise(ino, &prepared)?;
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
        let prepared = self.prepare(ino)?;
        let mut tx = self.begin()?;
        let exists = match (tx.inode(ino), &prepared) {
            (Some(inode), _) => inode.xattr(name).is_some(),
            (None, Some(raised)) => raised.xattr(name).is_some(),
            (None, None) => false,
        };
        if !exists {
            return Err(Errno::NODATA);
        }
        let mut image = tx.raise(ino, &prepared)?;
        image.ctime = tx.now;
        tx.put(Record::Inode { ino, image });
        tx.put(Record::RemoveXattr { ino, name });
        tx.commit(Urgency::Normal).map(drop)
    }
}
