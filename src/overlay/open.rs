//! Opening a view: layers, filestore, replay; and its end.

use super::Overlay;
use super::clock::Clock;
use super::state::State;
use super::upkeep::Upkeep;
use crate::attr::{Caller, InodeNo, LayerId};
use crate::block::BLOCK_SIZE;
use crate::config::{Config, Durability, FILESTORE_NAME, Medium};
use crate::errno::Errno;
use crate::filestore::{self, Access, CLOSING, Claim, Extent, Filestore, Options, patiently};
use crate::journal::record::decode_all;
use crate::journal::{self, Log, Replayed};
use crate::layer::{LayerError, Stack};
use crate::upper::{Broken, Source, Tree};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use rustix::fs::{Mode, OFlags};
use std::os::fd::AsFd;
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
    /// The upper refers to a layer that was not given.
    OtherLayers {
        given: usize,
        needed: u16,
    },
    /// Most of what the upper changed of this layer is not the same files any more.
    MovedLayer(PathBuf),
    /// The host went down under a `volatile` mount.
    VolatileCrash(PathBuf),
    Host(&'static str, Errno),
}

/// Why a journal does not replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayError {
    Host(Errno),
    /// A record that this version does not know.
    Unknown,
    Broken(Broken),
    /// Two users of one block, or a block out of range.
    Shared(Extent, InodeNo),
}

impl From<Errno> for ReplayError {
    fn from(err: Errno) -> ReplayError {
        ReplayError::Host(err)
    }
}

