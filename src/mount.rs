//! The front door: a mount, from its settings to its end.

use crate::config::{Config, FILESTORE_NAME, NOTICE};
use crate::errno::Result;
use crate::fuse::{self, Mounted, Session, Settings, Unmounter};
use crate::layer::{self, LayerError};
use crate::metrics::{self, Metrics};
use crate::overlay::{self, Change, Overlay, Usage};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a mount did not come about. Displays as one line.
#[derive(Debug)]
pub struct StartError(Reason);

#[derive(Debug)]
enum Reason {
    Layers(LayerError),
    Overlay(overlay::OpenError),
    Session(fuse::MountError),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Reason::Layers(err) => err.fmt(f),
            Reason::Overlay(err) => err.fmt(f),
            Reason::Session(err) => err.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// The settings of a mount that is yet to be started.
#[derive(Clone, Debug)]
pub struct MountBuilder {
    config: Config,
    mountpoint: PathBuf,
    settings: Settings,
    upper_may_lie_in_layer: bool,
}

impl MountBuilder {
    /// How the mount is served; [`Settings::default`] otherwise.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> MountBuilder {
        self.settings = settings;
        self
    }

    /// Accepts an upper directory inside a layer. A view of `/` has no other place for it.
    #[must_use]
    pub fn upper_may_lie_in_layer(mut self) -> MountBuilder {
        self.upper_may_lie_in_layer = true;
        self
    }

    /// Checks that the layers and the upper directory can be read and do not lie inside each other. Changes nothing;
    /// [`MountBuilder::start`] does it too.
    ///
    /// # Errors
    /// Says which two directories overlap, or which one cannot be resolved.
    pub fn check(&self) -> std::result::Result<(), StartError> {
        let Some(upper) = &self.config.upper else { return Ok(()) };
        layer::check_overlap(upper, &self.config.lowers, self.upper_may_lie_in_layer)
            .map_err(|err| StartError(Reason::Layers(err)))
    }

    /// A layer with a filestore shows its directory's own files only.
    fn tell_hidden_changes(&self) {
        for lower in &self.config.lowers {
            if lower.join(FILESTORE_NAME).symlink_metadata().is_ok() {
                tracing::warn!(
                    target: NOTICE,
                    "lowerdir {}: it is an upper directory with a filestore, and what that changed does not show",
                    lower.display()
                );
            }
        }
    }

    /// Opens layers and upper, replays the journal, mounts, and serves. The mount answers when this returns.
    ///
    /// Starts threads: a process that forks into the background does so before ([`crate::daemon::split`]).
    ///
    /// # Errors
    /// Nothing stays mounted then. An upper directory without a filestore may have been given one.
    pub fn start(self) -> std::result::Result<Mount, StartError> {
        self.check()?;
        self.tell_hidden_changes();
        let overlay = Overlay::new(&self.config).map_err(|err| StartError(Reason::Overlay(err)))?;
        let session = Session::mount(&self.mountpoint, &self.settings, Arc::clone(&overlay))
            .map_err(|err| StartError(Reason::Session(err)))?;
        let (unmounter, metrics) = (session.unmounter(), Arc::clone(session.metrics()));
        Ok(Mount { overlay, unmounter, metrics, session: Mutex::new(Some(session)) })
    }
}

/// A mounted view which is being served by threads of this process. A process may hold several.
///
/// Dropping it ends the mount, also for those who still use it: what they wrote is written back, the mount is detached,
/// its connection is aborted (`ENOTCONN` from then on), and the upper is closed in order.
pub struct Mount {
    overlay: Arc<Overlay>,
    unmounter: Unmounter,
    metrics: Arc<Metrics>,
    /// `None` once the connection has ended. The lock is held by whoever waits for that.
    session: Mutex<Option<Mounted>>,
}

impl Mount {
    /// Settings for a mount of `config` at the directory `mountpoint`.
    pub fn builder(config: Config, mountpoint: impl Into<PathBuf>) -> MountBuilder {
        MountBuilder {
            config,
            mountpoint: mountpoint.into(),
            settings: Settings::default(),
            upper_may_lie_in_layer: false,
        }
    }

    /// Where the mount is, as an absolute path.
    pub fn mountpoint(&self) -> &Path {
        self.unmounter.mountpoint()
    }

    /// What can detach the mount from any thread.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// Waits until the mount is gone, by whomever it is unmounted, and its upper is closed in order. After a lazy unmount
    /// this is when its last user leaves.
    ///
    /// # Errors
    /// Why the connection to the kernel broke, if it did.
    pub fn wait(&self) -> Result<()> {
        match self.session.lock().take() {
            Some(session) => session.run(),
            None => Ok(()),
        }
    }

    /// Detaches the mount, and waits as [`Mount::wait`] does: its present users may go on until they leave.
    ///
    /// # Errors
    /// Of umount(2), or as [`Mount::wait`].
    pub fn stop(&self) -> Result<()> {
        self.unmounter.unmount()?;
        self.wait()
    }

    /// Closes the upper in order at once. The mount stays, but every change in it is `EIO` from now on.
    pub(crate) fn close_upper(&self) {
        self.overlay.destroy();
    }

    /// What the upper takes. May be asked for when the mount has ended, too.
    ///
    /// # Errors
    /// Of fstat(2) or fstatvfs(3) on the filestore.
    pub fn usage(&self) -> Result<Usage> {
        self.overlay.usage()
    }

    /// Counts and latencies of what was asked of this mount until now.
    pub fn metrics(&self) -> metrics::Snapshot {
        self.metrics.snapshot()
    }

    /// Shows `visit` every difference between the view and its layers. May be asked for when the mount has ended, too.
    pub fn changes(&self, visit: &mut dyn FnMut(Change<'_>)) {
        self.overlay.changes(visit);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let Some(session) = self.session.get_mut().take() else { return };
        self.unmounter.abort();
        if let Err(errno) = session.run() {
            tracing::debug!(%errno, "the connection of a dropped mount");
        }
    }
}
