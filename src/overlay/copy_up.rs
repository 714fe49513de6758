//! Metadata copy-up: a lower inode becomes one of the upper because something about it changes. Attributes and xattrs
//! are copied, data stay where they are. As in overlayfs, its entry and its ancestors become the upper's too.

use super::Overlay;
use super::lower::{Found, Lower};
use super::state::State;
use super::txn::Txn;
use crate::attr::{Attr, FileType, InodeNo, LowerPath};
use crate::errno::{Errno, Result};
use crate::journal::record::{BelowImage, InodeImage, OriginImage, Record, Stamp};
use crate::layer::FileKey;
use crate::upper::Dentry;
use smallvec::SmallVec;

/// What is copied up of one lower inode and of its ancestors that the upper does not have. Gathered without a lock:
/// layers never change.
#[derive(Debug)]
pub(super) struct CopyUp {
    /// The inode, its parent, and so on.
    steps: SmallVec<[Step; 1]>,
}

/// One inode to be copied up.
#[derive(Debug)]
struct Step {
    ino: InodeNo,
    parent: InodeNo,
    image: InodeImage,
    at: LowerPath,
    /// 512-byte units on the host.
    blocks: u64,
    /// Of a file with several names.
    key: Option<FileKey>,
    target: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A lower inode that the upper does not have.
struct Place {
    ino: InodeNo,
    parent: InodeNo,
    attr: Attr,
    at: LowerPath,
    /// It is known to have no extended attribute.
    no_xattrs: bool,
}

type Places = SmallVec<[Place; 1]>;

/// Adds `ino` and its ancestors, as far as the upper does not have them.
fn add_places(st: &State, mut ino: InodeNo, places: &mut Places) -> Result<()> {
    while !st.tree.contains(ino) {
        let node = st.node(ino)?;
        let lower = node.lower.as_deref().ok_or(Errno::STALE)?;
        let no_xattrs = node.no_xattrs.get() == Some(true);
        let (attr, at, parent) = (lower.attr, lower.at.clone(), node.parent);
        places.push(Place { ino, parent, attr, at, no_xattrs });
        // What was unlinked has no entry.
        if ino == InodeNo::ROOT || attr.nlink == 0 {
            break;
        }
        ino = parent;
    }
    Ok(())
}

impl Overlay {
    /// Gathers what [`Txn::copy_up`] needs; `None` where the upper has the inode already.
    ///
    /// # Errors
    /// `EROFS`; `ESTALE` for what the kernel has forgotten; what the host says.
    pub(super) fn prepare(&self, ino: InodeNo) -> Result<Option<CopyUp>> {
        let mut places = Places::new();
        add_places(&self.state.read(), ino, &mut places)?;
        self.gather_all(&places)
    }

    /// The same for an inode that was only just found in the layers as a name in `parent`, and numbered.
    pub(super) fn prepare_found(&self, parent: InodeNo, found: &Found) -> Result<Option<CopyUp>> {
        let Lower { attr, at, .. } = &found.lower;
        let mut places = Places::new();
        {
            let st = self.state.read();
            if st.tree.contains(attr.ino) {
                return Ok(None);
            }
            if st.nodes.contains_key(&attr.ino) {
                add_places(&st, attr.ino, &mut places)?;
            } else {
                let (ino, at) = (attr.ino, at.clone());
                places.push(Place { ino, parent, attr: *attr, at, no_xattrs: false });
                add_places(&st, parent, &mut places)?;
            }
        }
        self.gather_all(&places)
    }

    fn gather_all(&self, places: &Places) -> Result<Option<CopyUp>> {
        if places.is_empty() {
            return Ok(None);
        }
        self.writable()?;
        let steps = places.iter().map(|place| self.gather(place)).collect::<Result<_>>()?;
        Ok(Some(CopyUp { steps }))
    }

