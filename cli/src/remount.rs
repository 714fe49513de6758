//! `-o remount`: flags of a mount are changed; all other options stay as the mount was begun with, or the remount fails.
//!
//! mount(8) hands its helper the options of fstab too when it remounts, so an option is accepted that says what is the
//! case already. What is the case is read from the command line of the daemon.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use overcoat::daemon;
use rustix::mount::MountFlags;

use crate::args::{self, Call};
use crate::call_options;
use crate::failure::Failure;
use crate::options::Options;
use crate::preflight::errno_text;

/// Remounts what is mounted at `mountpoint`, which must not be a link.
pub fn run(options: &Options, mountpoint: &Path) -> Result<(), Failure> {
    let begun = daemon::serving(mountpoint).and_then(begun_with);
    if let Some(name) = options.differing_from(begun.as_ref()).first() {
        return Err(Failure::run_time(format!(
            "remount: {name} would have no effect: it is as it was when {} was mounted (unmount it, and mount it anew)",
            mountpoint.display()
        )));
    }
    let view_only = begun.is_some_and(|begun| begun.upper.is_none());
    if view_only && !options.flags.contains(MountFlags::RDONLY) {
        return Err(Failure::run_time(format!(
            "remount: rw would have no effect: {} has no upperdir",
            mountpoint.display()
        )));
    }
    let failed = |error| {
        Failure::run_time(format!("remounting {}: {}", mountpoint.display(), errno_text(error)))
    };
    rustix::mount::mount_remount(mountpoint, options.flags, "").map_err(failed)?;
    match options.propagation {
        Some(propagation) => rustix::mount::mount_change(mountpoint, propagation).map_err(failed),
        None => Ok(()),
    }
}

/// The options of the mount that the process `pid` was started for, if it is a process of this program.
fn begun_with(pid: u32) -> Option<Options> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = line.strip_suffix(b"\0")?.split(|&byte| byte == 0);
    match args::parse(words.map(|word| OsString::from_vec(word.to_vec())).collect()).ok()? {
        Call::Mount(call) => call_options::read(&call).ok(),
        _ => None,
    }
}
