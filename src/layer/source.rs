//! What a read-only layer is to the rest of the program: a tree of directories that is looked into by name. A host
//! directory (`host/`) is the one implementation.
//!
//! A layer answers in its own terms: inode numbers and owners are its own, whiteouts and opaque directories are read
//! from whatever spelling it has for them. The [`Stack`](super::Stack) merges layers, numbers inodes and maps owners.
//!
//! Every method may wait for the host unless it says otherwise, so no lock may be held that others need in order to go
//! on ([`super::host_calls`] checks this in debug builds). The calls are dynamic: each of them costs a system
//! call or more, beside which the call through a table is not measurable.

use crate::attr::{Attr, FileType, Time};
use crate::errno::Result;
use rustix::fd::BorrowedFd;
use std::fmt::Debug;
use std::sync::Arc;

/// One read-only layer.
pub(super) trait Layer: Debug + Send + Sync {
    /// What is true of all of the layer. Does not wait.
    fn facts(&self) -> &Facts;

    /// The root, with its marks as they were when the layer was opened. Does not wait.
    fn root(&self) -> Arc<dyn Directory>;

    /// Opens the directory at `path`: names separated by single slashes, not empty.
    ///
    /// # Errors
    /// `ESTALE` where there is no such directory (any more), `EINVAL` for what is no path; the host's.
    fn open_dir(&self, path: &[u8]) -> Result<Arc<dyn Directory>>;
}

/// What is true of all of a layer. Immutable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// The device of the root, as in [`FileKey::dev`].
    pub root_dev: u64,
    pub identity: LayerIdentity,
    /// No access through the layer's files changes an access time. Files know for themselves; tests ask here.
    #[cfg(test)]
    pub keeps_atime: bool,
    /// An extended attribute of the user namespace, an ACL or a file capability that a file has is listed.
    pub lists_all_xattrs: bool,
    /// An operation may wait for something other than a local disk, for any time.
    pub may_block: bool,
}

/// One open directory of a layer.
pub(super) trait Directory: Debug + Send + Sync {
    /// Nothing from the layers below shows through. Does not wait.
    fn is_opaque(&self) -> bool;

    /// Where the directory goes on in the layers below, if not under its own name. Does not wait.
    fn redirect(&self) -> Option<&Redirect>;

    /// The attributes of `name`, or of the directory itself.
    ///
    /// # Errors
    /// `ENOENT` where there is no such name or it is a whiteout, `ESTALE` where the directory shows nothing of
    /// what is in it (something is mounted on it); as [`Directory::look_up`].
    fn stat(&self, name: Option<&[u8]>) -> Result<LayerAttr>;

    /// What `name` stands for; `None` where there is no such name. Names that are marks are not there.
    ///
    /// # Errors
    /// `EINVAL` and `ENAMETOOLONG` for what is no name; the host's.
    fn look_up(&self, name: &[u8]) -> Result<Option<Seen>>;

    /// Whether another name here says that `name` is gone from the layers below.
    ///
    /// # Errors
    /// The host's.
    fn hides_below(&self, name: &[u8]) -> Result<bool>;

    /// Opens the directory `name`.
    ///
    /// # Errors
    /// `ESTALE` where there is no such directory (any more); the host's.
    fn open_child(&self, name: &[u8]) -> Result<Arc<dyn Directory>>;

    /// Whether `name` is a directory that has a [`Directory::redirect`].
    ///
    /// # Errors
    /// The host's.
    fn is_redirected(&self, name: &[u8]) -> Result<bool>;

    /// Calls `each` with all names, in any order.
    ///
    /// # Errors
    /// Those of `each`, and the host's.
    fn list(&self, each: &mut dyn FnMut(&[u8], Listed) -> Result<()>) -> Result<()>;

    /// Opens the regular file `name` for reading, without changing its access time.
    ///
    /// # Errors
    /// `ENOENT`; `EISDIR`, `ELOOP` and `ENXIO` for what is no regular file; the host's.
    fn open_file(&self, name: &[u8]) -> Result<Opened>;

