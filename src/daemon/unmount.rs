//! Unmounting, and waiting until the daemon has let go of the upper: what mount helpers are called for.

use crate::errno::Errno;
use crate::fuse;
use crate::presence::{self, Daemon, KIND, Stage};
use crate::sys::mountinfo::{self, MountPoint};
use rustix::mount::UnmountFlags;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a daemon may take to hear that its mount has ended. It may also never: other mounts of its file system that
/// cannot be seen from here keep it.
const HEARD_LIMIT: Duration = Duration::from_secs(10);

/// How long to wait before saying so.
const PATIENCE: Duration = Duration::from_secs(2);

/// Unmounts what is mounted at `target`, and returns when its daemon has closed the upper. A lazy unmount (`DETACH`) is not
/// waited for, nor one after which the file system is still mounted elsewhere. `say` is given a line after two seconds.
///
/// # Errors
/// Of umount2(2), or `EPERM` where fusermount3 refuses. Nothing has happened then.
pub fn unmount(
    target: &Path,
    flags: UnmountFlags,
    say: &mut dyn FnMut(String),
) -> Result<(), Errno> {
    let target = without_links(target);
    let daemon = find(&target);
    match rustix::mount::unmount(&target, flags) {
        Err(Errno::PERM) => fuse::unmount_by_helper(&target, flags.contains(UnmountFlags::DETACH))?,
        done => done?,
    }
    let lazy = flags.contains(UnmountFlags::DETACH);
    if let Some((_, daemon)) = daemon.filter(|(mount, _)| !lazy && !is_mounted(mount)) {
        wait(daemon, say);
    }
    Ok(())
}

/// The path with the links in front of its last name resolved: looking at that name itself asks the daemon.
fn without_links(target: &Path) -> PathBuf {
    let absolute = std::path::absolute(target).unwrap_or_else(|_| target.to_owned());
    match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => absolute,
    }
}

/// The process that serves what is mounted at `target`; `None` where that is no mount of Overcoat, or its daemon cannot be
/// reached (see [`crate::daemon::unmount`]).
pub fn serving(target: &Path) -> Option<u32> {
    find(&without_links(target)).map(|(_, daemon)| daemon.pid)
}

/// The topmost mount at `target`, and its daemon.
fn find(target: &Path) -> Option<(MountPoint, Daemon)> {
    let mounts = mountinfo::mounts().ok()?;
    let mount = mounts.into_iter().rfind(|mount| mount.path == target)?;
    if mount.kind != KIND {
        return None;
    }
    let daemon = presence::of_mount(&mount)?;
    Some((mount, daemon))
}

fn is_mounted(gone: &MountPoint) -> bool {
    let same = |mount: &MountPoint| mount.device == gone.device && mount.kind == gone.kind;
    mountinfo::mounts().is_ok_and(|mounts| mounts.iter().any(same))
}

fn wait(mut daemon: Daemon, say: &mut dyn FnMut(String)) {
    let begun = Instant::now();
    let (mut stage, mut said) = (Stage::Serving, false);
    loop {
        match daemon.wait(Duration::from_millis(500)) {
            Ok(Stage::Ended) | Err(_) => break,
            Ok(Stage::Ending) => stage = Stage::Ending,
            Ok(Stage::Serving) => {}
        }
        if stage == Stage::Serving && begun.elapsed() >= HEARD_LIMIT {
            say(format!("process {} still serves the file system elsewhere", daemon.pid));
            return;
        }
        if !said && begun.elapsed() >= PATIENCE {
            said = true;
            say(format!("waiting for process {}, which is closing the upper", daemon.pid));
        }
    }
    wait_for_exit(daemon.pid);
}

/// A daemon of one mount ends now. One that goes on has let go of the upper all the same.
fn wait_for_exit(pid: u32) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
    // Nothing depends on how this ends.
    poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).ok();
}
