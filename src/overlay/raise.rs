//! Raising: a lower inode becomes one of the upper because something about it changes. This is
//! copy-up without the copy: attributes and xattrs are taken over, data stay where they are.

use super::Overlay;
use super::state::Lower;
use crate::attr::{Attr, FileType, InodeNo, LowerPath};
use crate::errno::{Errno, Result};
use crate::journal::record::{InodeImage, Record};
use std::sync::Arc;

/// Everything that the upper takes over of a lower inode. Gathered without a lock: layers never change.
#[derive(Debug)]
pub(super) struct Raised {
    pub image: InodeImage,
    /// Of a directory: all that is merged. Of anything else: itself.
    origins: Arc<[LowerPath]>,
    target: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Raised {
    /// The records that make the inode one of the upper.
    pub fn records(&self, ino: InodeNo, image: InodeImage, mut put: impl FnMut(Record<'_>)) {
        put(Record::Inode { ino, image });
        let regular = FileType::from_mode(image.mode) == Some(FileType::Regular);
        let len = if regular { image.size } else { 0 };
        for LowerPath { layer, path } in self.origins.iter() {
            put(Record::Origin { ino, layer: *layer, len, path });
        }
        if !self.target.is_empty() {
            put(Record::Target { ino, target: &self.target });
        }
        for (name, value) in &self.xattrs {
            put(Record::SetXattr { ino, name, value });
        }
    }
}

impl Overlay {
    /// Gathers what [`super::txn::Txn::raise`] needs; `None` where the upper has the inode already.
    /// The inode must be known to the kernel (ESTALE otherwise).
    pub(super) fn prepare(&self, ino: InodeNo) -> Result<Option<Raised>> {
        let (attr, at, dirs, bare) = {
            let st = self.state.read();
            if st.tree.contains(ino) {
                return Ok(None);
            }
            let node = st.node(ino)?;
            let lower = node.lower.as_deref().ok_or(Errno::STALE)?;
            (lower.attr, lower.at.clone(), lower.dirs.clone(), node.bare.get() == Some(true))
        };
        self.gather(&attr, at, dirs, bare).map(Some)
    }

    /// The same for an inode that was only just found in the layers.
    pub(super) fn prepare_found(&self, lower: &Lower) -> Result<Option<Raised>> {
        if self.state.read().tree.contains(lower.attr.ino) {
            return Ok(None);
        }
        self.gather(&lower.attr, lower.at.clone(), lower.dirs.clone(), false).map(Some)
    }

    /// `bare`: it is known to have no extended attribute.
    fn gather(
        &self,
        attr: &Attr,
        at: LowerPath,
        dirs: Option<Arc<[LowerPath]>>,
        bare: bool,
    ) -> Result<Raised> {
        self.writable()?;
        let xattrs = if bare { Vec::new() } else { self.stack.xattrs(&at)? };
        let kind = attr.file_type();
        let target = match kind {
            FileType::Symlink => self.stack.readlink(&at)?,
            _ => Vec::new(),
        };
        let origins: Arc<[LowerPath]> = match (kind, dirs) {
            (FileType::Directory, Some(dirs)) => dirs,
            _ => Arc::from([at]),
        };
        if origins.iter().any(|origin| origin.path.len() > usize::from(u16::MAX)) {
            return Err(Errno::NAMETOOLONG);
        }
        let image = InodeImage {
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            rdev: attr.rdev,
            size: if kind == FileType::Directory { 0 } else { attr.size },
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            btime: attr.btime,
        };
        Ok(Raised { image, origins, target, xattrs })
    }
}
