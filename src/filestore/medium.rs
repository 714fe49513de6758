//! Where the host file comes from: a named file, an unlinked one, memory.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FlockOperation, MemfdFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::wait::{self, Holding};
use super::{Backing, HostFile};
use crate::config::Medium;
use crate::sys::tree::writable_copy_of;

/// Its name while it is made, where the host cannot make a file without a name.
const NEW_NAME: &str = ".overcoat.filestore.new";

/// Why a filestore could not be opened. Displays as one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The magic is missing.
    NotAFilestore,
    /// A later version wrote it, or one with features that this one lacks.
    NewerVersion(u32),
    /// Neither slot of the superblock is whole.
    DamagedSuperblock,
    /// The journal's first segment is not what the superblock says.
    DamagedJournal,
    /// The journal breaks off, although the last mount ended in order.
    CutJournal,
    /// Shorter than its superblock, or cut off before its journal.
    Truncated,
    /// This many blocks in use lie beyond its end.
    CutOff(u64),
    /// Another process has it open.
    InUse,
    /// There is none.
    Missing,
    /// The host refused what the text says.
    Host(&'static str, Errno),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::NotAFilestore => f.write_str("not a filestore (no magic at its start)"),
            OpenError::NewerVersion(v) => {
                write!(f, "the filestore has format version {v}, which this program does not know")
            }
            OpenError::DamagedSuperblock => {
                f.write_str("the filestore's superblock is damaged (both copies)")
            }
            OpenError::DamagedJournal => {
                f.write_str("the start of the filestore's journal is damaged")
            }
            OpenError::CutJournal => f.write_str(
                "the filestore's journal is damaged: it breaks off, though the last mount ended in order \
                 (nothing was changed; restore the file from a copy)",
            ),
            OpenError::Truncated => f.write_str("the filestore is cut off before its journal"),
            OpenError::CutOff(blocks) => {
                write!(f, "the filestore is cut off: {blocks} blocks in use lie beyond its end")
            }
            OpenError::InUse => f.write_str("the filestore is in use (already mounted?)"),
            OpenError::Missing => f.write_str("there is no filestore"),
            OpenError::Host(what, err) => {
                let err = std::io::Error::from_raw_os_error(err.raw_os_error());
                write!(f, "the filestore could not be {what}: {err}")
            }
        }
    }
}

impl std::error::Error for OpenError {}

/// How a filestore is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To look: shared with others who look.
    ReadOnly,
    /// To mount: with nobody else.
    ReadWrite,
}

fn host(what: &'static str) -> impl Fn(Errno) -> OpenError {
    move |err| OpenError::Host(what, err)
}

fn lock(fd: impl AsFd, access: Access) -> Result<(), OpenError> {
    let how = match access {
        Access::ReadOnly => FlockOperation::NonBlockingLockShared,
        Access::ReadWrite => FlockOperation::NonBlockingLockExclusive,
    };
    rustix::fs::flock(fd, how).map_err(|err| match err {
        Errno::WOULDBLOCK => OpenError::InUse,
        err => OpenError::Host("locked", err),
    })
}

/// A directory claimed for one mount, until dropped. A mount lets go of it when the connection has
/// ended, and of the filestore's own lock only when that is closed in order: so whoever has the
/// claim and finds the filestore in use need only wait.
#[derive(Debug)]
pub struct Claim(#[allow(dead_code)] OwnedFd);

/// Opens the directory `path` for [`claim`] and for the filestore in it: through a private copy of the host's
/// mount where this process may make one, so that the host's file system can be unmounted as that of an upper directory of
/// overlayfs can (`clone_private_mount` in fs/overlayfs/super.c).
///
/// # Errors
/// Of open(2).
pub fn open_dir(path: &Path) -> Result<OwnedFd, OpenError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(host("opened"))?;
    Ok(writable_copy_of(&dir).unwrap_or(dir))
}

/// Claims `dir` for a mount, or (shared) for looking at what lies in it. Waits where a mount has it that is not there any more.
///
/// # Errors
/// [`OpenError::InUse`] where a mount has it that is still there.
pub fn claim(dir: impl AsFd, access: Access) -> Result<Claim, OpenError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, ".", flags, Mode::empty()).map_err(host("opened"))?;
    let stat = || rustix::fs::fstat(&fd);
    wait::until_free(Holding::Claim, &OpenError::InUse, stat, || lock(&fd, access))?;
    Ok(Claim(fd))
}

/// Does `open`, which opens the filestore `name` of the claimed directory `dir`; again as long as it is in use: a mount that has
/// let go of the claim is closing it.
///
/// # Errors
/// Of `open`; [`OpenError::InUse`] where its holder does nothing any more.
pub fn open_claimed<T>(
    dir: BorrowedFd<'_>,
    name: &Path,
    open: impl FnMut() -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    let stat = || rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    wait::until_free(Holding::Filestore, &OpenError::InUse, stat, open)
}

fn backing(fd: OwnedFd) -> Result<HostFile, OpenError> {
    HostFile::new(File::from(fd)).map_err(host("examined"))
}

