//! What the kernel does by itself.

use crate::mount_dirs::MountDirs;
use crate::{Result, goal, tool};

use super::Peer;

/// A directory of the host with a copy of the image.
pub struct Plain;

impl Peer for Plain {
    fn name(&self) -> &'static str {
        goal::PLAIN
    }

    fn mount(&self, dirs: &MountDirs) -> Result {
        tool::shell(
            "cp -a \"$1/.\" \"$2\"; mount --bind \"$2\" \"$3\"",
            &[&dirs.lower, &dirs.upper, &dirs.mount_point],
        )?;
        Ok(())
    }
}

/// The kernel's overlayfs.
pub struct Overlay {
    name: &'static str,
    tmpfs: bool,
    option: &'static str,
}

pub const OVERLAY: Overlay = Overlay { name: goal::OVERLAY, tmpfs: false, option: "" };
pub const OVERLAY_VOLATILE: Overlay =
    Overlay { name: goal::OVERLAY_VOLATILE, tmpfs: false, option: ",volatile" };
pub const OVERLAY_TMPFS: Overlay = Overlay { name: goal::OVERLAY_TMPFS, tmpfs: true, option: "" };

impl Peer for Overlay {
    fn name(&self) -> &'static str {
        self.name
    }

    fn upper_on_tmpfs(&self) -> bool {
        self.tmpfs
    }

    fn mount(&self, dirs: &MountDirs) -> Result {
        // A volatile mount leaves this, and refuses to mount where it finds it.
        let volatile = dirs.work.join("work/incompat");
        tool::shell("rm -rf \"$1\"", &[&volatile])?;
        let options = format!(
            "lowerdir={},upperdir={},workdir={}{}",
            dirs.lower.display(),
            dirs.upper.display(),
            dirs.work.display(),
            self.option
        );
        tool::shell(
            "mount -t overlay overlay -o \"$1\" \"$2\"",
            &[options.as_ref(), &dirs.mount_point],
        )?;
        Ok(())
    }
}
