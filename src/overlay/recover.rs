//! Finding an upper's filestore and replaying its journal: the same for a mount and for a check.

use crate::attr::InodeNo;
use crate::errno::Errno;
use crate::filestore::{self, Access, Claim, Extent, OpenError, Options};
use crate::journal::record::{Record, decode_all, decode_all_format1};
use crate::journal::{self, Format, Recovering, Replayed};
use crate::upper::{Broken, Format1, Source, Tree};
use std::os::fd::AsFd;
use std::path::Path;

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

/// What a filestore is opened for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// To change it. It is made where there is none.
    Mount(Options),
    /// To look at it. It must exist, and nothing is changed.
    Check,
}

/// Claims the directory `dir`, opens the filestore `name` in it and finds out how much of its journal holds. Waits
/// for a mount that has ended and is closing it.
///
/// # Errors
/// See [`OpenError`]; nothing is changed then.
pub(crate) fn claim_and_open(
    dir: &Path,
    name: &Path,
    purpose: Purpose,
) -> Result<(Claim, Recovering), OpenError> {
    let fd = filestore::open_dir(dir)?;
    let access = match purpose {
        Purpose::Mount(_) => Access::ReadWrite,
        Purpose::Check => Access::ReadOnly,
    };
    let claim = filestore::claim(&fd, access)?;
    let recovering = filestore::open_claimed(fd.as_fd(), name, || match purpose {
        Purpose::Mount(options) => journal::open_or_create(fd.as_fd(), name, options),
        Purpose::Check => journal::open_read_only(fd.as_fd(), name),
    })?;
    Ok((claim, recovering))
}

/// Replays the journal: the tree that it tells of. Mark its extents next ([`mark_extents`]).
///
/// # Errors
/// See [`ReplayError`].
pub(crate) fn replay(recovering: Recovering) -> Result<(Replay, Replayed), ReplayError> {
    let mut replay = Replay::new(recovering.format());
    let replayed = recovering.replay(|payload| replay.apply(payload))?;
    Ok((replay, replayed))
}

/// What a journal tells of.
pub(crate) enum Replay {
    One(Format1),
    Two(Tree),
}

impl Replay {
    fn new(format: Format) -> Replay {
        match format {
            Format::One => Replay::One(Format1::default()),
            Format::Two => Replay::Two(Tree::default()),
        }
    }

    /// Replays one frame.
    ///
    /// # Errors
    /// For the first record that does not fit.
    fn apply(&mut self, payload: &[u8]) -> Result<(), ReplayError> {
        let mut freed = Vec::new();
        match self {
            Replay::One(old) => decode_all_format1(payload).try_for_each(|record| {
                freed.clear();
                let record = record.map_err(|_| ReplayError::Unknown)?;
                old.apply(&record, &mut freed).map_err(ReplayError::Broken)
            }),
            Replay::Two(tree) => decode_all(payload).try_for_each(|record| {
                freed.clear();
                let record = record.map_err(|_| ReplayError::Unknown)?;
                tree.apply(&record, &mut freed).map_err(ReplayError::Broken)
            }),
        }
    }

    pub fn tree(&self) -> &Tree {
        match self {
            Replay::One(old) => &old.tree,
            Replay::Two(tree) => tree,
        }
    }

    /// What is wrong with the tree as a whole.
    pub fn faults(&self) -> Vec<Broken> {
        match self {
            Replay::One(old) => old.faults(),
            Replay::Two(tree) => tree.faults(),
        }
    }

    /// What was unlinked but open when the last mount ended is gone now.
    pub fn drop_orphans(&mut self) {
        let tree = match self {
            Replay::One(old) => &mut old.tree,
            Replay::Two(tree) => tree,
        };
        for ino in tree.orphans() {
            let gone = tree.apply(&Record::Drop { ino }, &mut Vec::new());
            debug_assert!(gone.is_ok());
        }
    }
}

/// Tells the filestore which blocks files use.
///
/// # Errors
/// [`ReplayError::Shared`].
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
