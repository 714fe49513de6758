//! Daemons behind FUSE, Overcoat among them.

use std::path::PathBuf;
use std::process::Command;

use crate::mount_dirs::MountDirs;
use crate::{Result, goal, tool};

use super::Peer;

/// fuse-overlayfs 2, of `cargo install fuse-overlayfs`.
pub struct FuseOverlayfs;

impl Peer for FuseOverlayfs {
    fn name(&self) -> &'static str {
        goal::FUSE_OVERLAYFS
    }

    fn check(&self) -> Result {
        let program = tool::find("FUSE_OVERLAYFS", "fuse-overlayfs")?;
        let version = tool::run(Command::new(&program).arg("--version"))?;
        if version.contains("fuse-overlayfs: version 1.") {
            return Err(format!("{} is version 1", program.display()).into());
        }
        Ok(())
    }

    fn mount(&self, dirs: &MountDirs) -> Result {
        let options = format!("{},workdir={},dev", layers(dirs), dirs.work.display());
        let program = tool::find("FUSE_OVERLAYFS", "fuse-overlayfs")?;
        tool::run(Command::new(program).arg("-o").arg(options).arg(&dirs.mount_point))?;
        Ok(())
    }
}

pub struct Overcoat {
    name: &'static str,
    options: &'static str,
    uring: bool,
}

pub const OVERCOAT: Overcoat =
    Overcoat { name: "overcoat", options: ",transport=dev", uring: false };
pub const OVERCOAT_URING: Overcoat =
    Overcoat { name: "overcoat-uring", options: ",transport=uring", uring: true };
pub const OVERCOAT_VOLATILE: Overcoat =
    Overcoat { name: "overcoat-volatile", options: ",volatile", uring: false };
pub const OVERCOAT_THROUGH: Overcoat =
    Overcoat { name: "overcoat-through", options: ",transport=uring,writeback=off", uring: true };

/// Whether the kernel offers FUSE over io_uring, which is off unless asked for.
const URING_PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

impl Peer for Overcoat {
    fn name(&self) -> &'static str {
        self.name
    }

    fn check(&self) -> Result {
        program()?;
        if !self.uring {
            return Ok(());
        }
        let enabled = std::fs::read_to_string(URING_PARAMETER).unwrap_or_default();
        if enabled.trim() == "Y" {
            return Ok(());
        }
        Err(format!("{URING_PARAMETER} is not Y").into())
    }

    fn mount(&self, dirs: &MountDirs) -> Result {
        let options = format!("{}{}", layers(dirs), self.options);
        tool::run(
            Command::new(program()?).args(["mount", "-o"]).arg(options).arg(&dirs.mount_point),
        )?;
        Ok(())
    }
}

fn program() -> Result<PathBuf> {
    tool::find("OVERCOAT", "overcoat")
}

fn layers(dirs: &MountDirs) -> String {
    format!("lowerdir={},upperdir={}", dirs.lower.display(), dirs.upper.display())
}
