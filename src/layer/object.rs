//! One object of one layer: its attributes, data, target and extended attributes.

use super::dir::marks_among;
use super::stack::{FileKey, Stack};
use super::tree::{LOOK, Layer, stat_fd};
use super::whiteout::{host_xattr, shown_xattr, split_names};
use super::xattr;
use crate::attr::{Attr, FileType, LayerId, LowerPath};
use crate::errno::{Errno, Result};
use crate::posix_acl;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::readlinkat;

/// A regular file, open for reading.
#[derive(Debug)]
pub struct OpenFile {
    pub file: OwnedFd,
    /// It has no extended attribute.
    pub no_xattrs: bool,
    /// The attributes of the file that was opened, whatever its name stands for by now. The number is as with
    /// [`Stack::stat`].
    pub attr: Attr,
    pub key: FileKey,
}

/// The errors of every method here: `ESTALE` for a layer or parent directory that is not there
/// (any more), and the host's.
impl Stack {
    /// The attributes of an object. The number is its own in its layer, which for a merged directory
    /// is the one that [`Stack::lookup`] shows only in the lowest layer.
    pub fn stat(&self, at: &LowerPath) -> Result<Attr> {
        self.stat_with_key(at).map(|(attr, _)| attr)
    }

    /// As [`Stack::stat`], with what tells the object from every other.
    pub fn stat_with_key(&self, at: &LowerPath) -> Result<(Attr, FileKey)> {
        let layer = self.layer(at.layer)?;
        let st = match split_last(at) {
            None => stat_fd(layer.root())?,
            Some((parent, name)) => {
                let dir = self.dir(&parent)?;
                let fd = dir.fd(layer).ok_or(Errno::STALE)?;
                layer.stat_name(fd, name)?.ok_or(Errno::NOENT)?
            }
        };
        Ok((self.attr(layer, &st), FileKey::of(&st)))
    }

    /// Opens a regular file for reading; the descriptor can never be written through.
    ///
    /// # Errors
    /// `EISDIR`, `ELOOP` (symbolic link) and `ENXIO` for what is no regular file; `EIO` for a file
    /// whose data lie elsewhere (`overlay.metacopy`).
    pub fn open_file(&self, at: &LowerPath) -> Result<OpenFile> {
        let layer = self.layer(at.layer)?;
        let (parent, name) = split_last(at).ok_or(Errno::ISDIR)?;
        let dir = self.dir(&parent)?;
        let fd = dir.fd(layer).ok_or(Errno::STALE)?;
        let (file, st) = self.with_descriptors(|| layer.open_regular(fd, name))?;
        let names = xattr::list(file.as_fd())?;
        if marks_among(file.as_fd(), &names)?.metacopy {
            tracing::warn!(
                layer = at.layer.0,
                file = %String::from_utf8_lossy(&at.path),
                "a layer has a file without its data (overlay.metacopy)"
            );
            return Err(Errno::IO);
        }
        let no_xattrs = layer.lists_all_xattrs && names.is_empty();
        Ok(OpenFile { file, no_xattrs, attr: self.attr(layer, &st), key: FileKey::of(&st) })
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` for what is none.
    pub fn readlink(&self, at: &LowerPath) -> Result<Vec<u8>> {
        let (layer, object) = self.look_at(at)?;
        let attr = self.attr(layer, &stat_fd(object.as_fd())?);
        if attr.file_type() != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        Ok(readlinkat(&object, c"", Vec::new())?.into_bytes())
    }

    /// All extended attributes, names and values, without the marks of overlay file systems.
    pub fn xattrs(&self, at: &LowerPath) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let (_, object) = self.look_at(at)?;
        let names = xattr::list_by_path(object.as_fd())?;
        let mut all = Vec::new();
        for name in split_names(&names) {
            let Some(shown) = shown_xattr(name) else { continue };
            match xattr::get_by_path(object.as_fd(), name) {
                Ok(value) => all.push((shown.into_owned(), self.shown_value(name, value))),
                // Gone since, or one that only its owner may read.
                Err(Errno::NODATA | Errno::ACCESS | Errno::PERM) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// The value of one extended attribute.
    ///
    /// # Errors
    /// `ENODATA` where there is none of this name; marks count as absent. `EINVAL` for a name with
    /// a NUL byte.
    pub fn getxattr(&self, at: &LowerPath, name: &[u8]) -> Result<Vec<u8>> {
        let (_, object) = self.look_at(at)?;
        let value = xattr::get_by_path(object.as_fd(), &host_xattr(name))?;
        Ok(self.shown_value(name, value))
    }

    /// Whether [`Stack::listxattr`] tells of everything that [`Stack::getxattr`] could find in the user namespace,
    /// and of ACLs and file capabilities.
    pub fn lists_all_xattrs(&self, layer: LayerId) -> bool {
        self.layer(layer).is_ok_and(|layer| layer.lists_all_xattrs)
    }

    /// The names of all extended attributes, each terminated by NUL, without marks. `None`: the object has
    /// no attribute, marks included, that the host lists.
    pub fn listxattr(&self, at: &LowerPath) -> Result<Option<Vec<u8>>> {
        let (_, object) = self.look_at(at)?;
        let names = xattr::list_by_path(object.as_fd())?;
        if names.is_empty() {
            return Ok(None);
        }
        let mut shown = Vec::with_capacity(names.len());
        for name in split_names(&names).filter_map(shown_xattr) {
            shown.extend_from_slice(&name);
            shown.push(0);
        }
        Ok(Some(shown))
    }

    fn shown_value(&self, name: &[u8], mut value: Vec<u8>) -> Vec<u8> {
        if [posix_acl::ACCESS, posix_acl::DEFAULT].contains(&name) {
            self.owners.translate_acl(&mut value);
        }
        value
    }

    /// Opens whatever lies at a place for looking at it (`O_PATH`).
    fn look_at(&self, at: &LowerPath) -> Result<(&Layer, OwnedFd)> {
        let layer = self.layer(at.layer)?;
        let Some((parent, name)) = split_last(at) else {
            return Ok((layer, layer.open_root()?));
        };
        let dir = self.dir(&parent)?;
        let fd = dir.fd(layer).ok_or(Errno::STALE)?;
        let object = self.with_descriptors(|| layer.open_name(fd, name, LOOK))?;
        Ok((layer, object))
    }
}

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
