//! A mounted view as a guard.

use std::path::PathBuf;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::mount_dirs::MountDirs;
use crate::peer::Peer;
use crate::{Result, tool};

/// A mounted view.
pub struct View<'a> {
    peer: &'a dyn Peer,
    /// Taken by `unmount`.
    dirs: Option<MountDirs>,
    mount_point: PathBuf,
    /// The process that serves the mount, where one does.
    pub daemon: Option<u32>,
}

impl<'a> View<'a> {
    pub fn mount(peer: &'a dyn Peer, dirs: MountDirs) -> Result<Self> {
        let mount_point = dirs.mount_point.clone();
        peer.mount(&dirs)?;
        let mut view = Self { peer, dirs: Some(dirs), mount_point, daemon: None };
        // A mount counts as mounted when it answers.
        rustix::fs::stat(&view.mount_point)?;
        view.daemon = tool::process_with_argument(&view.mount_point);
        Ok(view)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.mount_point.join(name)
    }

    /// What the upper takes on its file system.
    pub fn upper_kib(&self) -> Result<u64> {
        self.dirs.as_ref().map_or(Ok(0), MountDirs::upper_kib)
    }

    /// A command with the view as its root.
    pub fn command(&self, words: &[&str]) -> Command {
        self.peer.command(&self.mount_point, words)
    }

    /// Runs a shell script with the view as its root.
    pub fn shell(&self, script: &str) -> Result<String> {
        tool::run(&mut self.command(&["/bin/sh", "-euc", script]))
    }

    /// Returns when the mount is gone and its daemon has ended. The files stay until the directories are dropped.
    pub fn unmount(mut self) -> Result<MountDirs> {
        let daemon = self.daemon.and_then(|pid| open(pid).ok());
        rustix::mount::unmount(&self.mount_point, UnmountFlags::empty())
            .map_err(|error| format!("unmount {}: {error}", self.mount_point.display()))?;
        if let Some(daemon) = daemon {
            poll(&mut [PollFd::new(&daemon, PollFlags::IN)], None)?;
        }
        self.dirs.take().ok_or_else(|| "unmounted twice".into())
    }
}

fn open(pid: u32) -> Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("a pid")?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
