//! Signals that end a mount.

use crate::errno::{Result, of_io};
use crate::mount::Mount;
use crate::sys::process::{self, Signals};
use std::sync::Arc;

/// The signals that end a mount.
const ENDING: &[i32] = &[libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// The processes that a signal's sender may mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A daemon: whoever sends it a signal means it.
    Background,
    /// A job of a shell, which gets the signals of its terminal. One that is ignored stays so (nohup(1), a job in the background
    /// of a script); SIGTERM always ends the mount.
    Foreground,
}

/// Blocks the signals that end a mount, so that [`serve`] can wait for them. To be called before any thread is started.
///
/// # Errors
/// Of pthread_sigmask(3).
pub fn block_ending_signals(place: Place) -> Result<Signals> {
    let stays = |signal: i32| {
        place == Place::Foreground && signal != libc::SIGTERM && process::is_ignored(signal)
    };
    let ending: Vec<i32> = ENDING.iter().copied().filter(|signal| !stays(*signal)).collect();
    Signals::block(&ending)
}

/// Serves `mount` until it is gone, by whomever it is unmounted.
///
/// The first of `signals` detaches the mount; those who still use it are served on. The second signal ends
/// **this process** with code 1, after the upper was closed in order.
///
/// # Errors
/// As [`Mount::wait`]; or no thread could be started to wait for signals, and the mount is detached.
pub fn serve(mount: Mount, signals: Signals) -> Result<()> {
    let mount = Arc::new(mount);
    // Weak: the mount is to be dropped, and all that it holds given back, before this function returns.
    let (unmounter, watched) = (mount.unmounter(), Arc::downgrade(&mount));
    let watch = move || {
        if wait(&signals) {
            if let Err(errno) = unmounter.unmount() {
                tracing::error!(%errno, "unmounting");
            }
        }
        if wait(&signals) {
            tracing::warn!("ended by a second signal while the mount was in use");
            if let Some(mount) = watched.upgrade() {
                mount.close_upper();
            }
            std::process::exit(1);
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(watch)
        .map_err(|err| of_io(&err))?;
    mount.wait()
}

fn wait(signals: &Signals) -> bool {
    signals.wait().inspect_err(|errno| tracing::error!(%errno, "waiting for signals")).is_ok()
}
