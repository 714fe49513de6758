//! Which bytes of a changed file Overcoat has itself, and which it reads from the file of the layers that was changed.
//!
//! overlayfs copies a file as a whole before its first change. Overcoat keeps the changed blocks, and reads the rest
//! from the layers' file (the *origin*) as long as that has its size and modification time. What the two show
//! differs where the origin has gone or was replaced; this model says how.
//!
//! An inode is known by the number of its copy in the upper directory of overlayfs, which keeps it through renames.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use overcoat_tests::fsx;
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};

use crate::op::{Op, Rename};

pub const BLOCK: u64 = 4096;

/// The file of the layers that a changed file was.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Its path in the layers.
    pub path: PathBuf,
    pub size: u64,
    pub mtime: (i64, u32),
}

/// A regular file that was copied up.
#[derive(Clone, Debug)]
pub struct Copied {
    pub origin: Origin,
    /// Blocks that were written.
    pub own: BTreeSet<u64>,
    /// Bytes of the origin that still show where nothing was written.
    pub valid: u64,
    /// Whether it was written or cut; the rest is changes of attributes and names.
    pub data_changed: bool,
    /// Whether its modification time was set.
    pub mtime_set: bool,
}

/// What Overcoat shows of a copied-up file.
#[derive(Debug)]
pub enum Shown {
    /// The same as overlayfs.
    Same,
    /// Attributes and names were changed only, and another file lies at the origin's path: the bytes, the size and
    /// the time of that one, by its path in the layers.
    Follows(PathBuf),
    /// The blocks that were written; `EIO` for what was the origin's.
    Lost,
}

/// An inode of overlayfs' upper directory: its number, which is given out again, and its birth time.
pub type UpperId = (u64, i64, u32);

/// The model of one run.
pub struct Model {
    upper: PathBuf,
    copied: BTreeMap<UpperId, Copied>,
}

/// What is seen of the files of an operation before it is carried out.
type Before = Vec<(Option<UpperId>, Option<Origin>)>;

impl Model {
    /// `upper`: the upper directory of overlayfs.
    pub fn new(upper: PathBuf) -> Self {
        Self { upper, copied: BTreeMap::new() }
    }

    /// The inode in overlayfs' upper directory at a path of the view, but for a whiteout.
    pub fn upper_id(&self, path: &Path) -> Option<UpperId> {
        let (flags, mask) = (AtFlags::SYMLINK_NOFOLLOW, StatxFlags::ALL);
        let stat = rustix::fs::statx(CWD, self.upper.join(path), flags, mask).ok()?;
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let id = (stat.stx_ino, stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
        (kind != FileType::CharacterDevice).then_some(id)
    }

    pub fn copied(&self, path: &Path) -> Option<&Copied> {
        self.copied.get(&self.upper_id(path)?)
    }

    /// Where the layers have what the view has at a path, if that is not in the upper directory itself: renamed
    /// directories above lead elsewhere.
    pub fn layers_path(&self, path: &Path) -> Option<PathBuf> {
        let mut view = PathBuf::new();
        let mut layers = PathBuf::new();
        let parent = path.parent()?;
        for name in parent {
            view.push(name);
            let upper = self.upper.join(&view);
            layers.push(name);
            let Ok(stat) = rustix::fs::lstat(&upper) else { continue };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return None;
            }
            if fsx::get_xattr(&upper, "trusted.overlay.opaque").is_ok_and(|value| value == b"y") {
                return None;
            }
            if let Ok(redirect) = fsx::get_xattr(&upper, "trusted.overlay.redirect") {
                let redirect = Path::new(std::ffi::OsStr::from_bytes(&redirect));
                layers.pop();
                match redirect.strip_prefix("/") {
                    Ok(absolute) => layers = absolute.to_owned(),
                    Err(_) => layers.push(redirect),
                }
            }
        }
        layers.push(path.file_name()?);
        Some(layers)
    }

    /// Looks at the files of an operation before it is carried out.
    pub fn before(&self, view: &Path, op: &Op) -> Before {
        let before = |path: &str| {
            let path = Path::new(path);
            let copied = self.upper_id(path);
            let origin = if copied.is_none() { self.origin(view, path) } else { None };
            (copied, origin)
        };
        targets(op).into_iter().map(|(from, _)| before(from)).collect()
    }

