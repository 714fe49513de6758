//! How to serve a mount.

use crate::fuse::init::{self, Wishes};
use crate::fuse::mount::{MountError, MountOptions};
use crate::fuse::reply::Validity;
use crate::fuse::uring::Unavailable;
use crate::overlay::Overlay;

/// Readahead and writeback requests at a time where a layer may not answer for long.
const BLOCKING_BACKGROUND: u16 = 1024;

/// How requests travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Over io_uring where that is to be had.
    #[default]
    Auto,
    Uring,
    Dev,
}

/// How to serve a mount.
#[derive(Clone, Debug)]
pub struct Settings {
    pub mount: MountOptions,
    pub transport: Transport,
    /// The kernel reads untouched lower files by itself, or nothing is mounted. Excludes `no_open` and
    /// the writeback cache.
    pub passthrough: bool,
    /// Worker threads; at least two, so that one slow request does not hold up all. Over io_uring
    /// those that do what takes long. More are started while all of these wait for the host.
    pub threads: usize,
    /// How many idle workers wait for requests; further ones sleep until these are busy.
    pub idle_readers: usize,
    /// A device descriptor for each worker where the kernel gives one.
    pub clone_device: bool,
    /// The kernel gathers writes in its page cache: faster where they are small, but ENOSPC comes
    /// only when the file is synced or closed. `None`: where there is room enough at the start
    /// ([`Overlay::has_ample_room`]).
    pub writeback_cache: Option<bool>,
    /// Regular files are opened and closed without asking: nothing here depends on who has what open.
    pub no_open: bool,
    /// The mount may be id-mapped (`mount --map-users`).
    pub idmap: bool,
    /// The largest READ or WRITE in bytes, as far as the kernel allows.
    pub max_write: u32,
    /// Readahead and writeback requests at a time.
    pub max_background: u16,
    pub validity: Validity,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            mount: MountOptions::default(),
            transport: Transport::default(),
            passthrough: false,
            threads: 4,
            idle_readers: 2,
            clone_device: true,
            writeback_cache: None,
            no_open: true,
            idmap: true,
            max_write: 1 << 20,
            max_background: 64,
            validity: Validity::default(),
        }
    }
}

impl Settings {
    pub(super) fn wishes(&self, overlay: &Overlay) -> Wishes {
        let writeback = self.writeback_cache.unwrap_or_else(|| overlay.has_ample_room());
        Wishes {
            writeback_cache: writeback && !self.passthrough,
            max_write: self.max_write,
            max_pages_limit: init::max_pages_limit(),
            // Requests that wait for such a layer count against the limit, and so hold up the write-back of other
            // files when they reach it.
            max_background: match overlay.has_blocking_layer() {
                true => self.max_background.max(BLOCKING_BACKGROUND),
                false => self.max_background,
            },
            // What is passed through is told at OPEN.
            no_open: self.no_open && !self.passthrough,
            idmap: self.idmap,
            uring: false,
            passthrough: self.passthrough,
        }
    }

    /// Worker threads that stay.
    pub(super) fn workers(&self) -> usize {
        self.threads.max(2)
    }

    /// What to do without io_uring: to say so, or to fail.
    ///
    /// # Errors
    /// Where io_uring was asked for.
    pub(super) fn without_uring(&self, why: Unavailable) -> std::result::Result<(), MountError> {
        match self.transport {
            Transport::Uring => Err(MountError::Transport(why)),
            Transport::Auto | Transport::Dev => {
                tracing::info!("serving over /dev/fuse, as to io_uring: {why}");
                Ok(())
            }
        }
    }
}
