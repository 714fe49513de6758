//! One directory of a host layer, held open, with its marks.

use super::super::host_calls;
use super::super::source::{Directory, FileKey, LayerAttr, Listed, Opened, Redirect, Seen};
use super::file::HostFile;
use super::fs_kind::{DirentNumbers, FsKind};
use super::tree::{LOOK, Tree, device, stat_fd};
use super::whiteout::{
    self, AUFS_OPAQUE, AufsName, Marks, aufs_name, host_xattr, shown_xattr, split_names,
};
use super::xattr;
use crate::attr::{Attr, FileType, InodeNo, Time};
use crate::config::FILESTORE_NAME;
use crate::errno::{Errno, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{OFlags, RawDir, Statx, StatxFlags, StatxTimestamp, readlinkat};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Bytes of directory entries read at once.
const READ_SIZE: usize = 64 * 1024;

/// After so many single questions a directory's names are read once instead.
const QUESTIONS_BEFORE_SCAN: u32 = 64;
/// States of [`Dir::aufs`] beyond a count of questions.
const AUFS_NONE: u32 = u32::MAX;
const AUFS_SOME: u32 = u32::MAX - 1;

/// The layer that a directory belongs to. Immutable.
#[derive(Debug)]
pub(super) struct Site {
    pub tree: Tree,
    pub kind: FsKind,
    /// No layer lies below.
    pub is_bottom: bool,
}

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
    site: Arc<Site>,
    handle: Handle,
    is_opaque: bool,
    redirect: Option<Redirect>,
    xattr_whiteouts: bool,
    /// Are there names of AUFS whiteouts in it? How often that was asked, or the answer.
    aufs: AtomicU32,
}

impl Drop for Dir {
    fn drop(&mut self) {
        host_calls::check();
    }
}

impl Dir {
    /// The root of a layer.
    ///
    /// # Errors
    /// The host's.
    pub fn of_root(site: &Arc<Site>) -> Result<Dir> {
        Dir::with_marks(site, Handle::LayerRoot)
    }

    /// Opens the directory at `path` of a layer.
    ///
    /// # Errors
    /// `ESTALE` where there is no such directory (any more); the host's.
    pub fn open(site: &Arc<Site>, path: &[u8]) -> Result<Dir> {
        Dir::opened(site, site.tree.open_path(path, LOOK | OFlags::DIRECTORY))
    }