    fn gather(&self, place: &Place) -> Result<Step> {
        let Place { ino, parent, ref attr, ref at, no_xattrs } = *place;
        let xattrs = if no_xattrs { Vec::new() } else { self.stack.xattrs(at)? };
        let kind = attr.file_type();
        let target = match kind {
            FileType::Symlink => self.stack.readlink(at)?,
            _ => Vec::new(),
        };
        let key = match attr.is_dir() || attr.nlink <= 1 {
            true => None,
            false => Some(self.stack.stat_with_key(at)?.1),
        };
        let image = image_of(attr);
        Ok(Step { ino, parent, image, at: at.clone(), blocks: attr.blocks, key, target, xattrs })
    }
}

/// The attributes that the upper keeps.
pub(super) fn image_of(attr: &Attr) -> InodeImage {
    InodeImage {
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        nlink: attr.nlink,
        rdev: attr.rdev,
        size: if attr.is_dir() { 0 } else { attr.size },
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        btime: attr.btime,
    }
}

impl Txn<'_> {
    /// Makes a lower inode one of the upper, unless it has become that in the meantime; returns its
    /// image. Never stopped by the limit of inodes: a full view must stay one that can be tidied up.
    /// `prepared` comes from [`Overlay::prepare`], before the lock was taken.
    ///
    /// # Errors
    /// `ESTALE` where the upper no longer has what it had when `prepared` was made.
    pub fn copy_up(&mut self, ino: InodeNo, prepared: &Option<CopyUp>) -> Result<InodeImage> {
        if let Some(image) = self.image(ino) {
            return Ok(image);
        }
        let prepared = prepared.as_ref().ok_or(Errno::STALE)?;
        for step in prepared.steps.iter().rev() {
            if self.image(step.ino).is_none() {
                self.copy_up_one(step)?;
            }
        }
        self.image(ino).ok_or(Errno::STALE)
    }

    fn copy_up_one(&mut self, step: &Step) -> Result<()> {
        let ino = step.ino;
        let mut image = step.image;
        if let Some(lower) = self.st().nodes.get(&ino).and_then(|n| n.lower.as_deref()) {
            // An unlinked but open file.
            let Attr { nlink, atime, mtime, ctime, .. } = lower.attr;
            image = InodeImage { nlink, atime, mtime, ctime, ..image };
        }
        self.put(Record::Inode { ino, image });
        for (name, value) in &step.xattrs {
            self.put(Record::SetXattr { ino, name, value });
        }
        if !step.target.is_empty() {
            self.put(Record::Target { ino, target: &step.target });
        }
        if image.is_dir() {
            self.put(Record::Below { ino, below: BelowImage::SameName, untouched: true });
        } else {
            self.put_origin(step)?;
        }
        if ino == InodeNo::ROOT || image.nlink == 0 {
            return Ok(());
        }
        let name = last_name(&step.at.path);
        match self.dentry(step.parent, name) {
            None => {
                self.put(Record::Link { parent: step.parent, ino, hides_lower: true, name });
                Ok(())
            }
            Some(Dentry::Inode { .. } | Dentry::Whiteout) => Err(Errno::STALE),
        }
    }

    /// Says what the inode was, where that is needed again: for a file's data and for its other names.
    fn put_origin(&mut self, step: &Step) -> Result<()> {
        let is_regular = FileType::from_mode(step.image.mode) == Some(FileType::Regular);
        if !is_regular && step.key.is_none() {
            return Ok(());
        }
        let layer = self.recorded_layer(step.at.layer)?;
        let InodeImage { size, mtime, .. } = step.image;
        let origin = OriginImage {
            layer,
            len: if is_regular { size } else { 0 },
            stamp: Stamp { size, mtime },
            blocks: u32::try_from(step.blocks).unwrap_or(u32::MAX),
            several_names: step.key.is_some(),
        };
        self.put(Record::Origin { ino: step.ino, origin, path: &step.at.path });
        if let Some(key) = step.key {
            self.note_link(key, step.ino);
        }
        Ok(())
    }
}

/// The last name of a path.
pub(super) fn last_name(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}