impl std::fmt::Display for ReplayError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReplayError::Host(err) => write!(f, "it cannot be read: {err}"),
            ReplayError::Unknown => write!(f, "it has a record that this version does not know"),
            ReplayError::Broken(broken) => write!(f, "it tells of {broken}"),
            ReplayError::Shared(extent, ino) => write!(
                f,
                "blocks {}..{} of inode {:#x} are somebody else's or out of range",
                extent.start.0,
                extent.end().0,
                ino.0
            ),
        }
    }
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Layer(err) => write!(f, "{err}"),
            OpenError::Store(path, err) => write!(f, "{}: {err}", path.display()),
            OpenError::Journal(path, err) => {
                write!(f, "{}: the journal is damaged: {err}", path.display())
            }
            OpenError::OtherLayers { given, needed } => write!(
                f,
                "lowerdir: the upper was made over at least {needed} layers, but {given} are given; \
                 mount it with the layers it was made over"
            ),
            OpenError::MovedLayer(path) => write!(
                f,
                "{}: these are not the files the upper was made over, though they may look the same \
                 (was the layer copied or unpacked anew?); mount the upper over the original",
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
    /// forks must have done so. On an error nothing is changed on the host but that a filestore may
    /// have been made.
    pub fn new(config: &Config) -> Result<Arc<Overlay>, OpenError> {
        let stack = Stack::open(config.upper.as_deref(), &config.lowers, &config.idmap)?;
        let root = || stack.root().map_err(|err| OpenError::Host("examine the merged root", err));
        root()?;
        let (tree, store, log, claim) = open_upper(config, &stack)?;
        // Once more: making the filestore has moved the upperdir's times.
        let root = root()?;
        let mut state = State {
            tree,
            nodes: Default::default(),
            log: Some(log),
            spare_frame: Vec::new(),
            spare_freed: Vec::new(),
            unreplayable: false,
            unsynced_since: None,
        };
        state.remember(InodeNo::ROOT, InodeNo::ROOT, Some(root.into()));
        let overlay = Arc::new(Overlay {
            stack,
            store,
            state: RwLock::new(state),
            clock: Clock::new(),
            io: [const { Mutex::new(()) }; 64],
            lower_files: Default::default(),
            inode_limit: AtomicU64::new(config.inode_limit.unwrap_or(0)),
            durability: config.durability,
            read_only: config.upper.is_none(),
            failed: AtomicBool::new(false),
            upkeep: Upkeep::default(),
            claim: Mutex::new(claim),
        });
        overlay.end_orphans();
        overlay.start_upkeep().map_err(|err| OpenError::Host("start a thread", err))?;
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
        if let Err(err) = log.sync_point().and_then(|()| self.store.sync()) {
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

type Upper = (Tree, Arc<Filestore>, Log, Option<Claim>);

fn open_upper(config: &Config, stack: &Stack) -> Result<Upper, OpenError> {
    let durable = config.durability == Durability::Full && config.medium == Medium::OwnFile;
    let block_limit = config.size_limit.map(|bytes| bytes / BLOCK_SIZE);
    let options = Options { block_limit, durable };
    let (Some(upper), Medium::OwnFile) = (&config.upper, &config.medium) else {
        let medium = match &config.upper {
            Some(_) => &config.medium,
            None => &Medium::Memory,
        };
        let place = PathBuf::from("the filestore");
        let opened = journal::unkept(medium, options);
        let (store, log) = opened.map_err(|err| OpenError::Store(place, err))?;
        return Ok((Tree::default(), store, log, None));
    };
    let path = upper.join(FILESTORE_NAME);
    let dir =
        rustix::fs::open(upper, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|err| OpenError::Host("open the upperdir", err))?;
    let failed = |err| OpenError::Store(path.clone(), err);
    let claim = filestore::claim(upper, Access::ReadWrite).map_err(failed)?;
    let name = Path::new(FILESTORE_NAME);
    let recovering = patiently(CLOSING, || journal::open_or_create(dir.as_fd(), name, options))
        .map_err(failed)?;
    let found = *recovering.recovery();
    if found.host_crash() && found.was_volatile && found.frames > 0 {
        return Err(OpenError::VolatileCrash(path));
    }
    if found.cut() {
        tracing::warn!(path = %path.display(), ?found, "the journal's end was cut off");
    }
    let mut tree = Tree::default();
    let replayed = recovering
        .replay(|payload| apply_all(&mut tree, payload))
        .map_err(|err| OpenError::Journal(path.clone(), err))?;
    mark_extents(&tree, &replayed).map_err(|err| OpenError::Journal(path.clone(), err))?;
    // After a crash of the host, blocks whose flush had not ended may be missing.
    let missing = replayed.store().blocks_beyond_end();
    let missing = missing.map_err(|err| failed(filestore::OpenError::Host("examined", err)))?;
    if missing > 0 && !found.host_crash() {
        return Err(failed(filestore::OpenError::CutOff(missing)));
    }
    check_layers(&tree, config.lowers.len())?;
    check_origins(&tree, stack, config)?;
    let (store, log) = replayed.start().map_err(failed)?;
    Ok((tree, store, log, Some(claim)))
}

/// Replays one frame.
pub(crate) fn apply_all(tree: &mut Tree, payload: &[u8]) -> Result<(), ReplayError> {
    let mut freed = Vec::new();
    for record in decode_all(payload) {
        let record = record.map_err(|_| ReplayError::Unknown)?;
        tree.apply(&record, &mut freed).map_err(ReplayError::Broken)?;
        freed.clear();
    }
    Ok(())
}

/// What was unlinked but open when the last mount ended is gone now.
pub(crate) fn drop_orphans(tree: &mut Tree) {
    for ino in tree.orphans() {
        let gone = tree.apply(&crate::journal::record::Record::Drop { ino }, &mut Vec::new());
        debug_assert!(gone.is_ok());
    }
}

/// Tells the filestore which blocks files use.
pub(crate) fn mark_extents(tree: &Tree, replayed: &Replayed) -> Result<(), ReplayError> {
    for (ino, inode) in tree.inodes() {
        let Some((map, _)) = inode.file() else { continue };
        for run in map.iter() {
            let Source::Data(start) = run.source else { continue };
            let extent = Extent { start, len: run.len };
            let marked = replayed.store().mark_used(extent);
            marked.map_err(|_| ReplayError::Shared(extent, ino))?;
        }
    }
    Ok(())
}

fn check_layers(tree: &Tree, given: usize) -> Result<(), OpenError> {
    let files = tree.inodes().filter_map(|(_, inode)| inode.origin()).map(|origin| origin.at.layer);
    let dirs = tree.inodes().filter_map(|(_, inode)| inode.dir());
    let dirs = dirs.flat_map(|dir| dir.lowers().iter().map(|lower| lower.layer));
    let lowers = files.chain(dirs).filter(|layer| *layer != LayerId::HOST_UPPER);
    match lowers.max() {
        Some(LayerId(needed)) if usize::from(needed) > given => {
            Err(OpenError::OtherLayers { given, needed })
        }
        _ => Ok(()),
    }
}

/// How many raised inodes of each layer are compared with the files they were.
const SAMPLE: usize = 64;

/// Raised inodes are found again by layer and host inode, which a copy of a layer does not keep. A few
/// that differ were replaced on the host; where most do, this is another layer.
fn check_origins(tree: &Tree, stack: &Stack, config: &Config) -> Result<(), OpenError> {
    let mut layers: FxHashMap<LayerId, (usize, usize)> = FxHashMap::default();
    for (ino, inode) in tree.inodes().filter(|(ino, _)| *ino != InodeNo::ROOT) {
        // A merged directory has the number of its lowest one.
        let below = inode.dir().and_then(|dir| dir.lowers().last());
        let Some(at) = inode.origin().map(|origin| &origin.at).or(below) else { continue };
        let (seen, moved) = layers.entry(at.layer).or_default();
        if *seen == SAMPLE {
            continue;
        }
        let same = match stack.stat(at) {
            Ok(attr) => attr.ino == ino,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => false,
            Err(_) => continue,
        };
        *seen += 1;
        *moved += usize::from(!same);
    }
    let moved = layers.iter().find(|(_, (seen, moved))| moved * 2 > *seen);
    match (moved, &config.upper) {
        (None, _) => Ok(()),
        (Some((&LayerId::HOST_UPPER, _)), Some(upper)) => Err(OpenError::MovedLayer(upper.clone())),
        (Some((layer, _)), _) => {
            let index = config.lowers.len().checked_sub(usize::from(layer.0));
            let path = index.and_then(|index| config.lowers.get(index)).cloned();
            Err(OpenError::MovedLayer(path.unwrap_or_default()))
        }
    }
}

/// Ends the threads and closes the upper in order, where [`Overlay::destroy`] has not done so.
impl Drop for Overlay {
    fn drop(&mut self) {
        self.destroy();
    }
}