    fn opened(site: &Arc<Site>, fd: Result<OwnedFd>) -> Result<Dir> {
        match fd {
            Ok(fd) => Dir::with_marks(site, Handle::Open(fd)),
            Err(Errno::XDEV) => Ok(Dir::of_mount_point(site)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(Errno::STALE),
            Err(e) => Err(e),
        }
    }

    fn of_mount_point(site: &Arc<Site>) -> Dir {
        Dir {
            site: site.clone(),
            handle: Handle::MountPoint,
            is_opaque: true,
            redirect: None,
            xattr_whiteouts: false,
            aufs: AtomicU32::new(AUFS_NONE),
        }
    }

    fn with_marks(site: &Arc<Site>, handle: Handle) -> Result<Dir> {
        let aufs = AtomicU32::new(0);
        let mut dir = Dir {
            site: site.clone(),
            handle,
            is_opaque: false,
            redirect: None,
            xattr_whiteouts: false,
            aufs,
        };
        let Some(fd) = dir.fd() else { return Ok(dir) };
        let marks = marks_of(fd)?;
        // Below the bottom layer there is nothing to hide.
        let by_name = || Ok::<_, Errno>(site.tree.stat_name(fd, AUFS_OPAQUE)?.is_some());
        let is_opaque = marks.opaque || (!site.is_bottom && by_name()?);
        dir.is_opaque = is_opaque;
        dir.redirect = marks.redirect;
        dir.xattr_whiteouts = marks.xattr_whiteouts;
        Ok(dir)
    }

    /// The open directory; `None` for a mount point, which shows as empty.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.handle {
            Handle::LayerRoot => Some(self.site.tree.root()),
            Handle::Open(fd) => Some(fd.as_fd()),
            Handle::MountPoint => None,
        }
    }

    /// As [`Dir::fd`]; `ESTALE` for a mount point.
    fn open_fd(&self) -> Result<BorrowedFd<'_>> {
        self.fd().ok_or(Errno::STALE)
    }

    /// Whether `name` is no part of what the layer shows: a mark, or a filestore at the layer's root. Engines mount a layer of
    /// an image on its own directory to look at it, so a lower too may have been an upperdir.
    fn is_hidden(&self, name: &[u8]) -> bool {
        aufs_name(name) != AufsName::Ordinary || self.is_filestore(name)
    }

    fn is_filestore(&self, name: &[u8]) -> bool {
        matches!(self.handle, Handle::LayerRoot) && name == FILESTORE_NAME.as_bytes()
    }

    fn is_whiteout(&self, fd: BorrowedFd<'_>, name: &[u8], st: &Statx) -> Result<bool> {
        let mode = u32::from(st.stx_mode);
        if whiteout::is_whiteout_device(mode, st.stx_rdev_major, st.stx_rdev_minor) {
            return Ok(true);
        }
        let candidate = self.xattr_whiteouts && st.stx_size == 0 && mode & 0o170000 == 0o100000;
        if !candidate {
            return Ok(false);
        }
        let file = self.site.tree.open_name(fd, name, LOOK)?;
        Ok(marks_of(file.as_fd())?.whiteout)
    }

    /// Could an entry of this type be a whiteout, or has its type to be looked up?
    fn needs_a_look(&self, kind: rustix::fs::FileType) -> bool {
        use rustix::fs::FileType;
        match kind {
            FileType::CharacterDevice | FileType::Unknown => true,
            FileType::RegularFile => self.xattr_whiteouts,
            _ => false,
        }
    }

    /// Remembers whether the directory, read as a whole, had `.wh.` names.
    fn remember_aufs(&self, any: bool) {
        self.aufs.store(if any { AUFS_SOME } else { AUFS_NONE }, Relaxed);
    }

    fn scan_for_aufs(&self) -> Result<()> {
        let mut any = false;
        self.read(|name, _, _| {
            any |= aufs_name(name) != AufsName::Ordinary;
            Ok(())
        })?;
        self.remember_aufs(any);
        Ok(())
    }

    /// Calls `each` with name, type and `d_ino` of every entry but `.` and `..`.
    fn read(
        &self,
        mut each: impl FnMut(&[u8], rustix::fs::FileType, u64) -> Result<()>,
    ) -> Result<()> {
        let Some(fd) = self.fd() else { return Ok(()) };
        let mut buf = Vec::with_capacity(READ_SIZE);
        buf.resize_with(READ_SIZE, MaybeUninit::uninit);
        let mut entries = RawDir::new(self.site.tree.open_for_reading(fd)?, &mut buf);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                each(name, entry.file_type(), entry.ino())?;
            }
        }
        Ok(())
    }

    /// What an entry that is no mark lists as; `None` where it is gone since.
    fn listed(
        &self,
        name: &[u8],
        kind: rustix::fs::FileType,
        d_ino: u64,
    ) -> Result<Option<Listed>> {
        let file_type = match (self.needs_a_look(kind), FileType::from_mode(kind.as_raw_mode())) {
            (false, Some(file_type)) => file_type,
            _ => match self.look_up(name)? {
                None => return Ok(None),
                Some(Seen::Whiteout) => return Ok(Some(Listed::Whiteout)),
                Some(Seen::Object(found)) => found.attr.file_type(),
            },
        };
        // Where something may be mounted inside, the entry has the number of what lies beneath.
        let is_exact = self.site.tree.private
            && match self.site.kind.dirent_numbers {
                DirentNumbers::Exact => true,
                DirentNumbers::ExactForFiles => file_type != FileType::Directory,
                DirentNumbers::Unreliable => false,
            };
        Ok(Some(Listed::Object { file_type, ino: is_exact.then_some(d_ino) }))
    }

    /// Opens `name`, or the directory itself, for looking at it (`O_PATH`).
    fn look_at(&self, name: Option<&[u8]>) -> Result<OwnedFd> {
        let fd = self.open_fd()?;
        match name {
            Some(name) => self.site.tree.open_name(fd, name, LOOK),
            None => self.site.tree.reopen(fd),
        }
    }
}

impl Directory for Dir {
    fn is_opaque(&self) -> bool {
        self.is_opaque
    }

    fn redirect(&self) -> Option<&Redirect> {
        self.redirect.as_ref()
    }

    fn stat(&self, name: Option<&[u8]>) -> Result<LayerAttr> {
        let fd = self.open_fd()?;
        let Some(name) = name else { return Ok(layer_attr(&stat_fd(fd)?)) };
        match self.look_up(name)? {
            Some(Seen::Object(found)) => Ok(found),
            Some(Seen::Whiteout) | None => Err(Errno::NOENT),
        }
    }

    fn look_up(&self, name: &[u8]) -> Result<Option<Seen>> {
        if self.is_hidden(name) {
            return Ok(None);
        }
        let Some(fd) = self.fd() else { return Ok(None) };
        let Some(st) = self.site.tree.stat_name(fd, name)? else { return Ok(None) };
        if self.is_whiteout(fd, name, &st)? {
            return Ok(Some(Seen::Whiteout));
        }
        Ok(Some(Seen::Object(layer_attr(&st))))
    }

    /// By a `.wh.` name.
    fn hides_below(&self, name: &[u8]) -> Result<bool> {
        let Some(fd) = self.fd() else { return Ok(true) };
        let asked = match self.aufs.load(Relaxed) {
            AUFS_NONE => return Ok(false),
            asked => asked,
        };
        if asked == QUESTIONS_BEFORE_SCAN {
            self.scan_for_aufs()?;
        } else if asked < QUESTIONS_BEFORE_SCAN {
            // Counting may lose a race: then somebody asks once more.
            self.aufs.store(asked + 1, Relaxed);
        }
        match whiteout::aufs_whiteout_for(name) {
            Some(hidden) => Ok(self.site.tree.stat_name(fd, &hidden)?.is_some()),
            None => Ok(false),
        }
    }