/// Opens and locks the file `name` of `dir` (no symbolic link); `None` when there is none.
pub fn open_named(
    dir: BorrowedFd<'_>,
    name: &Path,
    access: Access,
) -> Result<Option<HostFile>, OpenError> {
    let mode = if access == Access::ReadOnly { OFlags::RDONLY } else { OFlags::RDWR };
    let flags = mode | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    loop {
        let fd = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Err(OpenError::NotAFilestore),
            opened => opened.map_err(host("opened"))?,
        };
        let stat = rustix::fs::fstat(&fd).map_err(host("examined"))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            return Err(OpenError::NotAFilestore);
        }
        lock(&fd, access)?;
        // Whoever had it before may have replaced it just before we got the lock.
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(now) if (now.st_dev, now.st_ino) == (stat.st_dev, stat.st_ino) => {
                return backing(fd).map(Some);
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(err) => return Err(OpenError::Host("examined", err)),
        }
    }
}

/// A file without a name in `dir`, or one that has `NEW_NAME` until [`publish`] moves it.
fn nameless(dir: BorrowedFd<'_>) -> Result<(OwnedFd, bool), OpenError> {
    let (flags, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    match rustix::fs::openat(dir, ".", flags | OFlags::TMPFILE, mode) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {}
        made => return Ok((made.map_err(host("created"))?, true)),
    }
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let made = match rustix::fs::openat(dir, NEW_NAME, flags, mode) {
        Err(Errno::EXIST) => {
            // Left behind by a crash, unless somebody holds its lock.
            let stale = open_named(dir, Path::new(NEW_NAME), Access::ReadWrite)?;
            if stale.is_some() {
                rustix::fs::unlinkat(dir, NEW_NAME, AtFlags::empty()).map_err(host("created"))?;
            }
            rustix::fs::openat(dir, NEW_NAME, flags, mode)
        }
        made => made,
    };
    Ok((made.map_err(host("created"))?, false))
}

/// Links the file to its name. False when that name is taken.
fn publish(
    dir: BorrowedFd<'_>,
    name: &Path,
    file: &HostFile,
    nameless: bool,
) -> Result<bool, OpenError> {
    let linked = if nameless {
        let fd = file.fd().ok_or(OpenError::Host("created", Errno::BADF))?;
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        rustix::fs::linkat(CWD, link.as_str(), dir, name, AtFlags::SYMLINK_FOLLOW)
    } else {
        match rustix::fs::linkat(dir, NEW_NAME, dir, name, AtFlags::empty()) {
            // No hard links here (FAT, some network file systems).
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {
                let moved =
                    rustix::fs::renameat_with(dir, NEW_NAME, dir, name, RenameFlags::NOREPLACE);
                if moved.is_err() {
                    rustix::fs::unlinkat(dir, NEW_NAME, AtFlags::empty())
                        .map_err(host("removed again"))?;
                }
                moved
            }
            linked => {
                rustix::fs::unlinkat(dir, NEW_NAME, AtFlags::empty()).map_err(host("created"))?;
                linked
            }
        }
    };
    match linked {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(err) => Err(OpenError::Host("created", err)),
    }
}

/// Makes the file `name` in `dir` (mode 0600), locked, which nobody sees before `fill` has written
/// it. `None` when somebody else made one meanwhile. `durable`: its name is, on return.
pub fn create_named(
    dir: BorrowedFd<'_>,
    name: &Path,
    durable: bool,
    fill: impl FnOnce(&HostFile) -> Result<(), Errno>,
) -> Result<Option<HostFile>, OpenError> {
    let (fd, has_no_name) = nameless(dir)?;
    lock(&fd, Access::ReadWrite)?;
    let file = backing(fd)?;
    let filled = fill(&file).and_then(|()| if durable { file.sync() } else { Ok(()) });
    if let Err(err) = filled {
        if !has_no_name {
            rustix::fs::unlinkat(dir, NEW_NAME, AtFlags::empty()).map_err(host("removed again"))?;
        }
        return Err(OpenError::Host("created", err));
    }
    if !publish(dir, name, &file, has_no_name)? {
        return Ok(None);
    }
    if durable {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(dir, ".", flags, Mode::empty()).map_err(host("synced"))?;
        rustix::fs::fsync(dir).map_err(host("synced"))?;
    }
    Ok(Some(file))
}

/// The host file of a medium that does not outlive the mount.
pub fn unnamed(medium: &Medium) -> Result<HostFile, OpenError> {
    let dir = match medium {
        Medium::Dir(dir) => dir,
        Medium::Memory | Medium::OwnFile => {
            let fd = rustix::fs::memfd_create("overcoat", MemfdFlags::CLOEXEC)
                .map_err(host("created"))?;
            return backing(fd);
        }
    };
    let dir = open_dir(dir)?;
    let (fd, has_no_name) = nameless(dir.as_fd())?;
    if !has_no_name {
        rustix::fs::unlinkat(&dir, NEW_NAME, AtFlags::empty()).map_err(host("created"))?;
    }
    backing(fd)
}
