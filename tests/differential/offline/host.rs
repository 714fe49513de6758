//! The layers on the host, and how they are changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use overcoat_tests::rng::{Rng, bytes};
use overcoat_tests::{fsx, tool};
use rustix::fs::FileType;

use super::step::{Change, DIRECTORIES, Layer, Stamp, paths};

/// The nanoseconds of every time that is given here.
const NANOSECONDS: i64 = 123_456_789;

/// The layers, topmost first.
pub struct Host {
    dir: PathBuf,
    pub layers: Vec<PathBuf>,
    made: usize,
    /// Whether a name that moves, and a further name, is a new inode. overlayfs takes a changed file and another name
    /// of the layer's inode that it was for one file.
    copies: bool,
    /// The modification times of files that have, or had, several names.
    pub linked: BTreeSet<Stamp>,
}

/// What lies at a path of the host, links not followed.
fn kind(path: &Path) -> Option<FileType> {
    let stat = rustix::fs::lstat(path).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

fn remove(path: &Path) {
    match kind(path) {
        None => {}
        Some(FileType::Directory) => std::fs::remove_dir_all(path).unwrap(),
        Some(_) => std::fs::remove_file(path).unwrap(),
    }
}

fn copy(from: &Path, to: &Path) {
    tool::run("cp", &["-a".as_ref(), from.as_os_str(), to.as_os_str()]);
}

/// Writes a file and gives it its time.
fn write(path: &Path, len: usize, stamp: Stamp) {
    fsx::write(path, bytes(stamp.unsigned_abs(), len));
    set_time(path, stamp);
}

fn set_time(path: &Path, stamp: Stamp) {
    fsx::set_times(path, (stamp, NANOSECONDS), (stamp, NANOSECONDS)).unwrap();
}

impl Host {
    /// Two layers below `dir` to begin with.
    pub fn new(dir: PathBuf, copies: bool) -> Self {
        let mut host = Self { dir, layers: Vec::new(), made: 0, copies, linked: BTreeSet::new() };
        for seed in [1, 2] {
            let layer = host.fresh();
            fill(&layer, seed, &DIRECTORIES);
            host.layers.push(layer);
        }
        host
    }

    fn fresh(&mut self) -> PathBuf {
        self.made += 1;
        let layer = self.dir.join(self.made.to_string());
        std::fs::create_dir_all(&layer).unwrap();
        set_time(&layer, 1_100_000_000 + i64::try_from(self.made).unwrap());
        layer
    }

    fn index(&self, layer: Layer) -> usize {
        layer % self.layers.len()
    }

    /// A path in a layer, whose parent is made if it is missing; `None` where that is no directory.
    fn at(&self, layer: Layer, path: &str) -> Option<PathBuf> {
        let full = self.layers[self.index(layer)].join(path);
        std::fs::create_dir_all(full.parent().unwrap()).ok()?;
        Some(full)
    }

    /// A regular file in a layer.
    fn file(&self, layer: Layer, path: &str) -> Option<PathBuf> {
        let full = self.layers[self.index(layer)].join(path);
        (kind(&full) == Some(FileType::RegularFile)).then_some(full)
    }

    /// Any object but a whiteout in a layer.
    fn object(&self, layer: Layer, path: &str) -> Option<PathBuf> {
        let full = self.layers[self.index(layer)].join(path);
        kind(&full).filter(|kind| *kind != FileType::CharacterDevice).map(|_| full)
    }

    /// Carries out a change; `None` where it cannot be.
    pub fn apply(&mut self, change: Change) -> Option<()> {
        match change {
            Change::Copy(layer) => self.renew(layer, false),
            Change::CoarseCopy(layer) => self.renew(layer, true),
            Change::Insert(layer, seed) => {
                let at = self.index(layer);
                self.insert(at, seed);
            }
            Change::Append(seed) => self.insert(self.layers.len(), seed),
            Change::Drop(layer) if self.layers.len() > 1 => {
                let gone = self.layers.remove(self.index(layer));
                std::fs::remove_dir_all(gone).unwrap();
            }
            Change::Drop(_) => return None,
            change => self.apply_within(change)?,
        }
        Some(())
    }

    fn apply_within(&mut self, change: Change) -> Option<()> {
        match change {
            Change::Replace(layer, path, len, stamp) => {
                let path = self.at(layer, path)?;
                let new = path.with_file_name("new");
                write(&new, len, stamp);
                if kind(&path) == Some(FileType::Directory) {
                    remove(&path);
                }
                std::fs::rename(new, path).unwrap();
            }
            Change::Modify(layer, path, len, stamp) => {
                let path = self.file(layer, path)?;
                // All names of a file change with it, which copies do not.
                if !self.linked.contains(&fsx::mtime(&path).0) {
                    write(&path, len, stamp);
                }
            }
            Change::Move(layer, from, to) => {
                let from = self.object(layer, from)?;
                let to = self.at(layer, to)?;
                if to.starts_with(&from) || from.starts_with(&to) {
                    return None;
                }
                remove(&to);
                if self.copies {
                    copy(&from, &to);
                    remove(&from);
                } else {
                    std::fs::rename(from, to).unwrap();
                }
            }
            Change::Link(layer, from, to) => {
                let from = self.file(layer, from)?;
                let to = self.at(layer, to)?;
                if from.starts_with(&to) {
                    return None;
                }
                remove(&to);
                if self.copies {
                    copy(&from, &to);
                } else {
                    std::fs::hard_link(&from, to).unwrap();
                }
                self.linked.insert(fsx::mtime(from).0);
            }
            Change::BreakLink(layer, path, stamp) => {
                let path = self.file(layer, path)?;
                let len = usize::try_from(fsx::statx(&path).stx_size).unwrap();
                remove(&path);
                write(&path, len, stamp);
            }
            change => self.apply_to_node(change)?,
        }
        Some(())
    }

    fn apply_to_node(&mut self, change: Change) -> Option<()> {
        match change {
            Change::Remove(layer, path) => remove(&self.object(layer, path)?),
            Change::Mkdir(layer, path) => {
                let path = self.at(layer, path)?;
                if kind(&path) != Some(FileType::Directory) {
                    remove(&path);
                    std::fs::create_dir(path).unwrap();
                }
            }
            Change::Symlink(layer, path) => {
                let path = self.at(layer, path)?;
                remove(&path);
                std::os::unix::fs::symlink("target", path).unwrap();
            }
            Change::Fifo(layer, path) => {
                let path = self.at(layer, path)?;
                remove(&path);
                fsx::mknod(path, FileType::Fifo, 0o640, (0, 0)).unwrap();
            }
            Change::Chmod(layer, path, mode) => {
                let path = self.object(layer, path)?;
                if kind(&path) != Some(FileType::Symlink) {
                    fsx::chmod(path, mode);
                }
            }
            Change::SetXattr(layer, path) => {
                let path = self.object(layer, path)?;
                // Links and FIFOs take none.
                fsx::set_xattr(path, "user.host", b"yes").ok()?;
            }
            Change::Whiteout(layer, path) => {
                let path = self.at(layer, path)?;
                remove(&path);
                fsx::whiteout(path);
            }
            Change::Opaque(layer, path) => {
                let path = self.object(layer, path)?;
                if kind(&path) == Some(FileType::Directory) {
                    fsx::set_xattr(path, "trusted.overlay.opaque", b"y").unwrap();
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// A copy in the layer's place, and the layer is gone.
    fn renew(&mut self, layer: Layer, coarse: bool) {
        let index = self.index(layer);
        let new = self.fresh();
        let old = std::mem::replace(&mut self.layers[index], new.clone());
        copy(&old.join("."), &new);
        std::fs::remove_dir_all(&old).unwrap();
        if coarse {
            drop_nanoseconds(&new);
        }
    }

    fn insert(&mut self, at: usize, seed: u64) {
        let layer = self.fresh();
        let mut rng = Rng::new(seed);
        let directories: Vec<_> = DIRECTORIES.into_iter().filter(|_| rng.one_in(3)).collect();
        fill(&layer, seed, &directories);
        let paths = paths();
        for _ in 0..rng.below(4) {
            let path = layer.join(rng.pick(&paths));
            if kind(&path).is_none() && std::fs::create_dir_all(path.parent().unwrap()).is_ok() {
                fsx::whiteout(path);
            }
        }
        for directory in directories {
            let path = layer.join(directory);
            if rng.one_in(4) && kind(&path) == Some(FileType::Directory) {
                fsx::set_xattr(path, "trusted.overlay.opaque", b"y").unwrap();
            }
        }
        self.layers.insert(at, layer);
    }
}

/// Some files in each of these directories and in the root.
fn fill(layer: &Path, seed: u64, directories: &[&str]) {
    let mut rng = Rng::new(seed);
    for directory in std::iter::once(&"").chain(directories) {
        let directory = layer.join(directory);
        std::fs::create_dir_all(&directory).unwrap();
        for name in ["a", "b", "c", "x"] {
            if rng.one_in(2) {
                let stamp = 1_300_000_000 + i64::try_from(rng.below(100_000_000)).unwrap();
                let len = usize::try_from(rng.below(20_000)).unwrap();
                write(&directory.join(name), len, stamp);
            }
        }
        set_time(&directory, 1_300_000_000 + i64::try_from(rng.below(100_000_000)).unwrap());
    }
}

fn drop_nanoseconds(path: &Path) {
    if kind(path) == Some(FileType::Directory) {
        for entry in std::fs::read_dir(path).unwrap() {
            drop_nanoseconds(&entry.unwrap().path());
        }
    }
    let seconds = fsx::mtime(path).0;
    fsx::set_times(path, (seconds, 0), (seconds, 0)).unwrap();
}
