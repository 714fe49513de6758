//! A random history of a tree: the same seed gives the same operations, so whoever did them and whoever looks at
//! what a power cut left of them agree on every state that the tree has had.

mod judge;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::Path;

use rustix::fs::FallocateFlags;

use crate::fsx;
use crate::rng::{Rng, bytes};

pub use judge::judge;

/// An inode of the model, counted in the order in which they come.
type Number = usize;

/// One operation. Paths are relative to the root of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes a file and writes it, in one open.
    Create {
        path: String,
        mode: u32,
        data: Data,
    },
    Write {
        path: String,
        offset: usize,
        data: Data,
    },
    Truncate {
        path: String,
        len: usize,
    },
    Punch {
        path: String,
        offset: usize,
        len: usize,
    },
    Mkdir {
        path: String,
        mode: u32,
    },
    Rmdir {
        path: String,
    },
    Symlink {
        path: String,
        target: String,
    },
    Unlink {
        path: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Link {
        from: String,
        to: String,
    },
    Chmod {
        path: String,
        mode: u32,
    },
    SetXattr {
        path: String,
        value: u32,
    },
    Fsync {
        path: String,
    },
}

/// Bytes of a seed: none of them is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    pub seed: u64,
    pub len: usize,
}

impl Data {
    fn bytes(self) -> Vec<u8> {
        bytes(self.seed, self.len)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Symlink(String),
}

/// What of an inode is in the tree: all but the data.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Inode {
    kind: Kind,
    mode: u32,
    xattr: Option<u32>,
}

/// What the tree was after an operation. Names with one number are links of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tree {
    names: BTreeMap<String, Number>,
    inodes: BTreeMap<Number, Inode>,
}

/// What a file held after an operation.
#[derive(Clone, Debug)]
struct Version {
    /// The number of the operation.
    at: u64,
    data: Vec<u8>,
}

/// The operations of a seed, and the tree as they make it.
#[derive(Clone, Debug)]
pub struct History {
    rng: Rng,
    tree: Tree,
    /// The newest version last.
    files: BTreeMap<Number, Vec<Version>>,
    next: Number,
    /// How many operations were done.
    pub done: u64,
}

const FILES_OF_THE_LAYER: usize = 6;

impl History {
    /// The beginning: a tree as [`History::make_layer`] makes it.
    pub fn new(seed: u64) -> Self {
        let mut history = Self {
            rng: Rng::new(seed),
            tree: Tree::default(),
            files: BTreeMap::new(),
            next: 0,
            done: 0,
        };
        history.make("sub", Kind::Directory, 0o755, None);
        for number in 0..FILES_OF_THE_LAYER {
            let len = usize::try_from(history.rng.below(60_000)).unwrap();
            let data = Data { seed: history.rng.next(), len };
            let path = format!("{}n{number}", if number % 2 == 0 { "" } else { "sub/" });
            history.make(&path, Kind::File, 0o644, Some(data.bytes()));
        }
        history
    }

    /// Lays the first tree into a directory.
    pub fn make_layer(&self, root: &Path) {
        for (name, number) in &self.tree.names {
            let path = root.join(name);
            match self.tree.inodes[number].kind {
                Kind::Directory => fsx::mkdir(&path),
                _ => fsx::write(&path, &self.files[number][0].data),
            }
            fsx::chmod(&path, self.tree.inodes[number].mode);
        }
    }

    fn make(&mut self, path: &str, kind: Kind, mode: u32, data: Option<Vec<u8>>) {
        self.tree.names.insert(path.to_owned(), self.next);
        self.tree.inodes.insert(self.next, Inode { kind, mode, xattr: None });
        if let Some(data) = data {
            self.files.insert(self.next, vec![Version { at: self.done, data }]);
        }
        self.next += 1;
    }

    fn inode(&self, path: &str) -> &Inode {
        &self.tree.inodes[&self.tree.names[path]]
    }

    fn data(&self, path: &str) -> &[u8] {
        &self.files[&self.tree.names[path]].last().unwrap().data
    }

    fn names_of(&self, is: impl Fn(&Kind) -> bool) -> Vec<&String> {
        self.tree.names.keys().filter(|path| is(&self.inode(path).kind)).collect()
    }

