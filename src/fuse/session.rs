//! A mounted file system: how it begins, and its end.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};

use crate::errno::{self, Errno, Result};
use crate::fuse::context::Context;
use crate::fuse::dev::{WorkerSettings, Workers};
use crate::fuse::dispatch::Dispatcher;
use crate::fuse::handshake::shake_hands;
use crate::fuse::init::Wishes;
use crate::fuse::listing_ends::ListingEnds;
use crate::fuse::mount::{self, MountError};
use crate::fuse::notify::Notifier;
use crate::fuse::passthrough::{Files, Nodes};
use crate::fuse::settings::{Settings, Transport};
use crate::fuse::shutdown::Shutdown;
use crate::fuse::threads::{Pool, Starter};
use crate::fuse::unmounter::Unmounter;
use crate::fuse::uring::{Queues, Unavailable};
use crate::metrics::Metrics;
use crate::overlay::Overlay;
use crate::presence::{self, Presence};

/// Mounts file systems.
#[derive(Debug)]
pub struct Session;

impl Session {
    /// Mounts `overlay` at `mountpoint`. Returns when INIT has been answered and the workers serve:
    /// the mount answers. On failure nothing stays mounted, and the overlay is not destroyed.
    ///
    /// Threads start here, so a process that forks to the background must have done so before.
    pub fn mount(
        mountpoint: &Path,
        settings: &Settings,
        overlay: Arc<Overlay>,
    ) -> std::result::Result<Mounted, MountError> {
        if settings.passthrough && settings.writeback_cache == Some(true) {
            return Err(MountError::Passthrough("the kernel has it without writeback only"));
        }
        let mut wishes = settings.wishes(&overlay);
        let queues = prepare_queues(settings, wishes.max_io())?;
        wishes.uring = queues.is_some();
        // Absolute, as the working directory may change before the unmount.
        let mountpoint = std::fs::canonicalize(mountpoint)
            .map_err(|e| MountError::Mountpoint(mountpoint.to_owned(), errno::of_io(&e)))?;
        let device = Arc::new(mount::mount(&mountpoint, &settings.mount, wishes.max_io())?);
        let unmounter = Unmounter::new(mountpoint);
        // At once: whoever sees the mount is to find its daemon.
        let presence = unmounter.device().and_then(announce);
        let started = start(&device, settings, &wishes, queues, overlay);
        match started {
            Ok((dispatcher, ends)) => {
                unmounter.relax_throttling();
                Ok(Mounted { unmounter, dispatcher, ends, presence })
            }
            Err(error) => {
                if let Err(errno) = unmounter.unmount() {
                    tracing::error!(%errno, "unmounting after a failed start");
                }
                Err(error)
            }
        }
    }
}

/// How a worker ended.
enum End {
    /// Its connection did, or is no use to anybody.
    Connection(Result<()>),
    /// A queue failed. Its requests are never answered, which may keep the others from ending.
    Queue(Errno),
}

/// How each worker ended; closed when all have.
type Ends = mpsc::Receiver<End>;

/// Queues for the io_uring transport, unless `/dev/fuse` is asked for or has to do.
fn prepare_queues(
    settings: &Settings,
    max_io: u32,
) -> std::result::Result<Option<Queues>, MountError> {
    if settings.transport == Transport::Dev {
        return Ok(None);
    }
    match Queues::prepare(max_io) {
        Ok(queues) => Ok(Some(queues)),
        Err(why) => settings.without_uring(why).map(|()| None),
    }
}

