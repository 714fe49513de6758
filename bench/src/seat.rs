//! The directories of one mount, and the mounted view as a guard.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::peer::Peer;
use crate::{Result, tool};

/// Where one mount is to be. Its files go when it is dropped.
#[derive(Debug)]
pub struct Seat {
    /// Absolute, as are the others.
    base: PathBuf,
    pub lower: PathBuf,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub point: PathBuf,
    tmpfs: bool,
}

impl Seat {
    /// A fresh one below `base`, whose upper is on a tmpfs or on the host's file system.
    pub fn new(base: &Path, lower: PathBuf, tmpfs: bool) -> Result<Self> {
        std::fs::create_dir_all(base)?;
        let base = base.canonicalize()?;
        let mut seat = Self {
            lower,
            upper: base.join("writable/upper"),
            work: base.join("writable/work"),
            point: base.join("view"),
            base,
            tmpfs: false,
        };
        seat.clear()?;
        std::fs::create_dir_all(&seat.point)?;
        std::fs::create_dir_all(seat.base.join("writable"))?;
        if tmpfs {
            tool::shell("mount -t tmpfs -o size=80% bench \"$1/writable\"", &[&seat.base])?;
            seat.tmpfs = true;
        }
        std::fs::create_dir(&seat.upper)?;
        std::fs::create_dir(&seat.work)?;
        Ok(seat)
    }

    /// Takes the files away, whatever an earlier run left mounted there included.
    fn clear(&self) -> Result {
        for place in [&self.point, &self.base.join("writable")] {
            while rustix::mount::unmount(place, UnmountFlags::DETACH).is_ok() {}
        }
        tool::shell("rm -rf --one-file-system \"$1\"", &[&self.base]).map(drop)
    }

    /// What the upper takes on its file system.
    pub fn upper_kib(&self) -> Result<u64> {
        let said = tool::shell("du -sk \"$1\"", &[&self.upper])?;
        Ok(said.split_whitespace().next().unwrap_or_default().parse()?)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("bench: {error}");
        }
    }
}

/// A mounted view.
pub struct View<'a> {
    peer: &'a dyn Peer,
    /// Taken by `unmount`.
    seat: Option<Seat>,
    point: PathBuf,
    /// What serves it, where that is a process.
    pub daemon: Option<u32>,
}

impl<'a> View<'a> {
    pub fn mount(peer: &'a dyn Peer, seat: Seat) -> Result<Self> {
        let point = seat.point.clone();
        peer.mount(&seat)?;
        let mut view = Self { peer, seat: Some(seat), point, daemon: None };
        // Mounted is what answers.
        rustix::fs::stat(&view.point)?;
        view.daemon = tool::process_with_argument(&view.point);
        Ok(view)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }

    /// What the upper takes on its file system.
    pub fn upper_kib(&self) -> Result<u64> {
        self.seat.as_ref().map_or(Ok(0), Seat::upper_kib)
    }

    /// A command with the view as its root.
    pub fn command(&self, words: &[&str]) -> Command {
        self.peer.command(&self.point, words)
    }

    /// Runs a shell script with the view as its root.
    pub fn shell(&self, script: &str) -> Result<String> {
        tool::run(&mut self.command(&["/bin/sh", "-euc", script]))
    }

    /// Returns once the view is gone and what served it has ended. The files stay as long as the seat.
    pub fn unmount(mut self) -> Result<Seat> {
        let daemon = self.daemon.and_then(|pid| open(pid).ok());
        rustix::mount::unmount(&self.point, UnmountFlags::empty())
            .map_err(|error| format!("unmount {}: {error}", self.point.display()))?;
        if let Some(daemon) = daemon {
            poll(&mut [PollFd::new(&daemon, PollFlags::IN)], None)?;
        }
        self.seat.take().ok_or_else(|| "unmounted twice".into())
    }
}

fn open(pid: u32) -> Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("a pid")?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