    /// The next operation, which can be done.
    pub fn plan(&mut self) -> Op {
        let mut rng = self.rng.clone();
        let op = loop {
            if let Some(op) = self.propose(&mut rng) {
                break op;
            }
        };
        self.rng = rng;
        op
    }

    fn propose(&self, rng: &mut Rng) -> Option<Op> {
        let files = self.names_of(|kind| *kind == Kind::File);
        let directories = self.names_of(|kind| *kind == Kind::Directory);
        let any: Vec<&String> = self.tree.names.keys().collect();
        let fresh = |rng: &mut Rng| {
            let below = rng.below(directories.len() as u64 + 2) as usize;
            let directory = directories.get(below).map_or(String::new(), |path| format!("{path}/"));
            format!("{directory}n{}", rng.below(12))
        };
        let data = |rng: &mut Rng, most: u64| {
            let most = if rng.one_in(12) { most * 8 } else { most };
            Data { seed: rng.next(), len: 1 + rng.below(most) as usize }
        };
        let file = (!files.is_empty()).then(|| (*rng.pick(&files)).clone());
        let at = rng.below(70_000) as usize;
        let path = fresh(rng);
        let is_new = !self.tree.names.contains_key(&path);
        match rng.below(100) {
            0..20 if is_new && self.tree.names.len() < 40 => {
                let mode = *rng.pick(&[0o644, 0o600, 0o755]);
                Some(Op::Create { path, mode, data: data(rng, 20_000) })
            }
            20..40 => file.map(|path| {
                // Half of them at the end, and never far behind it.
                let len = self.data(&path).len();
                let offset = if rng.one_in(2) { len } else { at.min(len) };
                Op::Write { path, offset, data: data(rng, 12_000) }
            }),
            40..45 => file.map(|path| {
                let len = at.min(self.data(&path).len() + 5000);
                Op::Truncate { path, len }
            }),
            45..48 => file.map(|path| Op::Punch { path, offset: at, len: 1 + at / 2 }),
            48..52 if is_new && directories.len() < 8 => Some(Op::Mkdir { path, mode: 0o755 }),
            52..55 => {
                let empty =
                    |path: &&&String| !any.iter().any(|name| name.starts_with(&format!("{path}/")));
                let path = directories.iter().find(empty)?;
                Some(Op::Rmdir { path: (*path).clone() })
            }
            55..58 if is_new => Some(Op::Symlink { path, target: format!("t{}", rng.below(1000)) }),
            58..68 => {
                let others = self.names_of(|kind| *kind != Kind::Directory);
                (!others.is_empty()).then(|| Op::Unlink { path: (*rng.pick(&others)).clone() })
            }
            68..80 => self.rename((*rng.pick(&any)).clone(), path),
            80..84 if is_new => file.map(|from| Op::Link { from, to: path }),
            84..89 => file.map(|path| Op::Chmod { path, mode: *rng.pick(&[0o640, 0o604, 0o711]) }),
            89..93 => file.map(|path| Op::SetXattr { path, value: rng.next() as u32 }),
            93.. => file.map(|path| Op::Fsync { path }),
            _ => None,
        }
    }

    /// A rename that is allowed, and does something.
    fn rename(&self, from: String, to: String) -> Option<Op> {
        let is_directory = |path: &str| self.inode(path).kind == Kind::Directory;
        if to == from || to.starts_with(&format!("{from}/")) {
            return None;
        }
        if self.tree.names.contains_key(&to) {
            let one_file = self.tree.names[&to] == self.tree.names[&from];
            if one_file || is_directory(&from) || is_directory(&to) {
                return None;
            }
        }
        Some(Op::Rename { from, to })
    }