    fn open_child(&self, name: &[u8]) -> Result<Arc<dyn Directory>> {
        let fd = self.open_fd()?;
        Ok(Arc::new(Dir::opened(&self.site, self.site.tree.open_dir(fd, name))?))
    }

    fn is_redirected(&self, name: &[u8]) -> Result<bool> {
        let Some(fd) = self.fd() else { return Ok(false) };
        match self.site.tree.open_name(fd, name, LOOK | OFlags::DIRECTORY) {
            Ok(child) => Ok(marks_of(child.as_fd())?.redirect.is_some()),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn list(&self, each: &mut dyn FnMut(&[u8], Listed) -> Result<()>) -> Result<()> {
        let mut any_aufs = false;
        self.read(|name, kind, d_ino| {
            let aufs = aufs_name(name);
            any_aufs |= aufs != AufsName::Ordinary;
            match aufs {
                AufsName::Hides(hidden) => return each(hidden, Listed::HidesBelow),
                AufsName::Opaque | AufsName::Metadata => return Ok(()),
                AufsName::Ordinary if self.is_filestore(name) => return Ok(()),
                AufsName::Ordinary => {}
            }
            match self.listed(name, kind, d_ino)? {
                Some(listed) => each(name, listed),
                None => Ok(()),
            }
        })?;
        self.remember_aufs(any_aufs);
        Ok(())
    }

    fn open_file(&self, name: &[u8]) -> Result<Opened> {
        let (fd, st) = self.site.tree.open_regular(self.open_fd()?, name)?;
        let names = xattr::list(fd.as_fd())?;
        let lacks_data = marks_among(fd.as_fd(), &names)?.metacopy;
        let no_xattrs = self.site.kind.lists_all_xattrs && names.is_empty();
        let Site { tree, kind, .. } = &*self.site;
        let (may_block, keeps_atime) = (!kind.is_local, tree.keeps_atime);
        let file = Arc::new(HostFile { fd, may_block, keeps_atime });
        Ok(Opened { file, attr: layer_attr(&st), no_xattrs, lacks_data })
    }

    fn readlink(&self, name: &[u8]) -> Result<Vec<u8>> {
        let object = self.look_at(Some(name))?;
        if layer_attr(&stat_fd(object.as_fd())?).attr.file_type() != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        Ok(readlinkat(&object, c"", Vec::new())?.into_bytes())
    }

    fn xattr_names(&self, name: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
        let object = self.look_at(name)?;
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

    fn xattr(&self, name: Option<&[u8]>, attribute: &[u8]) -> Result<Vec<u8>> {
        let object = self.look_at(name)?;
        xattr::get_by_path(object.as_fd(), &host_xattr(attribute))
    }

    fn xattrs(&self, name: Option<&[u8]>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let object = self.look_at(name)?;
        let names = xattr::list_by_path(object.as_fd())?;
        let mut all = Vec::new();
        for name in split_names(&names) {
            let Some(shown) = shown_xattr(name) else { continue };
            match xattr::get_by_path(object.as_fd(), name) {
                Ok(value) => all.push((shown.into_owned(), value)),
                // Gone since, or one that only its owner may read.
                Err(Errno::NODATA | Errno::ACCESS | Errno::PERM) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }
}

/// The marks of an open object.
fn marks_of(fd: BorrowedFd<'_>) -> Result<Marks> {
    marks_among(fd, &xattr::list(fd)?)
}

/// The marks of an object whose attributes have these names, each terminated by NUL.
fn marks_among(fd: BorrowedFd<'_>, names: &[u8]) -> Result<Marks> {
    Marks::read(names, |name| match xattr::get(fd, name) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA) => Ok(None),
        Err(e) => Err(e),
    })
}

fn layer_attr(st: &Statx) -> LayerAttr {
    let has_btime = st.stx_mask & StatxFlags::BTIME.bits() != 0;
    let (mtime, ctime) = (time(st.stx_mtime), time(st.stx_ctime));
    let btime = if has_btime { time(st.stx_btime) } else { Time::default() };
    let attr = Attr {
        ino: InodeNo(st.stx_ino),
        size: st.stx_size,
        blocks: st.stx_blocks,
        mode: u32::from(st.stx_mode),
        nlink: st.stx_nlink,
        uid: st.stx_uid,
        gid: st.stx_gid,
        rdev: encode_rdev(st.stx_rdev_major, st.stx_rdev_minor),
        atime: time(st.stx_atime),
        mtime,
        ctime,
        // Where the host keeps no time of birth: it cannot be later than these.
        btime: if has_btime { btime } else { mtime.min(ctime) },
    };
    LayerAttr { attr, key: FileKey { dev: device(st), ino: st.stx_ino, btime } }
}

fn time(t: StatxTimestamp) -> Time {
    Time { sec: t.tv_sec, nsec: t.tv_nsec }
}

/// The form of [`Attr::rdev`].
fn encode_rdev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | major << 8 | (minor & !0xff) << 12
}
