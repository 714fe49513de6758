//! A directory tree of the host: its root, and the only way to what lies below.

use super::super::host_calls;
use super::xattr::proc_path;
use crate::attr::FileType;
use crate::errno::{Errno, Result};
use crate::name::check_name;
use crate::sys::tree::PrivateTree;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat, openat2, statx,
};
use std::path::Path;

/// Bytes of a path that one system call takes, without the terminating NUL.
const PATH_CHUNK: usize = 4095;

/// Attributes come from what the host has cached (layers do not change), and nothing is mounted
/// for being looked at.
const STAT_FLAGS: AtFlags =
    AtFlags::STATX_DONT_SYNC.union(AtFlags::NO_AUTOMOUNT).union(AtFlags::SYMLINK_NOFOLLOW);
const STAT_MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Opens an object for looking at it, whatever it is.
pub(super) const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// May a path end on something mounted inside the layer?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mounts {
    /// No: `EXDEV`.
    Refuse,
    Enter,
}

/// How paths are walked; settled when the layer is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Walk {
    Openat2,
    /// Name by name, on kernels before 5.6 and where `openat2` is filtered.
    NameByName,
}

/// One read-only directory tree of the host.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// The device the root lies on, as major << 32 | minor.
    pub dev: u64,
    /// The root is our own copy of the mount: nothing is or will be mounted inside.
    pub private: bool,
    /// No access through the root changes an access time.
    pub keeps_atime: bool,
    walk: Walk,
}

impl Tree {
    /// Opens the tree at `path`.
    ///
    /// # Errors
    /// The host's.
    pub fn open(path: &Path) -> Result<Tree> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let host_root = openat(CWD, path, flags, Mode::empty())?;
        let (root, private, keeps_atime) = match PrivateTree::copy_of(&host_root) {
            Ok(tree) => (tree.root, true, tree.keeps_atime),
            Err(_) => (host_root, false, false),
        };
        let walk = match openat2(&root, c".", LOOK, Mode::empty(), resolve(Mounts::Refuse)) {
            Err(Errno::NOSYS | Errno::PERM) => Walk::NameByName,
            _ => Walk::Openat2,
        };
        let dev = device(&stat_fd(root.as_fd())?);
        Ok(Tree { root, dev, private, keeps_atime, walk })
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens the object at `path`, mount points excepted.
    ///
    /// # Errors
    /// The host's; `ELOOP` or `ENOTDIR` where a symbolic link stands in the way; `EXDEV` at a mount
    /// point; `EINVAL` for a path with empty, `.` or `..` components.
    pub fn open_path(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        path.split(|&b| b == b'/').try_for_each(check_name)?;
        let mut dir: Option<OwnedFd> = None;
        let mut rest = path;
        loop {
            let at = dir.as_ref().map_or(self.root(), |d| d.as_fd());
            let (head, tail) = self.split(rest);
            if tail.is_empty() {
                return self.open_step(at, head, flags, Mounts::Refuse);
            }
            dir = Some(self.open_step(at, head, LOOK | OFlags::DIRECTORY, Mounts::Refuse)?);
            rest = tail;
        }
    }

    /// Opens `name` in the directory `dir` of this layer; a mount point as what is mounted there.
    ///
    /// # Errors
    /// `EINVAL` for what is no name; the host's.
    pub fn open_name(&self, dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
        check_name(name)?;
        self.open_step(dir, name, flags, Mounts::Enter)
    }

    /// Opens the directory `name` in `dir`: for reading attributes too where that is allowed.
    ///
    /// # Errors
    /// `EXDEV` at a mount point; the host's.
    pub fn open_dir(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
        check_name(name)?;
        let directory = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.open_step(dir, name, directory, Mounts::Refuse) {
            Err(Errno::ACCESS) => {
                self.open_step(dir, name, LOOK | OFlags::DIRECTORY, Mounts::Refuse)
            }
            other => other,
        }
    }