    /// Does an operation to the model.
    pub fn apply(&mut self, op: &Op) {
        self.done += 1;
        match op {
            Op::Create { path, mode, data } => {
                self.make(path, Kind::File, *mode, Some(Vec::new()));
                self.change(path, |bytes| *bytes = data.bytes());
            }
            Op::Write { path, offset, data } => self.change(path, |bytes| {
                bytes.resize(bytes.len().max(offset + data.len), 0);
                bytes[*offset..offset + data.len].copy_from_slice(&data.bytes());
            }),
            Op::Truncate { path, len } => self.change(path, |bytes| bytes.resize(*len, 0)),
            Op::Punch { path, offset, len } => self.change(path, |bytes| {
                let end = bytes.len().min(offset + len);
                bytes[(*offset).min(end)..end].fill(0);
            }),
            Op::Mkdir { path, mode } => self.make(path, Kind::Directory, *mode, None),
            Op::Symlink { path, target } => {
                self.make(path, Kind::Symlink(target.clone()), 0o777, None);
            }
            Op::Rmdir { path } | Op::Unlink { path } => self.remove(path),
            Op::Rename { from, to } => {
                if self.tree.names.contains_key(to) {
                    self.remove(to);
                }
                let below = format!("{from}/");
                let names = std::mem::take(&mut self.tree.names);
                let moved = |name: String| match name.strip_prefix(&below) {
                    Some(rest) => format!("{to}/{rest}"),
                    None if name == *from => to.clone(),
                    None => name,
                };
                self.tree.names =
                    names.into_iter().map(|(name, number)| (moved(name), number)).collect();
            }
            Op::Link { from, to } => {
                self.tree.names.insert(to.clone(), self.tree.names[from]);
            }
            Op::Chmod { path, mode } => self.inode_mut(path).mode = *mode,
            Op::SetXattr { path, value } => self.inode_mut(path).xattr = Some(*value),
            Op::Fsync { .. } => {}
        }
    }

    fn inode_mut(&mut self, path: &str) -> &mut Inode {
        self.tree.inodes.get_mut(&self.tree.names[path]).unwrap()
    }

    fn change(&mut self, path: &str, how: impl FnOnce(&mut Vec<u8>)) {
        let versions = self.files.get_mut(&self.tree.names[path]).unwrap();
        let mut data = versions.last().unwrap().data.clone();
        how(&mut data);
        versions.push(Version { at: self.done, data });
    }

    fn remove(&mut self, path: &str) {
        let number = self.tree.names.remove(path).unwrap();
        if !self.tree.names.values().any(|other| *other == number) {
            self.tree.inodes.remove(&number);
        }
    }

    /// Forgets what a file held before its newest version: that one is durable.
    fn settle(&mut self, path: &str) {
        let versions = self.files.get_mut(&self.tree.names[path]).unwrap();
        versions.drain(..versions.len() - 1);
    }
}

impl Op {
    /// Does it below `root`, with one system call for the tree. The process needs the umask 0.
    ///
    /// # Errors
    /// What a system call failed with.
    pub fn perform(&self, root: &Path) -> std::io::Result<()> {
        let at = |path: &String| root.join(path);
        let open = |path: &String| File::options().read(true).write(true).open(root.join(path));
        match self {
            Op::Create { path, mode, data } => {
                let mut options = File::options();
                let file = options.write(true).create_new(true).mode(*mode).open(at(path))?;
                file.write_all_at(&data.bytes(), 0)
            }
            Op::Write { path, offset, data } => {
                open(path)?.write_all_at(&data.bytes(), *offset as u64)
            }
            Op::Truncate { path, len } => open(path)?.set_len(*len as u64),
            Op::Punch { path, offset, len } => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                Ok(rustix::fs::fallocate(open(path)?, mode, *offset as u64, *len as u64)?)
            }
            Op::Mkdir { path, mode } => std::fs::DirBuilder::new().mode(*mode).create(at(path)),
            Op::Rmdir { path } => std::fs::remove_dir(at(path)),
            Op::Symlink { path, target } => std::os::unix::fs::symlink(target, at(path)),
            Op::Unlink { path } => std::fs::remove_file(at(path)),
            Op::Rename { from, to } => std::fs::rename(at(from), at(to)),
            Op::Link { from, to } => std::fs::hard_link(at(from), at(to)),
            Op::Chmod { path, mode } => {
                std::fs::set_permissions(at(path), std::fs::Permissions::from_mode(*mode))
            }
            Op::SetXattr { path, value } => {
                let flags = rustix::fs::XattrFlags::empty();
                Ok(rustix::fs::setxattr(at(path), XATTR, value.to_string().as_bytes(), flags)?)
            }
            Op::Fsync { path } => open(path)?.sync_all(),
        }
    }
}

const XATTR: &str = "user.history";
