//! What of the host shows in the view beside the layers.
//!
//! /proc, /sys and /dev are the host's own. The view's layers end where another file system is mounted;
//! with the host's `/` as the layer, what is mounted there shows read-only, as it could not be given back
//! what a command changes in it, and /tmp and /var/tmp are empty where they are file systems of their own.
//! With another layer the host's resolv.conf lies over the layer's.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use overcoat::Errno;
use overcoat::daemon::{self, set_mount_read_only};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::failure::Failure;
use crate::preflight::errno_text;

type Result<T> = std::result::Result<T, Errno>;

/// Always there, and as on the host.
const SYSTEM: &[&str] = &["/proc", "/sys", "/dev"];

/// Where programs expect to write.
const SCRATCH: &[&str] = &["/tmp", "/var/tmp"];

pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A mount that is attached nowhere yet.
pub struct Bind {
    tree: OwnedFd,
    at: PathBuf,
    /// A file, which is made where there is none.
    is_file: bool,
    /// The view is of no use without it.
    needed: bool,
}

/// Takes hold of all that a view shows. `of_root`: its layer is the host's `/`.
pub fn gather(of_root: bool) -> std::result::Result<Vec<Bind>, Failure> {
    let mut binds = Vec::new();
    for at in SYSTEM {
        let tree = clone_tree(Path::new(at))
            .map_err(|error| Failure::run_time(format!("{at}: {}", errno_text(error))))?;
        binds.push(Bind { tree, at: PathBuf::from(at), is_file: false, needed: true });
    }
    if of_root {
        let mounts = daemon::mounts()
            .map_err(|error| Failure::run_time(format!("/proc/self/mountinfo: {error}")))?;
        let places = submounts(mounts.into_iter().map(|mount| mount.path));
        binds.extend(places.into_iter().filter_map(submount));
    } else if let Ok(tree) = clone_tree(Path::new(RESOLV_CONF)) {
        if set_mount_read_only(&tree, true).is_ok() {
            let at = PathBuf::from(RESOLV_CONF);
            binds.push(Bind { tree, at, is_file: true, needed: false });
        }
    }
    Ok(binds)
}

/// The place of the read-only file system of the host that holds `path` in the view.
pub fn read_only_at<'a>(binds: &'a [Bind], path: &Path) -> Option<&'a Path> {
    let holds = |bind: &&Bind| !bind.needed && path.starts_with(&bind.at);
    binds.iter().find(holds).map(|bind| bind.at.as_path())
}

/// What cannot be shown is left out: it may be of no concern to the command.
fn submount(at: PathBuf) -> Option<Bind> {
    let tree = if is_scratch(&at) {
        empty_directory()
    } else {
        clone_tree(&at).and_then(|tree| set_mount_read_only(&tree, true).map(|()| tree))
    };
    let is_file = at.is_file();
    match tree {
        Ok(tree) => Some(Bind { tree, at, is_file, needed: false }),
        Err(error) => {
            tracing::debug!("{} is left out: {}", at.display(), errno_text(error));
            None
        }
    }
}

fn is_scratch(at: &Path) -> bool {
    SCRATCH.iter().any(|scratch| at == Path::new(scratch))
}

fn clone_tree(path: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    open_tree(CWD, path, flags)
}

fn empty_directory() -> Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "1777")?;
    fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// The places where other file systems are mounted, without those which lie below another
/// one, or below what is shown anyway.
fn submounts(mounted: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = mounted
        .filter(|at| at != Path::new("/") && !SYSTEM.iter().any(|system| at.starts_with(system)))
        .collect();
    places.sort();
    let mut top: Vec<PathBuf> = Vec::new();
    for place in places {
        if !top.iter().any(|above| place.starts_with(above)) {
            top.push(place);
        }
    }
    top
}

/// Attaches `binds` below the caller's root, each at its place, which is made where it is missing.
pub fn attach(binds: Vec<Bind>) -> std::result::Result<(), Failure> {
    for bind in binds {
        if let Err(error) = attach_one(&bind) {
            let line = format!("{} in the view: {}", bind.at.display(), errno_text(error));
            if bind.needed {
                return Err(Failure::run_time(line));
            }
            tracing::debug!("{line}");
        }
    }
    Ok(())
}

fn attach_one(bind: &Bind) -> Result<()> {
    match move_to(bind) {
        Err(Errno::NOENT) => {
            if bind.is_file {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::open(&bind.at, flags, Mode::from_raw_mode(0o644))?;
            } else {
                rustix::fs::mkdir(&bind.at, Mode::from_raw_mode(0o755))?;
            }
            move_to(bind)
        }
        done => done,
    }
}

fn move_to(bind: &Bind) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(&bind.tree, "", CWD, &bind.at, flags)
}

/// Whether `path`, from the root of the view, was made to hold a bind rather than by the command.
pub fn is_place_of_bind(path: &[u8]) -> bool {
    let path = OsStr::from_bytes(path);
    let same = |place: &&str| Path::new(place).strip_prefix("/").is_ok_and(|place| place == path);
    SYSTEM.iter().chain(&[RESOLV_CONF]).any(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_uppermost_submounts_count() {
        let mounted = ["/proc", "/", "/dev/shm", "/home/me/a b", "/home", "/homes", "/run/x"];
        let expected = ["/home", "/homes", "/run/x"].map(PathBuf::from);
        assert_eq!(submounts(mounted.iter().map(PathBuf::from)), expected);
    }

    #[test]
    fn places_of_binds_are_no_changes() {
        assert!(is_place_of_bind(b"etc/resolv.conf") && is_place_of_bind(b"dev"));
        assert!(!is_place_of_bind(b"dev/null") && !is_place_of_bind(b""));
    }
}
