//! The helper of umount(8): unmounts, and returns when the daemon has closed the upper.

use overcoat::{Errno, daemon};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::args::UnmountCall;
use crate::failure::Failure;
use crate::preflight::errno_text;

/// Unmounts as `call` says.
pub fn run(call: &UnmountCall) -> Result<(), Failure> {
    let mut flags = UnmountFlags::empty();
    flags.set(UnmountFlags::DETACH, call.lazy);
    flags.set(UnmountFlags::FORCE, call.force);
    let mut say = |line: String| eprintln!("overcoat: {}: {line}", call.target.display());
    match daemon::unmount(&call.target, flags, &mut say) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) if call.or_read_only => {
            rustix::mount::mount_remount(&call.target, MountFlags::RDONLY, "").map_err(|error| {
                Failure::run_time(format!(
                    "{}: in use, and cannot be remounted read-only: {}",
                    call.target.display(),
                    errno_text(error)
                ))
            })
        }
        Err(error) => Err(Failure::run_time(format!(
            "unmounting {}: {}",
            call.target.display(),
            errno_text(error)
        ))),
    }
}
