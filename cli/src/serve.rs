//! A mounted overlay, from the handshake to its end.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use overcoat::config::Config;
use overcoat::fuse::{Atime, MountOptions, Mounted, Session, Settings, Unmounter};
use overcoat::overlay::Overlay;
use overcoat::sys::process::Signals;
use rustix::mount::MountFlags;

use crate::failure::Failure;
use crate::options::Options;
use crate::preflight::errno_text;

/// The signals that end a mount.
const ENDING: &[i32] = &[libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// An overlay which the kernel reaches by its mountpoint.
pub struct Served {
    overlay: Arc<Overlay>,
    mounted: Mounted,
}

/// Opens the overlay of `config` and mounts it at `mountpoint`.
pub fn mount(config: &Config, settings: &Settings, mountpoint: &Path) -> Result<Served, Failure> {
    let overlay = Overlay::new(config).map_err(Failure::run_time)?;
    match Session::mount(mountpoint, settings, Arc::clone(&overlay)) {
        Ok(mounted) => Ok(Served { overlay, mounted }),
        Err(error) => {
            overlay.destroy();
            Err(Failure::run_time(error))
        }
    }
}

/// What the wire has to know of `options`. `read_only`: there is no upper directory.
pub fn settings(options: &Options, source: OsString, read_only: bool) -> Settings {
    let has = |flag| options.flags.contains(flag);
    let mount = MountOptions {
        source,
        read_only: read_only || has(MountFlags::RDONLY),
        nosuid: has(MountFlags::NOSUID),
        nodev: has(MountFlags::NODEV),
        noexec: has(MountFlags::NOEXEC),
        atime: atime(options.flags),
        nodiratime: has(MountFlags::NODIRATIME),
        sync: has(MountFlags::SYNCHRONOUS),
        dirsync: has(MountFlags::DIRSYNC),
        allow_other: true,
    };
    let usual = Settings::default();
    Settings {
        mount,
        transport: options.transport,
        passthrough: options.passthrough,
        threads: options.threads.map_or(usual.threads, |threads| threads as usize),
        writeback_cache: options.writeback,
        ..usual
    }
}

/// As mount(2) reads the flags.
fn atime(flags: MountFlags) -> Atime {
    if flags.contains(MountFlags::STRICTATIME) {
        Atime::Strictatime
    } else if flags.contains(MountFlags::NOATIME) {
        Atime::Noatime
    } else {
        Atime::Relatime
    }
}

/// Blocks the signals that end a mount: to be called before threads start.
pub fn block_ending_signals() -> Result<Signals, Failure> {
    Signals::block(ENDING)
        .map_err(|error| Failure::run_time(format!("signals: {}", errno_text(error))))
}

impl Served {
    pub fn overlay(&self) -> Arc<Overlay> {
        Arc::clone(&self.overlay)
    }

    pub fn unmounter(&self) -> Unmounter {
        self.mounted.unmounter()
    }

    /// Serves until the mount is gone, by whomever it is unmounted.
    pub fn run(self) -> Result<(), Failure> {
        self.mounted.run().map_err(|error| {
            Failure::run_time(format!("the connection to the kernel broke: {}", errno_text(error)))
        })
    }

    /// As [`Served::run`]; one of `signals` unmounts. Who still uses the mount then is served on; a
    /// second signal ends that.
    pub fn run_until_signalled(self, signals: Signals) -> Result<(), Failure> {
        let unmounter = self.unmounter();
        let overlay = self.overlay();
        let watch = move || {
            if wait(&signals) {
                if let Err(error) = unmounter.unmount() {
                    tracing::error!("unmounting: {}", errno_text(error));
                }
            }
            if wait(&signals) {
                tracing::warn!("ended by a second signal while the mount was in use");
                overlay.destroy();
                std::process::exit(1);
            }
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(watch)
            .map_err(|error| Failure::run_time(format!("no thread: {error}")))?;
        self.run()
    }
}

fn wait(signals: &Signals) -> bool {
    signals.wait().inspect_err(|error| tracing::error!("waiting for signals: {error}")).is_ok()
}
