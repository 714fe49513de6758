//! What ends a mount.

use std::path::{Path, PathBuf};

use crate::errno::{self, Errno, Result};
use crate::fuse::mount;
use crate::sys::mount as sys;

/// Where the kernel shows the connections of FUSE mounts, if fusectl is mounted.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Ends a mount.
#[derive(Clone, Debug)]
pub struct Unmounter {
    mountpoint: PathBuf,
    /// `None` where it could not be had.
    identity: Option<sys::Identity>,
}

impl Unmounter {
    /// For what is mounted at `mountpoint` now.
    pub(super) fn new(mountpoint: PathBuf) -> Unmounter {
        let identity = sys::identity(&mountpoint).ok();
        Unmounter { mountpoint, identity }
    }

    /// Where the mount is, as an absolute path.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The device number that `stat` shows of files in the mount.
    pub fn device(&self) -> Option<(u32, u32)> {
        self.identity.map(|identity| identity.device)
    }

    /// Detaches the mount: new users find the directory beneath, [`Mounted::run`] returns when the
    /// last one leaves. Without effect where this mount is not (or no longer) there.
    pub fn unmount(&self) -> Result<()> {
        match (sys::identity(&self.mountpoint), self.identity) {
            (Ok(now), Some(ours)) if now != ours => Ok(()),
            (Err(Errno::NOENT | Errno::NOTDIR), _) => Ok(()),
            _ => mount::unmount(&self.mountpoint),
        }
    }

    /// Ends the mount for everybody, also for those who still use it: what they wrote is written back, the mount is
    /// detached, and every request is `ENOTCONN` from then on. [`Mounted::run`](super::Mounted::run) returns soon
    /// afterwards. Without effect where this mount is not (or no longer) there.
    ///
    /// Without CAP_SYS_ADMIN this takes fusectl (/sys/fs/fuse/connections); where that is not mounted,
    /// present users go on until they leave.
    pub fn abort(&self) {
        if let Err(error) = self.write_back() {
            tracing::warn!("writing back before the mount is aborted: {error}");
        }
        if let Err(errno) = self.abort_connection() {
            tracing::debug!(%errno, "aborting the connection");
        }
        if let Err(errno) = self.unmount() {
            tracing::warn!(%errno, "unmounting");
        }
    }

    /// Ends the connection at once: every request that waits for an answer fails, and the mount answers no
    /// more. By umount2(2) with MNT_FORCE, which detaches the mount too, or else by fusectl.
    ///
    /// # Errors
    /// `EPERM`, `ENOENT` and the like without CAP_SYS_ADMIN and without fusectl. Only the end of the process
    /// helps then.
    pub(super) fn abort_connection(&self) -> Result<()> {
        if self.is_there() && sys::detach_by_force(&self.mountpoint).is_ok() {
            return Ok(());
        }
        let Some((_, connection)) = self.device() else { return Err(Errno::NOENT) };
        let written = std::fs::write(format!("{CONNECTIONS}/{connection}/abort"), "1");
        written.map_err(|error| errno::of_io(&error))
    }

    /// Whether the mountpoint leads to this mount.
    fn is_there(&self) -> bool {
        self.identity.is_some() && sys::identity(&self.mountpoint).ok() == self.identity
    }

    /// Has the kernel write back what it holds for this mount.
    fn write_back(&self) -> std::io::Result<()> {
        if !self.is_there() {
            return Ok(());
        }
        let root = std::fs::File::open(&self.mountpoint)?;
        Ok(rustix::fs::syncfs(root)?)
    }

    /// Lets the kernel gather as many dirty pages for this mount as for any other, which takes
    /// root; elsewhere its default stays.
    pub(super) fn relax_throttling(&self) {
        let Some((major, minor)) = self.device() else { return };
        for (file, value) in [("strict_limit", "0"), ("max_ratio", "100")] {
            let path = format!("/sys/class/bdi/{major}:{minor}/{file}");
            if let Err(error) = std::fs::write(&path, value) {
                tracing::debug!(path, %error, "dirty throttling stays as it is");
            }
        }
    }
}
