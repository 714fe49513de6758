//! Everything that can be seen of a tree, and the difference of two trees.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{FileType, OFlags, Statx};

use crate::fsx;

/// One inode as seen at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Type and permission bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// 0 for directories: there it means nothing.
    pub size: u64,
    pub rdev: (u32, u32),
    pub atime: (i64, u32),
    pub mtime: (i64, u32),
    pub ctime: (i64, u32),
    pub ino: u64,
    /// 512-byte units.
    pub blocks: u64,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The hash of a file's bytes; 0 for the rest.
    pub hash: u64,
    /// A link's target.
    pub target: Vec<u8>,
}

/// A whole tree: path below its root → node. The root itself is the empty path.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Manifest(pub BTreeMap<Vec<u8>, Node>);

impl Manifest {
    /// Looks at everything below `root` without changing access times of files and directories (a link's can
    /// change: read a lower through a `noatime` bind mount).
    pub fn of(root: &Path) -> Self {
        let mut manifest = Self::default();
        manifest.add(root, Vec::new());
        manifest
    }

    fn add(&mut self, path: &Path, name: Vec<u8>) {
        let node = node(path);
        let is_dir = FileType::from_raw_mode(node.mode.into()) == FileType::Directory;
        assert!(self.0.insert(name.clone(), node).is_none(), "{} twice", path.display());
        if !is_dir {
            return;
        }
        for entry in entries(path) {
            let mut below = name.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend(&entry);
            self.add(&path.join(std::ffi::OsStr::from_bytes(&entry)), below);
        }
    }

    /// The same with each node changed by `change`.
    pub fn map(mut self, mut change: impl FnMut(&[u8], &mut Node)) -> Self {
        for (path, node) in &mut self.0 {
            change(path, node);
        }
        self
    }

    /// The same without what `keep` refuses.
    pub fn retain(mut self, mut keep: impl FnMut(&[u8]) -> bool) -> Self {
        self.0.retain(|path, _| keep(path));
        self
    }

    /// What differs, a line each, at most 40 lines. Empty: nothing.
    pub fn difference(&self, other: &Self) -> String {
        let mut text = String::new();
        let paths: std::collections::BTreeSet<&Vec<u8>> =
            self.0.keys().chain(other.0.keys()).collect();
        for path in paths {
            if text.lines().count() > 40 {
                text.push_str("…\n");
                break;
            }
            let name = String::from_utf8_lossy(path);
            match (self.0.get(path), other.0.get(path)) {
                (Some(left), Some(right)) => describe(&name, left, right, &mut text),
                (Some(left), None) => {
                    writeln!(text, "{name}: only left (mode {:o})", left.mode).unwrap()
                }
                (None, Some(right)) => {
                    writeln!(text, "{name}: only right (mode {:o})", right.mode).unwrap();
                }
                (None, None) => {}
            }
        }
        text
    }

    /// # Panics
    /// When the trees differ.
    pub fn assert_same(&self, other: &Self, what: &str) {
        let difference = self.difference(other);
        assert!(difference.is_empty(), "{what}:\n{difference}");
    }
}

fn describe(name: &str, left: &Node, right: &Node, text: &mut String) {
    macro_rules! fields {
        ($($field:ident)*) => {$(
            if left.$field != right.$field {
                writeln!(
                    text,
                    concat!("{}: ", stringify!($field), " {:?} | {:?}"),
                    name, left.$field, right.$field
                ).unwrap();
            }
        )*};
    }
    if left.mode != right.mode {
        writeln!(text, "{name}: mode {:o} | {:o}", left.mode, right.mode).unwrap();
    }
    fields!(uid gid nlink size rdev atime mtime ctime ino blocks hash);
    for (field, left, right) in [("target", &left.target, &right.target)] {
        if left != right {
            let (left, right) = (String::from_utf8_lossy(left), String::from_utf8_lossy(right));
            writeln!(text, "{name}: {field} {left:?} | {right:?}").unwrap();
        }
    }
    if left.xattrs != right.xattrs {
        writeln!(text, "{name}: xattrs {} | {}", xattr_text(left), xattr_text(right)).unwrap();
    }
}

