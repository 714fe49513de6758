//! One directory of one layer, held open, with its marks.

use super::tree::{LOOK, Layer};
use super::whiteout::{self, AUFS_OPAQUE, AufsName, Marks, Redirect};
use super::xattr;
use crate::errno::{Errno, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{OFlags, RawDir, Statx};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Bytes of directory entries read at once.
const READ_SIZE: usize = 64 * 1024;

/// After so many single questions a directory's names are read once instead.
const QUESTIONS_BEFORE_SCAN: u32 = 64;
/// States of [`Dir::aufs`] beyond a count of questions.
const AUFS_NONE: u32 = u32::MAX;
const AUFS_SOME: u32 = u32::MAX - 1;

#[derive(Debug)]
enum Handle {
    LayerRoot,
    Open(OwnedFd),
    /// Something is mounted here, and what is in it is not the layer's.
    MountPoint,
}

/// A directory of a layer. Its marks are as they were when it was opened.
#[derive(Debug)]
pub(super) struct Dir {
    handle: Handle,
    /// Nothing from the layers below shows through.
    pub opaque: bool,
    pub redirect: Option<Redirect>,
    xattr_whiteouts: bool,
    /// Are there names of AUFS whiteouts in it? How often that was asked, or the answer.
    aufs: AtomicU32,
}

/// What a name in a directory stands for.
#[derive(Debug)]
pub(super) enum Seen {
    Whiteout,
    Object(Box<Statx>),
}

impl Dir {
    pub fn mount_point() -> Dir {
        Dir {
            handle: Handle::MountPoint,
            opaque: true,
            redirect: None,
            xattr_whiteouts: false,
            aufs: AtomicU32::new(AUFS_NONE),
        }
    }

    pub fn of_root(layer: &Layer) -> Result<Dir> {
        Dir::with_marks(layer, Handle::LayerRoot)
    }

    /// Opens the directory at `path` of `layer`.
    ///
    /// # Errors
    /// `ESTALE` where there is no such directory (any more).
    pub fn open(layer: &Layer, path: &[u8]) -> Result<Dir> {
        Dir::opened(layer, layer.open_path(path, LOOK | OFlags::DIRECTORY))
    }

    /// Opens the directory `name` inside this one.
    ///
    /// # Errors
    /// As [`Dir::open`].
    pub fn open_child(&self, layer: &Layer, name: &[u8]) -> Result<Dir> {
        Dir::opened(layer, layer.open_dir(self.fd(layer).ok_or(Errno::STALE)?, name))
    }

    fn opened(layer: &Layer, fd: Result<OwnedFd>) -> Result<Dir> {
        match fd {
            Ok(fd) => Dir::with_marks(layer, Handle::Open(fd)),
            Err(Errno::XDEV) => Ok(Dir::mount_point()),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(Errno::STALE),
            Err(e) => Err(e),
        }
    }

    fn with_marks(layer: &Layer, handle: Handle) -> Result<Dir> {
        let mut dir = Dir { handle, opaque: false, aufs: AtomicU32::new(0), ..Dir::mount_point() };
        let Some(fd) = dir.fd(layer) else { return Ok(dir) };
        let marks = marks_of(fd)?;
        // Below the bottom layer there is nothing to hide.
        let by_name = || Ok::<_, Errno>(layer.stat_name(fd, AUFS_OPAQUE)?.is_some());
        let opaque = marks.opaque || (!layer.is_bottom() && by_name()?);
        dir.opaque = opaque;
        dir.redirect = marks.redirect;
        dir.xattr_whiteouts = marks.xattr_whiteouts;
        Ok(dir)
    }

    /// The open directory; `None` for a mount point, which shows as empty.
    pub fn fd<'a>(&'a self, layer: &'a Layer) -> Option<BorrowedFd<'a>> {
        match &self.handle {
            Handle::LayerRoot => Some(layer.root()),
            Handle::Open(fd) => Some(fd.as_fd()),
            Handle::MountPoint => None,
        }
    }

    /// What `name` stands for here; `None` where there is no such name.
    pub fn see(&self, layer: &Layer, name: &[u8]) -> Result<Option<Seen>> {
        let Some(fd) = self.fd(layer) else { return Ok(None) };
        let Some(st) = layer.stat_name(fd, name)? else { return Ok(None) };
        if self.is_whiteout(layer, fd, name, &st)? {
            return Ok(Some(Seen::Whiteout));
        }
        Ok(Some(Seen::Object(Box::new(st))))
    }

    fn is_whiteout(
        &self,
        layer: &Layer,
        fd: BorrowedFd<'_>,
        name: &[u8],
        st: &Statx,
    ) -> Result<bool> {
        let mode = u32::from(st.stx_mode);
        if whiteout::is_whiteout_device(mode, st.stx_rdev_major, st.stx_rdev_minor) {
            return Ok(true);
        }
        let candidate = self.xattr_whiteouts && st.stx_size == 0 && mode & 0o170000 == 0o100000;
        if !candidate {
            return Ok(false);
        }
        let file = layer.open_name(fd, name, LOOK)?;
        Ok(marks_of(file.as_fd())?.whiteout)
    }

    /// Could an entry of this type be a whiteout, or has its type to be looked up?
    pub fn needs_a_look(&self, kind: rustix::fs::FileType) -> bool {
        use rustix::fs::FileType;
        match kind {
            FileType::CharacterDevice | FileType::Unknown => true,
            FileType::RegularFile => self.xattr_whiteouts,
            _ => false,
        }
    }

    /// Does a `.wh.` name here hide `name` in the layers below?
    pub fn hides_by_name(&self, layer: &Layer, name: &[u8]) -> Result<bool> {
        let Some(fd) = self.fd(layer) else { return Ok(true) };
        let asked = match self.aufs.load(Relaxed) {
            AUFS_NONE => return Ok(false),
            asked => asked,
        };
        if asked == QUESTIONS_BEFORE_SCAN {
            self.scan_for_aufs(layer)?;
        } else if asked < QUESTIONS_BEFORE_SCAN {
            // Counting may lose a race: then somebody asks once more.
            self.aufs.store(asked + 1, Relaxed);
        }
        match whiteout::aufs_whiteout_for(name) {
            Some(hidden) => Ok(layer.stat_name(fd, &hidden)?.is_some()),
            None => Ok(false),
        }
    }

    /// Remembers whether the directory, read as a whole, had `.wh.` names.
    pub fn remember_aufs(&self, any: bool) {
        self.aufs.store(if any { AUFS_SOME } else { AUFS_NONE }, Relaxed);
    }

    fn scan_for_aufs(&self, layer: &Layer) -> Result<()> {
        let mut any = false;
        self.read(layer, |name, _, _| {
            any |= whiteout::aufs_name(name) != AufsName::Ordinary;
            Ok(())
        })?;
        self.remember_aufs(any);
        Ok(())
    }

    /// Calls `each` with name, type and host inode of every entry but `.` and `..`.
    pub fn read(
        &self,
        layer: &Layer,
        mut each: impl FnMut(&[u8], rustix::fs::FileType, u64) -> Result<()>,
    ) -> Result<()> {
        let Some(fd) = self.fd(layer) else { return Ok(()) };
        let mut buf = Vec::with_capacity(READ_SIZE);
        buf.resize_with(READ_SIZE, MaybeUninit::uninit);
        let mut entries = RawDir::new(layer.open_for_reading(fd)?, &mut buf);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                each(name, entry.file_type(), entry.ino())?;
            }
        }
        Ok(())
    }
}

/// The marks of an open object.
pub(super) fn marks_of(fd: BorrowedFd<'_>) -> Result<Marks> {
    marks_among(fd, &xattr::list(fd)?)
}

/// The marks of an object whose attributes have these names, each terminated by NUL.
pub(super) fn marks_among(fd: BorrowedFd<'_>, names: &[u8]) -> Result<Marks> {
    Marks::read(names, |name| match xattr::get(fd, name) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA) => Ok(None),
        Err(e) => Err(e),
    })
}
