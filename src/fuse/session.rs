//! A mounted file system: the handshake, the workers, the end.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use zerocopy::IntoBytes;

use crate::errno::{self, Errno, Result};
use crate::fuse::abi::{self, Opcode};
use crate::fuse::dev::{self, Buffer, Pace, Readers};
use crate::fuse::dispatch::{Dispatcher, Setup};
use crate::fuse::init::{self, Answer, Negotiated, Wishes};
use crate::fuse::mount::{self, MountError, MountOptions};
use crate::fuse::notify::Notifier;
use crate::fuse::passthrough::{Files, Nodes};
use crate::fuse::reply::Validity;
use crate::fuse::request::Request;
use crate::fuse::sched_idle::{Placement, Watchdog};
use crate::fuse::uring::{Helpers, Queues, Unavailable};
use crate::metrics::Metrics;
use crate::overlay::Overlay;
use crate::sys::{fuse_dev, mount as sys};

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
    /// those that help with what takes long.
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
    fn wishes(&self, overlay: &Overlay) -> Wishes {
        let writeback = self.writeback_cache.unwrap_or_else(|| overlay.has_ample_room());
        Wishes {
            writeback_cache: writeback && !self.passthrough,
            max_write: self.max_write,
            max_pages_limit: init::max_pages_limit(),
            max_background: self.max_background,
            // What is passed through is told at OPEN.
            no_open: self.no_open && !self.passthrough,
            idmap: self.idmap,
            uring: false,
            passthrough: self.passthrough,
        }
    }

    fn workers(&self) -> usize {
        self.threads.max(2)
    }

    /// What to do without io_uring: to say so, or to fail.
    fn without_uring(&self, why: Unavailable) -> std::result::Result<(), MountError> {
        match self.transport {
            Transport::Uring => Err(MountError::Transport(why)),
            Transport::Auto | Transport::Dev => {
                tracing::info!("serving over /dev/fuse, as to io_uring: {why}");
                Ok(())
            }
        }
    }
}

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
        let started = start(&device, settings, &wishes, queues, overlay);
        match started {
            Ok((dispatcher, ends)) => {
                unmounter.relax_throttling();
                Ok(Mounted { unmounter, dispatcher, ends })
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
    let notifier = Notifier::start(Arc::clone(device)).map_err(MountError::Resources)?;
    let setup = Setup {
        valid: settings.validity,
        read_only: settings.mount.read_only,
        nodes: Nodes::new(files, notifier.clone()),
        notifier,
        metrics: Arc::default(),
    };
    let dispatcher = Arc::new(Dispatcher::new(overlay, setup));
    dispatcher.agree(agreed);
    let (ended, ends) = mpsc::channel();
    let beside_queues = match queues.filter(|_| agreed.uring()) {
        Some(queues) => {
            serve_queues(device, settings, &queues, &dispatcher, &ended)?;
            true
        }
        None => false,
    };
    serve_device(device, settings, beside_queues, &dispatcher, &ended)?;
    Ok((dispatcher, ends))
}

fn serve_queues(
    device: &Arc<OwnedFd>,
    settings: &Settings,
    queues: &Queues,
    dispatcher: &Arc<Dispatcher>,
    ended: &mpsc::Sender<End>,
) -> std::result::Result<(), MountError> {
    let helpers = Helpers::start(settings.workers(), dispatcher).map_err(MountError::Resources)?;
    let end = || {
        let ended = ended.clone();
        move |served: Result<()>| {
            tell_end(&ended, served.map_or_else(End::Queue, |()| End::Connection(Ok(()))));
        }
    };
    queues.serve(device, dispatcher, &helpers, end).map_err(MountError::Transport)?;
    tracing::info!("serving over io_uring, {} queues", queues.len());
    Ok(())
}

/// Starts workers on the device: one beside queues, as little travels over it then.
fn serve_device(
    device: &Arc<OwnedFd>,
    settings: &Settings,
    beside_queues: bool,
    dispatcher: &Arc<Dispatcher>,
    ended: &mpsc::Sender<End>,
) -> std::result::Result<(), MountError> {
    let readers = Arc::new(Readers::new(settings.idle_readers));
    let threads = if beside_queues { 1 } else { settings.workers() };
    let watchdog = match beside_queues {
        true => None,
        false => Some(Arc::new(Watchdog::start(threads, dispatcher.metrics()))),
    };
    for at in 0..threads {
        let device = worker_device(device, at, settings.clone_device);
        let mut buffer = Buffer::new(dispatcher.max_io()).map_err(MountError::Resources)?;
        let (readers, dispatcher) = (Arc::clone(&readers), Arc::clone(dispatcher));
        let (ended, watchdog) = (ended.clone(), watchdog.clone());
        let serve = move || {
            let pace = match &watchdog {
                None => Pace::Lazy,
                Some(watchdog) => Pace::Prompt(watchdog.schedule(at, Placement::Following)),
            };
            let served = dev::serve(&device, &readers, &dispatcher, &mut buffer, pace);
            tell_end(&ended, End::Connection(served));
        };
        std::thread::Builder::new()
            .name(format!("fuse-{at}"))
            .spawn(serve)
            .map_err(MountError::Resources)?;
    }
    Ok(())
}

fn tell_end(ended: &mpsc::Sender<End>, end: End) {
    if ended.send(end).is_err() {
        tracing::debug!("nobody waits for the session's end");
    }
}

/// The first worker has the connection's own descriptor, others one each where possible.
fn worker_device(device: &Arc<OwnedFd>, at: usize, clone: bool) -> Arc<OwnedFd> {
    if at == 0 || !clone {
        return Arc::clone(device);
    }
    match fuse_dev::clone(&**device) {
        Ok(fresh) => Arc::new(fresh),
        Err(errno) => {
            tracing::debug!(%errno, "workers share a device descriptor");
            Arc::clone(device)
        }
    }
}

/// Reads and answers INIT, twice if the kernel speaks a newer major version.
fn shake_hands(device: &OwnedFd, wishes: &Wishes) -> std::result::Result<Negotiated, MountError> {
    let device = device.as_fd();
    let mut area = vec![0; abi::MIN_READ_BUFFER];
    for _ in 0..2 {
        let len = dev::read(device, &mut area).map_err(MountError::Handshake)?;
        let request = Request::split(&area[..len], false).map_err(MountError::Handshake)?;
        if request.opcode != Some(Opcode::Init) {
            return Err(MountError::Handshake(Errno::PROTO));
        }
        let unique = request.header.unique;
        let answer = |out: &abi::InitOut| {
            dev::answer(device, unique, Ok(size_of::<abi::InitOut>()), out.as_bytes());
        };
        match init::negotiate(request.arg, wishes) {
            Answer::Agreed(out, agreed) => {
                answer(&out);
                tracing::debug!(?agreed, "connected");
                return Ok(agreed);
            }
            Answer::AskAgain(out) => answer(&out),
            Answer::TooOld(major, minor) => {
                dev::answer(device, unique, Err(Errno::PROTO), &[]);
                return Err(MountError::TooOld(major, minor));
            }
            Answer::Malformed => return Err(MountError::Handshake(Errno::PROTO)),
        }
    }
    Err(MountError::Handshake(Errno::PROTO))
}

/// A file system that answers.
pub struct Mounted {
    unmounter: Unmounter,
    dispatcher: Arc<Dispatcher>,
    ends: Ends,
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

    /// Returns when the connection ended, by whomever it was ended, and the overlay was destroyed.
    /// A lazy unmount ends it when the last user leaves. Where the connection ended before the
    /// mount did (it was aborted, or a worker failed: the error), the mount is detached. Where a
    /// queue failed, only the process's end frees those who wait for its answers.
    pub fn run(self) -> Result<()> {
        let mut end = Ok(());
        for how in self.ends {
            let (End::Connection(Err(errno)) | End::Queue(errno)) = how else { continue };
            tracing::error!(%errno, "a worker failed");
            // The other workers end once nothing is mounted.
            end = end.and(self.unmounter.unmount()).and(Err(errno));
            if matches!(how, End::Queue(_)) {
                break;
            }
        }
        self.dispatcher.destroy();
        end
    }
}

/// Ends a mount.
#[derive(Clone, Debug)]
pub struct Unmounter {
    mountpoint: PathBuf,
    /// `None` where it could not be had.
    identity: Option<sys::Identity>,
}

impl Unmounter {
    /// For what is mounted at `mountpoint` now.
    fn new(mountpoint: PathBuf) -> Unmounter {
        let identity = sys::identity(&mountpoint).ok();
        Unmounter { mountpoint, identity }
    }

    /// Where the mount is, as an absolute path.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The device number that `stat` shows of files in the mount.
    pub fn device(&self) -> Option<(u32, u32)> {
        self.identity.map(|identity| identity.device)
    }

    /// Detaches the mount: new users find the directory beneath, [`Mounted::run`] returns when the
    /// last one leaves. Without effect where this mount is not (or no longer) there.
    pub fn unmount(&self) -> Result<()> {
        match (sys::identity(&self.mountpoint), self.identity) {
            (Ok(now), Some(ours)) if now != ours => Ok(()),
            (Err(Errno::NOENT | Errno::NOTDIR), _) => Ok(()),
            _ => mount::unmount(&self.mountpoint),
        }
    }

    /// Ends the mount for everybody, also for those who still use it: what they wrote is written back, the mount is
    /// detached, and every request is `ENOTCONN` from then on. [`Mounted::run`] returns soon afterwards. Without
    /// effect where this mount is not (or no longer) there.
    ///
    /// Without CAP_SYS_ADMIN this takes fusectl (/sys/fs/fuse/connections); where that is not mounted,
    /// present users go on until they leave.
    pub fn abort(&self) {
        if let Err(error) = self.write_back() {
            tracing::warn!("writing back before the mount is aborted: {error}");
        }
        if self.is_there() && sys::detach_by_force(&self.mountpoint).is_ok() {
            return;
        }
        if let Some((_, connection)) = self.device() {
            let path = format!("/sys/fs/fuse/connections/{connection}/abort");
            if let Err(error) = std::fs::write(&path, "1") {
                tracing::debug!(path, %error, "aborting the connection");
            }
        }
        if let Err(errno) = self.unmount() {
            tracing::warn!(%errno, "unmounting");
        }
    }

    /// Whether the mountpoint leads to this mount.
    fn is_there(&self) -> bool {
        self.identity.is_some() && sys::identity(&self.mountpoint).ok() == self.identity
    }

    /// Has the kernel write back what it holds for this mount.
    fn write_back(&self) -> std::io::Result<()> {
        if !self.is_there() {
            return Ok(());
        }
        let root = std::fs::File::open(&self.mountpoint)?;
        Ok(rustix::fs::syncfs(root)?)
    }

    /// Lets the kernel gather as many dirty pages for this mount as for any other, which takes
    /// root; elsewhere its default stays.
    fn relax_throttling(&self) {
        let Some((major, minor)) = self.device() else { return };
        for (file, value) in [("strict_limit", "0"), ("max_ratio", "100")] {
            let path = format!("/sys/class/bdi/{major}:{minor}/{file}");
            if let Err(error) = std::fs::write(&path, value) {
                tracing::debug!(path, %error, "dirty throttling stays as it is");
            }
        }
    }
}