    fn origin(&self, view: &Path, path: &Path) -> Option<Origin> {
        let stat = rustix::fs::lstat(view.join(path)).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        Some(Origin {
            path: self.layers_path(path)?,
            size: u64::try_from(stat.st_size).unwrap(),
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap()),
        })
    }

    /// Takes note of an operation that both views carried out.
    pub fn after(&mut self, op: &Op, before: Before, size: u64) {
        for ((_, to), (was, origin)) in targets(op).into_iter().zip(before) {
            let Some(now) = self.upper_id(Path::new(to)) else { continue };
            match (was, origin) {
                (None, Some(origin)) => {
                    let copied = Copied {
                        valid: origin.size,
                        origin,
                        own: BTreeSet::new(),
                        data_changed: false,
                        mtime_set: false,
                    };
                    self.copied.insert(now, copied);
                }
                // A new file; its number may have been another's.
                (None, None) => drop(self.copied.remove(&now)),
                (Some(_), _) => {}
            }
            if let Some(copied) = self.copied.get_mut(&now) {
                copied.change(op, size);
            }
        }
    }

    /// What Overcoat shows of a path over these layers.
    pub fn shown(&self, path: &Path, layers: &[PathBuf], merged_layers: &Path) -> Shown {
        let Some(copied) = self.copied(path) else { return Shown::Same };
        if copied.is_complete() || layers.iter().any(|layer| copied.origin.is_in(layer)) {
            return Shown::Same;
        }
        if !copied.data_changed {
            let now = merged_layers.join(&copied.origin.path);
            let is_file = rustix::fs::lstat(&now)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
            if is_file {
                return Shown::Follows(now);
            }
        }
        Shown::Lost
    }
}

impl Origin {
    /// Whether a layer has this file, by its size and time, at its path.
    fn is_in(&self, layer: &Path) -> bool {
        let Ok(stat) = rustix::fs::lstat(layer.join(&self.path)) else { return false };
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap();
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && u64::try_from(stat.st_size) == Ok(self.size)
            && stat.st_mtime == self.mtime.0
            && (nanoseconds == self.mtime.1 || nanoseconds == 0)
    }
}

impl Copied {
    fn change(&mut self, op: &Op, size_after: u64) {
        let (start, end) = match *op {
            Op::Write(_, offset, len, _) => (offset, offset + u64::from(len)),
            Op::Append(_, len, _) => (size_after - u64::from(len), size_after),
            Op::Truncate(_, size) => {
                self.valid = self.valid.min(size);
                self.own = self.own.range(..size.div_ceil(BLOCK)).copied().collect();
                self.data_changed = true;
                return;
            }
            Op::Utimens(..) => {
                self.mtime_set = true;
                return;
            }
            _ => return,
        };
        self.own.extend(start / BLOCK..end.div_ceil(BLOCK));
        self.data_changed = true;
    }

    /// Whether nothing of the origin shows any more, or nothing ever did.
    fn is_complete(&self) -> bool {
        (0..self.valid.div_ceil(BLOCK)).all(|block| self.own.contains(&block))
            && (self.data_changed || self.origin.size == 0)
    }

    /// Whether a block reads as overlayfs has it though the origin is lost; `None` where that is left open: the
    /// block of the last byte of the origin may have been written to clear what is behind it.
    pub fn has(&self, block: u64) -> Option<bool> {
        match block {
            block if self.own.contains(&block) => Some(true),
            block if block * BLOCK >= self.valid => Some(true),
            block if (block + 1) * BLOCK > self.valid && self.data_changed => None,
            _ => Some(false),
        }
    }
}

/// The paths at which an operation changes something, as they are before and after it.
fn targets(op: &Op) -> Vec<(&'static str, &'static str)> {
    match *op {
        Op::Rename(from, to, Rename::Exchange) => vec![(from, to), (to, from)],
        Op::Rename(from, to, _) | Op::Link(from, to) => vec![(from, to)],
        Op::Create(path, _)
        | Op::Write(path, ..)
        | Op::Append(path, ..)
        | Op::Truncate(path, _)
        | Op::Chmod(path, _)
        | Op::Chown(path, ..)
        | Op::Utimens(path, ..)
        | Op::SetXattr(path, ..) => vec![(path, path)],
        _ => Vec::new(),
    }
}