    /// Opens the regular file `name` in `dir` for reading, without touching its access time.
    ///
    /// # Errors
    /// `EISDIR`, `ELOOP` and `ENXIO` for what is no regular file; the host's.
    pub fn open_regular(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(OwnedFd, Statx)> {
        host_calls::check();
        check_name(name)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::LARGEFILE;
        if self.private {
            // Opening does no harm here, whatever it is: our copy of the mount has no devices.
            let quick = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let open = |flags| openat(dir, name, flags, Mode::empty());
            match keeping_atime(quick, open) {
                Ok(file) => return expect_regular(file.as_fd()).map(|st| (file, st)),
                Err(e @ (Errno::NOENT | Errno::LOOP | Errno::MFILE)) => return Err(e),
                Err(_) => {}
            }
        }
        let object = self.open_name(dir, name, LOOK)?;
        let st = expect_regular(object.as_fd())?;
        // What was checked is what is opened: the descriptor stands for the very object.
        let path = proc_path(object.as_fd());
        let file = keeping_atime(flags, |flags| openat(CWD, &path, flags, Mode::empty()))?;
        Ok((file, st))
    }

    /// The directory `dir` once more, to look at.
    ///
    /// # Errors
    /// The host's.
    pub fn reopen(&self, dir: BorrowedFd<'_>) -> Result<OwnedFd> {
        host_calls::check();
        openat(dir, c".", LOOK, Mode::empty())
    }

    /// The part of a path that one system call takes, and what follows.
    fn split<'a>(&self, path: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let cut = match self.walk {
            Walk::NameByName => path.iter().position(|&b| b == b'/'),
            Walk::Openat2 if path.len() <= PATH_CHUNK => None,
            Walk::Openat2 => path[..=PATH_CHUNK].iter().rposition(|&b| b == b'/'),
        };
        cut.map_or((path, &[]), |i| (&path[..i], &path[i + 1..]))
    }

    fn open_step(
        &self,
        at: BorrowedFd<'_>,
        path: &[u8],
        flags: OFlags,
        mounts: Mounts,
    ) -> Result<OwnedFd> {
        host_calls::check();
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if self.walk == Walk::Openat2 {
            return openat2(at, path, flags, Mode::empty(), resolve(mounts));
        }
        let fd = openat(at, path, flags, Mode::empty())?;
        let crossed = || Ok::<_, Errno>(device(&stat_type(fd.as_fd())?) != self.dev);
        if mounts == Mounts::Refuse && !self.private && crossed()? {
            return Err(Errno::XDEV);
        }
        Ok(fd)
    }

    /// The attributes of `name` in the directory `dir`; `None` where there is no such name.
    ///
    /// # Errors
    /// `EINVAL` for what is no name (`..` would lead out); the host's.
    pub fn stat_name(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Statx>> {
        host_calls::check();
        check_name(name)?;
        let found = if self.private {
            // One name, not followed, with nothing mounted anywhere: as safe as opening it.
            statx(dir, name, STAT_FLAGS, STAT_MASK)
        } else {
            self.stat_name_opened(dir, name)
        };
        match found {
            Ok(st) => Ok(Some(st)),
            Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn stat_name_opened(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Statx> {
        match self.open_step(dir, name, LOOK, Mounts::Refuse) {
            Ok(fd) => stat_fd(fd.as_fd()),
            Err(Errno::XDEV) => {
                // It may be our own mount: to ask for more than is cached could wait for ourselves.
                stat_type(self.open_step(dir, name, LOOK, Mounts::Enter)?.as_fd())
            }
            Err(e) => Err(e),
        }
    }

    /// Reopens a directory for reading its entries, without touching its access time.
    ///
    /// # Errors
    /// The host's.
    pub fn open_for_reading(&self, dir: BorrowedFd<'_>) -> Result<OwnedFd> {
        host_calls::check();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        keeping_atime(flags, |flags| openat(dir, c".", flags, Mode::empty()))
    }

    /// For tests: behaves as on kernels and for users that cannot do better.
    #[cfg(test)]
    pub fn open_degraded(path: &Path, walk: Walk) -> Result<Tree> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty())?;
        Ok(Tree { root, private: false, keeps_atime: false, walk, ..Tree::open(path)? })
    }
}

/// Calls `open` with `O_NOATIME` added, and without it where the file is not ours.
fn keeping_atime(
    flags: OFlags,
    open: impl Fn(OFlags) -> rustix::io::Result<OwnedFd>,
) -> Result<OwnedFd> {
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        other => other,
    }
}

/// The attributes of an open object.
pub(super) fn stat_fd(fd: BorrowedFd<'_>) -> Result<Statx> {
    host_calls::check();
    statx(fd, c"", STAT_FLAGS | AtFlags::EMPTY_PATH, STAT_MASK)
}

fn expect_regular(fd: BorrowedFd<'_>) -> Result<Statx> {
    let st = stat_fd(fd)?;
    match FileType::from_mode(st.stx_mode.into()) {
        Some(FileType::Regular) => Ok(st),
        Some(FileType::Directory) => Err(Errno::ISDIR),
        Some(FileType::Symlink) => Err(Errno::LOOP),
        _ => Err(Errno::NXIO),
    }
}

/// As [`stat_fd`], but with nothing asked for that a remote file system might have to fetch.
fn stat_type(fd: BorrowedFd<'_>) -> Result<Statx> {
    statx(fd, c"", STAT_FLAGS | AtFlags::EMPTY_PATH, StatxFlags::TYPE)
}

fn resolve(mounts: Mounts) -> ResolveFlags {
    let flags = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match mounts {
        Mounts::Refuse => flags | ResolveFlags::NO_XDEV,
        Mounts::Enter => flags,
    }
}

/// The device of an object, as major << 32 | minor.
pub(super) fn device(st: &Statx) -> u64 {
    u64::from(st.stx_dev_major) << 32 | u64::from(st.stx_dev_minor)
}