fn xattr_text(node: &Node) -> String {
    let mut text = String::from("{");
    for (name, value) in &node.xattrs {
        let shown = &value[..value.len().min(16)];
        write!(text, " {}={}:{shown:02x?}", String::from_utf8_lossy(name), value.len()).unwrap();
    }
    text + " }"
}

fn node(path: &Path) -> Node {
    let stat = fsx::statx(path);
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    let hash = if kind == FileType::RegularFile { hash(path, &stat) } else { 0 };
    let target = match kind {
        FileType::Symlink => {
            std::fs::read_link(path).unwrap().into_os_string().into_encoded_bytes()
        }
        _ => Vec::new(),
    };
    Node {
        mode: stat.stx_mode,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        nlink: stat.stx_nlink,
        size: if kind == FileType::Directory { 0 } else { stat.stx_size },
        rdev: (stat.stx_rdev_major, stat.stx_rdev_minor),
        atime: (stat.stx_atime.tv_sec, stat.stx_atime.tv_nsec),
        mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        ino: stat.stx_ino,
        blocks: stat.stx_blocks,
        xattrs: xattrs(path),
        hash,
        target,
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let names = match fsx::list_xattrs(path) {
        Ok(names) => names,
        Err(rustix::io::Errno::OPNOTSUPP) => Vec::new(),
        Err(error) => panic!("listxattr {}: {error}", path.display()),
    };
    let mut xattrs = BTreeMap::new();
    for name in names {
        let text = String::from_utf8(name.clone()).unwrap();
        let value = fsx::get_xattr(path, &text)
            .unwrap_or_else(|error| panic!("{} lists {text}: {error}", path.display()));
        xattrs.insert(name, value);
    }
    xattrs
}

/// The hash of all bytes; of large files by data ranges, so that sparse ones are quick.
fn hash(path: &Path, stat: &Statx) -> u64 {
    let mut file = fsx::open(path, OFlags::RDONLY | OFlags::NOATIME)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0_u8; 65536];
    if stat.stx_size <= 64 << 20 {
        let mut total = 0_u64;
        loop {
            let len = file
                .read(&mut buffer)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            if len == 0 {
                break;
            }
            hasher.write(&buffer[..len]);
            total += len as u64;
        }
        assert_eq!(total, stat.stx_size, "{}: st_size and what can be read", path.display());
        return hasher.finish();
    }
    let mut next = 0;
    for (start, end) in fsx::data_ranges(&file) {
        // Whole aligned chunks: two file systems may report the same data in different ranges.
        next = next.max(start - start % 65536);
        while next < end {
            let data = fsx::read_at(&file, next, 65536);
            if data.iter().any(|byte| *byte != 0) {
                hasher.write_u64(next);
                hasher.write(&data);
            }
            next += 65536;
        }
    }
    hasher.finish()
}

fn entries(path: &Path) -> Vec<Vec<u8>> {
    let directory = fsx::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    fsx::read_names(&directory, usize::MAX)
        .into_iter()
        .map(|(name, _)| name.into_bytes())
        .filter(|name| name != b"." && name != b"..")
        .collect()
}

/// Keeps what a change of a layer would show in: everything, access times included.
pub fn of_layer(layer: &Path) -> Manifest {
    let point = layer.with_extension("manifest");
    std::fs::create_dir_all(&point).unwrap();
    rustix::mount::mount_bind(layer, &point).unwrap();
    let flags = rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::NOATIME;
    rustix::mount::mount_remount(&point, flags, "").unwrap();
    let manifest = Manifest::of(&point);
    rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH).unwrap();
    std::fs::remove_dir(&point).unwrap();
    manifest.map(|_, node| {
        // A link's access time cannot be spared by whoever reads the link.
        if !node.target.is_empty() {
            node.atime = (0, 0);
        }
    })
}