fn start(
    device: &Arc<OwnedFd>,
    settings: &Settings,
    wishes: &Wishes,
    queues: Option<Queues>,
    overlay: Arc<Overlay>,
) -> std::result::Result<(Arc<Dispatcher>, Ends), MountError> {
    let mut wishes = *wishes;
    if let Some(Err(why)) = queues.as_ref().map(|queues| queues.probe(device)) {
        settings.without_uring(why)?;
        wishes.uring = false;
    }
    let agreed = shake_hands(device, &wishes)?;
    if wishes.uring && !agreed.uring() {
        settings.without_uring(Unavailable::NotOffered)?;
    }
    let files = wishes.passthrough.then(|| Files::probe(device, &agreed)).transpose();
    let files = files.map_err(MountError::Passthrough)?;
    let metrics = Arc::<Metrics>::default();
    let notifier = Notifier::new(Arc::clone(device), Arc::clone(&metrics));
    let starter = Starter::new().map_err(MountError::Resources)?;
    let context = Context {
        overlay,
        valid: settings.validity,
        read_only: settings.mount.read_only,
        nodes: Nodes::new(files, notifier.clone()),
        notifier,
        metrics: Arc::clone(&metrics),
        agreed,
        listing_ends: ListingEnds::default(),
        shutdown: Shutdown::default(),
        destroyed: AtomicBool::new(false),
    };
    let pool = Pool::new(settings.workers(), starter.clone(), metrics);
    let dispatcher = Arc::new(Dispatcher::new(context, pool));
    let (ended, ends) = mpsc::channel();
    let beside_queues = match queues.filter(|_| agreed.uring()) {
        Some(queues) => {
            serve_queues(device, &queues, &dispatcher, &ended)?;
            true
        }
        None => false,
    };
    serve_device(device, settings, beside_queues, &dispatcher, &starter, &ended)?;
    Ok((dispatcher, ends))
}

fn serve_queues(
    device: &Arc<OwnedFd>,
    queues: &Queues,
    dispatcher: &Arc<Dispatcher>,
    ended: &mpsc::Sender<End>,
) -> std::result::Result<(), MountError> {
    let end = || {
        let ended = ended.clone();
        move |served: Result<()>| {
            tell_end(&ended, served.map_or_else(End::Queue, |()| End::Connection(Ok(()))));
        }
    };
    queues.serve(device, dispatcher, end).map_err(MountError::Transport)?;
    tracing::info!("serving over io_uring, {} queues", queues.len());
    Ok(())
}

/// Starts workers on the device: one beside queues, as little travels over it then.
fn serve_device(
    device: &Arc<OwnedFd>,
    settings: &Settings,
    is_beside_queues: bool,
    dispatcher: &Arc<Dispatcher>,
    starter: &Starter,
    ended: &mpsc::Sender<End>,
) -> std::result::Result<(), MountError> {
    let workers = WorkerSettings {
        keep: if is_beside_queues { 1 } else { settings.workers() },
        most_readers: settings.idle_readers,
        clone_device: settings.clone_device,
        is_beside_queues,
    };
    let ended = ended.clone();
    let on_end = move |served| tell_end(&ended, End::Connection(served));
    Workers::start(workers, device, dispatcher, starter, on_end).map_err(MountError::Resources)
}

fn tell_end(ended: &mpsc::Sender<End>, end: End) {
    if ended.send(end).is_err() {
        tracing::debug!("nobody waits for the session's end");
    }
}

/// A file system that answers.
pub struct Mounted {
    unmounter: Unmounter,
    dispatcher: Arc<Dispatcher>,
    ends: Ends,
    /// Until the overlay is closed. `None` where there can be no socket.
    presence: Option<Presence>,
}

fn announce(device: presence::Device) -> Option<Presence> {
    Presence::announce(device)
        .inspect_err(|error| tracing::debug!("umount will not wait for this daemon: {error}"))
        .ok()
}

impl Mounted {
    /// What can end the mount from any thread.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// What is counted of the mount.
    pub fn metrics(&self) -> &Arc<Metrics> {
        self.dispatcher.metrics()
    }

    /// Returns when the connection ended, by whomever it was ended, and the overlay was destroyed. A lazy
    /// unmount ends it when the last user leaves. Where a ring's queue failed, the connection is aborted.
    /// Where the connection ended before the mount did, the mount is detached.
    ///
    /// # Errors
    /// How the first worker failed: `ECONNABORTED` where somebody aborted the connection. Where a queue failed
    /// and the connection could not be aborted, callers wait until this process ends.
    pub fn run(self) -> Result<()> {
        let mut end = Ok(());
        for how in self.ends {
            let (End::Connection(Err(errno)) | End::Queue(errno)) = how else { continue };
            tracing::error!(%errno, "a worker failed");
            let abort = match how {
                End::Queue(_) => self.unmounter.abort_connection(),
                End::Connection(_) => Ok(()),
            };
            // The other workers end once the connection does.
            end = end.and(Err(errno));
            let unmounted = self.unmounter.unmount();
            if let Err(errno) = abort {
                tracing::error!(%errno, "the connection cannot be aborted: its callers wait for the end of this process");
                break;
            }
            end = end.and(unmounted);
        }
        if let Some(presence) = &self.presence {
            presence.ending();
        }
        self.dispatcher.destroy();
        end
    }
}
