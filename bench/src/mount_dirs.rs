//! The directories of one mount.

use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

use crate::{Result, tool};

/// The directories of one mount, below one directory that is removed on drop.
#[derive(Debug)]
pub struct MountDirs {
    /// Absolute, as are the others.
    base: PathBuf,
    pub lower: PathBuf,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub mount_point: PathBuf,
    tmpfs: bool,
}

impl MountDirs {
    /// Makes them below `base`, the upper on a tmpfs or on the host's file system.
    pub fn new(base: &Path, lower: PathBuf, tmpfs: bool) -> Result<Self> {
        std::fs::create_dir_all(base)?;
        let base = base.canonicalize()?;
        let mut dirs = Self {
            lower,
            upper: base.join("writable/upper"),
            work: base.join("writable/work"),
            mount_point: base.join("view"),
            base,
            tmpfs: false,
        };
        dirs.clear()?;
        std::fs::create_dir_all(&dirs.mount_point)?;
        std::fs::create_dir_all(dirs.base.join("writable"))?;
        if tmpfs {
            tool::shell("mount -t tmpfs -o size=80% bench \"$1/writable\"", &[&dirs.base])?;
            dirs.tmpfs = true;
        }
        std::fs::create_dir(&dirs.upper)?;
        std::fs::create_dir(&dirs.work)?;
        Ok(dirs)
    }

    /// Unmounts what an earlier run left mounted, and removes all files.
    fn clear(&self) -> Result {
        for place in [&self.mount_point, &self.base.join("writable")] {
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

impl Drop for MountDirs {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("bench: {error}");
        }
    }
}
