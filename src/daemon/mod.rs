//! What a process does around its mounts: it goes into the background, says when the mount answers, and ends the mount at
//! a signal. Used by the command line; of use to every program that serves a mount.
//!
//! Also the system calls on processes that such a program needs and that no safe crate carries.

mod background;
mod limits;
mod signals;
mod unmount;

pub use crate::sys::mountinfo::{MountPoint, mounts};
pub use crate::sys::process::{
    Fork, Signals, Taken, fork, inherited_descriptors, set_mount_read_only, unshare,
};
pub use background::{Reporter, Side, SplitError, Waiting, split};
pub use limits::{LimitError, shed_inherited_limits};
pub use signals::{Place, block_ending_signals, serve};
pub use unmount::{serving, unmount};
