//! What is compared.

mod fuse;
mod gvisor;
mod kernel;
pub mod null;

use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::mount_dirs::MountDirs;

pub trait Peer {
    fn name(&self) -> &'static str;

    /// Why it cannot be had on this machine, if so.
    fn check(&self) -> Result {
        Ok(())
    }

    fn upper_on_tmpfs(&self) -> bool {
        false
    }

    /// Whether other processes see the view: in a sandbox only its own commands do.
    fn shows_on_host(&self) -> bool {
        true
    }

    /// Whether it shows an image: some only take what is written.
    fn has_layers(&self) -> bool {
        true
    }

    /// Mounts the view at `dirs.mount_point`, where umount(2) ends it.
    fn mount(&self, dirs: &MountDirs) -> Result;

    /// A command whose root is the view.
    fn command(&self, root: &Path, words: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-euc"])
            .arg(
                "root=$1; shift; mount -t proc proc \"$root/proc\"; mount --rbind /dev \"$root/dev\"; \
                 exec chroot \"$root\" \"$@\"",
            )
            .arg("sh")
            .arg(root)
            .args(words)
            .env("HOME", "/root")
            .env("LC_ALL", "C")
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

/// All, in the order of the report.
pub fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(kernel::Plain),
        Box::new(kernel::OVERLAY),
        Box::new(kernel::OVERLAY_VOLATILE),
        Box::new(kernel::OVERLAY_TMPFS),
        Box::new(fuse::FuseOverlayfs),
        Box::new(gvisor::Runsc),
        Box::new(fuse::OVERCOAT),
        Box::new(fuse::OVERCOAT_URING),
        Box::new(fuse::OVERCOAT_VOLATILE),
        Box::new(fuse::OVERCOAT_THROUGH),
        Box::new(null::Null),
    ]
}
