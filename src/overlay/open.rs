//! Opening a view: layers, filestore, replay; and its end.

use super::Overlay;
use super::clock::Clock;
use super::file_locks::FileLocks;
use super::layers::Layers;
use super::lower::Found;
use super::lower_files::{LostOrigins, ReplacedNames};
use super::orphans::find_links;
use super::recover::{Purpose, Replay, ReplayError, claim_and_open, mark_extents, replay};
use super::state::State;
use super::state_lock::StateLock;
use super::upgrade::upgrade;
use super::upkeep::Upkeep;
use super::waits::Room;
use crate::attr::{Caller, InodeNo};
use crate::block::BLOCK_SIZE;
use crate::config::{Config, Durability, FILESTORE_NAME, Medium};
use crate::errno::Errno;
use crate::filestore::{self, Claim, Filestore, Options};
use crate::journal::{self, Log, Recovering};
use crate::layer::{LayerError, Stack};
use crate::upper::Tree;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// Why a view could not be opened. Displays as one line that says what to do.
#[derive(Debug)]
pub enum OpenError {
    Layer(LayerError),
    /// The filestore of this upperdir.
    Store(PathBuf, filestore::OpenError),
    /// Its journal does not replay.
    Journal(PathBuf, ReplayError),
    /// A filestore of an older format could not be converted.
    Upgrade(PathBuf, Errno),
    /// The host went down under a `volatile` mount.
    VolatileCrash(PathBuf),
    Host(&'static str, Errno),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Layer(err) => write!(f, "{err}"),
            OpenError::Store(path, err) => write!(f, "{}: {err}", path.display()),
            OpenError::Journal(path, err) => {
                write!(f, "{}: the journal is damaged: {err}", path.display())
            }
            OpenError::Upgrade(path, err) => write!(
                f,
                "{}: cannot convert the filestore to the present format: {err}; it is as it was",
                path.display()
            ),
            OpenError::VolatileCrash(path) => write!(
                f,
                "{}: the machine went down under a volatile mount, so its files may hold anything; \
                 remove the file to start anew",
                path.display()
            ),
            OpenError::Host(what, err) => write!(f, "cannot {what}: {err}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<LayerError> for OpenError {
    fn from(err: LayerError) -> OpenError {
        OpenError::Layer(err)
    }
}

impl Overlay {
    /// Opens the layers and the upper, and replays its journal. Starts threads, so a process that
    /// forks must have done so.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing is changed on the host then but that a filestore may have been made.
    pub fn new(config: &Config) -> Result<Arc<Overlay>, OpenError> {
        let stack = open_stack(config)?;
        let upper = open_upper(config, &stack)?;
        let overlay = Overlay::assemble(config, stack, upper)?;
        overlay.start_upkeep().map_err(|err| OpenError::Host("start a thread", err))?;
        Ok(overlay)
    }

    /// [`Overlay::new`] over a filestore that need not be a file of the host. `boot` tells one boot of the host
    /// from another. No thread is started: call [`Overlay::look_after`].
    ///
    /// # Errors
    /// See [`OpenError`].
    #[cfg(test)]
    pub(crate) fn over(
        config: &Config,
        backing: Box<dyn filestore::Backing>,
        boot: [u8; 16],
    ) -> Result<Arc<Overlay>, OpenError> {
        let stack = open_stack(config)?;
        let recovering = journal::over(backing, options(config), boot)
            .map_err(|err| OpenError::Store(PathBuf::from("the backing"), err))?;
        let upper = start_upper(config, &stack, recovering, Threads::None)?;
        Overlay::assemble(config, stack, upper)
    }

    fn assemble(config: &Config, stack: Stack, upper: Upper) -> Result<Arc<Overlay>, OpenError> {
        let Upper { tree, store, log, claim } = upper;
        // Not before the filestore was made, which moves the upperdir's times.
        let root = stack.root().map_err(|err| OpenError::Host("examine the merged root", err))?;
        let root = Found::new(root, || [].into());
        let layers = Layers::new(&stack, &tree);
        let mut state = State::new(tree, log);
        let unknown = find_links(&mut state, &stack, &layers);
        state.remember(InodeNo::ROOT, InodeNo::ROOT, Some(root.lower));
        let overlay = Arc::new(Overlay {
            stack,
            layers,
            store,
            state: StateLock::new(state),
            clock: Clock::new(),
            io: FileLocks::default(),
            lost_origins: LostOrigins::default(),
            replaced_names: ReplacedNames::default(),
            inode_limit: AtomicU64::new(config.inode_limit.unwrap_or(0)),
            durability: config.durability,
            read_only: config.upper.is_none(),
            failed: AtomicBool::new(false),
            upkeep: Upkeep::default(),
            room: Room::default(),
            claim: Mutex::new(claim),
        });
        overlay.end_orphans();
        overlay.settle_nameless(&unknown);
        Ok(overlay)
    }

    /// Ends all changes, as the death of the process would: what was acknowledged is kept (and on the
    /// disk, where that was promised), the filestore is not marked clean, and every change is EIO from now on.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN in the user namespace of the mount; nothing has happened then.
    pub fn shut_down(&self, caller: &Caller) -> Result<(), Errno> {
        if !caller.administers_mount() {
            return Err(Errno::PERM);
        }
        let log = {
            let mut st = self.state.write();
            st.unsynced_since = None;
            st.log.take()
        };
        let Some(mut log) = log else { return Ok(()) };
        tracing::warn!("shut down: nothing works until this is mounted anew");
        if let Err(err) = log.sync() {
            tracing::error!(%err, "cannot sync the filestore");
        }
        Ok(())
    }

    /// The end of the mount: everything is written, made durable as promised, and the filestore is
    /// marked clean (not where it was shut down before). Changes after this one fail with EIO. What fails is logged: the journal is
    /// whole in any case.
    pub fn destroy(&self) {
        // From now on somebody else may claim the upperdir, and wait for the filestore.
        drop(self.claim.lock().take());
        self.stop_upkeep();
        if self.state.read().log.is_none() {
            return;
        }
        self.end_orphans();
        self.settle();
        self.checkpoint_or_log(true);
        let Some(log) = self.state.write().log.take() else { return };
        if let Err(err) = log.close() {
            tracing::error!(%err, "the filestore was not closed in order");
        }
    }
}

/// Opens the layers, and looks at the merged root before anything is changed on the host.
fn open_stack(config: &Config) -> Result<Stack, OpenError> {
    let stack = Stack::open(config.upper.as_deref(), &config.lowers, &config.idmap)?;
    stack.root().map_err(|err| OpenError::Host("examine the merged root", err))?;
    Ok(stack)
}

/// The upper of a view that is about to be opened.
struct Upper {
    tree: Tree,
    store: Arc<Filestore>,
    log: Log,
    /// `None` for a filestore that no upperdir holds.
    claim: Option<Claim>,
}

/// Whether the threads that work beside the requests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Threads {
    Run,
    /// For tests: everything happens in the calls of the test.
    #[cfg(test)]
    None,
}

/// What the filestore is opened with.
fn options(config: &Config) -> Options {
    let durable = config.durability == Durability::Full && config.medium == Medium::OwnFile;
    let block_limit = config.size_limit.map(|bytes| bytes / BLOCK_SIZE);
    Options { block_limit, durable }
}

fn open_upper(config: &Config, stack: &Stack) -> Result<Upper, OpenError> {
    let options = options(config);
    let (Some(upper), Medium::OwnFile) = (&config.upper, &config.medium) else {
        let medium = match &config.upper {
            Some(_) => &config.medium,
            None => &Medium::Memory,
        };
        let place = PathBuf::from("the filestore");
        let opened = journal::unkept(medium, options);
        let (store, log) = opened.map_err(|err| OpenError::Store(place, err))?;
        return Ok(Upper { tree: Tree::default(), store, log, claim: None });
    };
    let opened = claim_and_open(upper, Path::new(FILESTORE_NAME), Purpose::Mount(options));
    let (claim, recovering) =
        opened.map_err(|err| OpenError::Store(upper.join(FILESTORE_NAME), err))?;
    let upper = start_upper(config, stack, recovering, Threads::Run)?;
    Ok(Upper { claim: Some(claim), ..upper })
}

/// Replays the journal of the upper, converts it where it is of an older format, and makes it appendable.
fn start_upper(
    config: &Config,
    stack: &Stack,
    recovering: Recovering,
    threads: Threads,
) -> Result<Upper, OpenError> {
    let path = config.upper.as_deref().unwrap_or(Path::new("")).join(FILESTORE_NAME);
    let failed = |err| OpenError::Store(path.clone(), err);
    let damaged = |err| OpenError::Journal(path.clone(), err);
    let found = *recovering.recovery();
    if found.host_crash() && found.was_volatile && found.frames > 0 {
        return Err(OpenError::VolatileCrash(path));
    }
    if found.cut() {
        tracing::warn!(path = %path.display(), ?found, "the journal's end was cut off");
    }
    let (replay, replayed) = replay(recovering).map_err(damaged)?;
    mark_extents(replay.tree(), &replayed).map_err(damaged)?;
    // After a crash of the host, blocks whose flush had not ended may be missing.
    let missing = replayed.store().blocks_beyond_end();
    let missing = missing.map_err(|err| failed(filestore::OpenError::Host("examined", err)))?;
    if missing > 0 && !found.host_crash() {
        return Err(failed(filestore::OpenError::CutOff(missing)));
    }
    let unconverted = |err| OpenError::Upgrade(path.clone(), err);
    let (tree, is_old) = match replay {
        Replay::Two(tree) => (tree, false),
        Replay::One(old) => (upgrade(old, stack).map_err(unconverted)?, true),
    };
    let (store, mut log) = match threads {
        Threads::Run => replayed.start(),
        #[cfg(test)]
        Threads::None => replayed.start_without_thread(),
    }
    .map_err(failed)?;
    if is_old {
        write_anew(&tree, &mut log).map_err(unconverted)?;
        tracing::info!(path = %path.display(), "the filestore was of format 1, and is of format 2 now");
    }
    Ok(Upper { tree, store, log, claim: None })
}

/// Replaces the journal by an image of the tree, in the present format. Until the superblock is switched, the file is
/// a whole one of the format that it was.
fn write_anew(tree: &Tree, log: &mut Log) -> Result<(), Errno> {
    let mut writer = log.begin_checkpoint()?;
    tree.snapshot(&mut |records| writer.write(records))?;
    let mut pending = log.switch(writer)?;
    pending.sync()?;
    log.commit(pending)
}

/// Ends the threads and closes the upper in order, where [`Overlay::destroy`] has not done so.
impl Drop for Overlay {
    fn drop(&mut self) {
        self.destroy();
    }
}