    /// The target of the symbolic link `name`.
    ///
    /// # Errors
    /// `EINVAL` for what is no symbolic link; the host's.
    fn readlink(&self, name: &[u8]) -> Result<Vec<u8>>;

    /// The names of the extended attributes of `name`, or of the directory itself, each followed by NUL, marks
    /// left out. `None`: the host lists no attribute, marks included.
    ///
    /// # Errors
    /// The host's.
    fn xattr_names(&self, name: Option<&[u8]>) -> Result<Option<Vec<u8>>>;

    /// The value of one extended attribute. Marks are not there.
    ///
    /// # Errors
    /// `ENODATA` where there is none of this name, `EINVAL` for a name with a NUL byte; the host's.
    fn xattr(&self, name: Option<&[u8]>, attribute: &[u8]) -> Result<Vec<u8>>;

    /// All extended attributes, names and values, marks left out.
    ///
    /// # Errors
    /// The host's.
    fn xattrs(&self, name: Option<&[u8]>) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;
}

/// A regular file of a layer, open for reading.
pub trait LowerFile: Debug + Send + Sync {
    /// Reads into `buf` from byte `offset`; short only at the end of the file.
    ///
    /// # Errors
    /// The host's.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;

    /// The first byte from `offset` on that is data, or that lies in a hole: lseek(2). `None` where there is none
    /// known before the end of the file; a hole may also be found at the end. A file that cannot tell has no holes.
    ///
    /// # Errors
    /// The host's.
    fn seek(&self, want: Want, offset: u64) -> Result<Option<u64>>;

    /// A descriptor whose bytes are those of the file and that the kernel may read from by itself (FUSE
    /// passthrough), with no access time changing; `None` where there is no such thing. Does not wait.
    fn passthrough_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether reading or closing the file may wait for something other than a local disk. Does not wait.
    fn may_block(&self) -> bool;
}

/// What [`LowerFile::seek`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Data,
    Hole,
}

/// What [`Directory::open_file`] opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub file: Arc<dyn LowerFile>,
    pub attr: LayerAttr,
    /// The file has no extended attribute.
    pub no_xattrs: bool,
    /// The file has a mark that says that its data are another file's (`overlay.metacopy`).
    pub lacks_data: bool,
}

/// What a layer is known by, also after it was moved, mounted elsewhere, or the host was started anew.
///
/// A hash of the file system's identity, the root's inode number and the root's birth time. A copy of a layer has
/// another one. Two layers have the same one where both are the same directory, or where the file system has neither a
/// UUID nor birth times (FUSE): those can be told apart by nothing but their place in the stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LayerIdentity(pub u64);

/// What tells one file of the host from every other while the host runs. Names of one inode have one key; a number
/// that the host gives to another file later has another birth time (where the file system keeps birth times).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// As major << 32 | minor. It may change when the host starts anew.
    pub dev: u64,
    pub ino: u64,
    /// Zero where the file system keeps none.
    pub btime: Time,
}

/// The attributes of an object as its layer has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerAttr {
    /// Owners and inode number are the layer's own.
    pub attr: Attr,
    pub key: FileKey,
}

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen {
    /// The name is gone, here and in the layers below.
    Whiteout,
    Object(LayerAttr),
}

/// What a directory lists of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    /// `ino`: the inode number that [`Directory::look_up`] shows, on the device of the layer's root; `None` where
    /// only a look-up tells.
    Object {
        file_type: FileType,
        ino: Option<u64>,
    },
    Whiteout,
    /// The name is gone from the layers below; nothing is said of it here.
    HidesBelow,
}

/// Where a directory goes on in the layers below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// Another name in the same parent.
    Sibling(Vec<u8>),
    /// A path from the layers' roots, without the leading slash.
    Absolute(Vec<u8>),
    /// Nothing that could be followed.
    Malformed,
}
