//! One object of one layer: its attributes, data, target and extended attributes.

use super::source::{Directory, FileKey, LowerFile};
use super::stack::{Stack, StackedLayer};
use crate::attr::{Attr, InodeNo, LayerId, LowerPath};
use crate::errno::{Errno, Result};
use crate::posix_acl;
use std::sync::Arc;

/// A regular file, open for reading.
#[derive(Debug)]
pub struct OpenFile {
    pub file: Arc<dyn LowerFile>,
    /// It has no extended attribute.
    pub no_xattrs: bool,
    /// The attributes of the file that was opened, whatever its name stands for by now. The number is as with
    /// [`Stack::stat`].
    pub attr: Attr,
    pub key: FileKey,
}

/// The errors of every method here: `ESTALE` for a layer or parent directory that is not there
/// (any more), `ENOENT` for a name that is not there, and the host's.
impl Stack {
    /// The attributes of an object. The number is its own in its layer, which for a merged directory
    /// is the one that [`Stack::lookup`] shows only in the lowest layer.
    ///
    /// # Errors
    /// As above.
    pub fn stat(&self, at: &LowerPath) -> Result<Attr> {
        self.stat_with_key(at).map(|(attr, _)| attr)
    }

    /// As [`Stack::stat`], with what tells the object from every other.
    ///
    /// # Errors
    /// As above.
    pub fn stat_with_key(&self, at: &LowerPath) -> Result<(Attr, FileKey)> {
        self.with_descriptors(|| {
            let (_, dir, name) = self.place(at)?;
            let found = dir.stat(name)?;
            Ok((self.attr(&found), found.key))
        })
    }

    /// Opens a regular file for reading; what is opened can never be written through.
    ///
    /// # Errors
    /// `EISDIR`, `ELOOP` (symbolic link) and `ENXIO` for what is no regular file; `EIO` for a file
    /// whose data lie elsewhere (`overlay.metacopy`).
    pub fn open_file(&self, at: &LowerPath) -> Result<OpenFile> {
        let opened = self.with_descriptors(|| {
            let (_, dir, name) = self.place(at)?;
            dir.open_file(name.ok_or(Errno::ISDIR)?)
        })?;
        if opened.lacks_data {
            tracing::warn!(
                layer = at.layer.0,
                file = %String::from_utf8_lossy(&at.path),
                "a layer has a file without its data (overlay.metacopy)"
            );
            return Err(Errno::IO);
        }
        Ok(OpenFile {
            file: opened.file,
            no_xattrs: opened.no_xattrs,
            attr: self.attr(&opened.attr),
            key: opened.attr.key,
        })
    }

    /// The file that [`Stack::keep_file`] was last given for `ino`, if it is still kept open.
    pub fn kept_file(&self, ino: InodeNo) -> Option<Arc<dyn LowerFile>> {
        self.files.get(ino)
    }

    /// Keeps `file` open for a while, as the data of `ino`. Those that were used least go first.
    pub fn keep_file(&self, ino: InodeNo, file: Arc<dyn LowerFile>) {
        self.files.insert(ino, file);
    }

    /// Closes the file that is kept open for `ino`.
    pub fn forget_file(&self, ino: InodeNo) {
        self.files.remove(ino);
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` for what is none.
    pub fn readlink(&self, at: &LowerPath) -> Result<Vec<u8>> {
        self.with_descriptors(|| {
            let (_, dir, name) = self.place(at)?;
            dir.readlink(name.ok_or(Errno::INVAL)?)
        })
    }

    /// All extended attributes, names and values, without the marks of overlay file systems.
    ///
    /// # Errors
    /// As above.
    pub fn xattrs(&self, at: &LowerPath) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut all = self.with_descriptors(|| {
            let (_, dir, name) = self.place(at)?;
            dir.xattrs(name)
        })?;
        for (name, value) in &mut all {
            self.translate(name, value);
        }
        Ok(all)
    }

    /// The value of one extended attribute.
    ///
    /// # Errors
    /// `ENODATA` where there is none of this name; marks count as absent. `EINVAL` for a name with
    /// a NUL byte.
    pub fn getxattr(&self, at: &LowerPath, name: &[u8]) -> Result<Vec<u8>> {
        let mut value = self.with_descriptors(|| {
            let (_, dir, object) = self.place(at)?;
            dir.xattr(object, name)
        })?;
        self.translate(name, &mut value);
        Ok(value)
    }

    /// Whether [`Stack::listxattr`] tells of everything that [`Stack::getxattr`] could find in the user namespace,
    /// and of ACLs and file capabilities.
    pub fn lists_all_xattrs(&self, layer: LayerId) -> bool {
        self.layer(layer).is_ok_and(|l| l.layer.facts().lists_all_xattrs)
    }

    /// The names of all extended attributes, each terminated by NUL, without marks. `None`: the object has
    /// no attribute, marks included, that the host lists.
    ///
    /// # Errors
    /// As above.
    pub fn listxattr(&self, at: &LowerPath) -> Result<Option<Vec<u8>>> {
        self.with_descriptors(|| {
            let (_, dir, name) = self.place(at)?;
            dir.xattr_names(name)
        })
    }

    /// Owners inside an ACL are the layer's.
    fn translate(&self, name: &[u8], value: &mut [u8]) {
        if [posix_acl::ACCESS, posix_acl::DEFAULT].contains(&name) {
            self.owners.translate_acl(value);
        }
    }

    /// The directory that a place lies in, and its name there; a root lies in itself, without a name.
    fn place<'a>(&self, at: &'a LowerPath) -> Result<Place<'_, 'a>> {
        let layer = self.layer(at.layer)?;
        let Some((parent, name)) = split_last(at) else {
            return Ok((layer, layer.layer.root(), None));
        };
        Ok((layer, self.dir(&parent)?, Some(name)))
    }
}

type Place<'s, 'a> = (&'s StackedLayer, Arc<dyn Directory>, Option<&'a [u8]>);

/// The parent's place and the last name of a place; `None` for a root.
fn split_last(at: &LowerPath) -> Option<(LowerPath, &[u8])> {
    let place = |parent: &[u8]| LowerPath { layer: at.layer, path: parent.into() };
    if at.path.is_empty() {
        return None;
    }
    Some(match at.path.iter().rposition(|&b| b == b'/') {
        Some(i) => (place(&at.path[..i]), &at.path[i + 1..]),
        None => (place(b""), &at.path),
    })
}
