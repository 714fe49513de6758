//! What can be known to go wrong before anything is opened or mounted.

use std::io;
use std::path::{Path, PathBuf};

use overcoat::Errno;
use rustix::fs::{Mode, OFlags};

use crate::failure::Failure;

/// The device through which the kernel reaches a file system in user space.
pub const FUSE_DEVICE: &str = "/dev/fuse";

/// Checks that `path` is a directory; `role` is the option that named it.
pub fn directory(role: &str, path: &Path) -> Result<(), Failure> {
    let problem = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => "not a directory".to_owned(),
        Err(error) => describe(&error),
    };
    Err(Failure::run_time(format!("{role} {}: {problem}", path.display())))
}

/// Checks that `path` can be mounted on, and gives it without links and relative parts.
pub fn mountpoint(path: &Path) -> Result<PathBuf, Failure> {
    directory("mountpoint", path)?;
    path.canonicalize().map_err(|error| {
        Failure::run_time(format!("mountpoint {}: {}", path.display(), describe(&error)))
    })
}

/// Checks that this user may talk to the kernel's FUSE.
pub fn fuse_device() -> Result<(), Failure> {
    let opened = rustix::fs::open(FUSE_DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let hint = match opened {
        Ok(_) => return Ok(()),
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
            "not there (load the module with 'modprobe fuse'; a container needs '--device /dev/fuse')"
                .to_owned()
        }
        Err(Errno::ACCESS | Errno::PERM) => {
            "permission denied (it is usually open to all users: 'chmod 666 /dev/fuse' as root)".to_owned()
        }
        Err(error) => errno_text(error),
    };
    Err(Failure::run_time(format!("{FUSE_DEVICE}: {hint}")))
}

/// What an error means for a directory that was asked for.
pub fn describe(error: &io::Error) -> String {
    match Errno::from_io_error(error).unwrap_or(Errno::IO) {
        Errno::NOENT => "no such directory".to_owned(),
        Errno::NOTCONN => {
            "a file system in user space died there ('umount -l' it first)".to_owned()
        }
        other => errno_text(other),
    }
}

/// The system's name for an error, without its number.
pub fn errno_text(error: Errno) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_directory_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(directory("lowerdir", dir.path()).is_ok());
        let line = directory("lowerdir", &file).unwrap_err().line().to_owned();
        assert_eq!(line, format!("lowerdir {}: not a directory", file.display()));
        let line = mountpoint(&dir.path().join("gone")).unwrap_err().line().to_owned();
        assert!(line.ends_with("gone: no such directory"), "{line}");
    }
}
