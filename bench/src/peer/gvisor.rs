//! gVisor's `runsc`: an overlay in the sandbox's own kernel.

use std::path::Path;
use std::process::Command;

use crate::mount_dirs::MountDirs;
use crate::{Result, goal, tool};

use super::Peer;

pub struct Runsc;

impl Peer for Runsc {
    fn name(&self) -> &'static str {
        goal::RUNSC
    }

    fn check(&self) -> Result {
        tool::find("RUNSC", "runsc").map(drop)
    }

    fn shows_on_host(&self) -> bool {
        false
    }

    fn mount(&self, dirs: &MountDirs) -> Result {
        tool::shell("mount --bind \"$1\" \"$2\"", &[&dirs.lower, &dirs.mount_point])?;
        Ok(())
    }

    /// The upper lives as long as the command, in a file beside the view.
    fn command(&self, root: &Path, words: &[&str]) -> Command {
        let store = root.with_file_name("writable");
        let mut command = Command::new(tool::find("RUNSC", "runsc").unwrap_or("runsc".into()));
        command
            .args(["--network=none", "--ignore-cgroups"])
            .arg(format!("--overlay2=all:{}", store.display()))
            .args(["do", "--force-overlay=false", "--cwd=/"])
            .arg(format!("--root={}", root.display()))
            .arg("--")
            .args(words);
        command
    }
}
