//! What a view shows, down to each block, with errors as values.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use overcoat_tests::fsx;
use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, Result};

use super::origin::BLOCK;

/// One name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    pub size: u64,
    /// Times of the present are one: the two views never agree on them.
    pub mtime: (i64, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub target: Vec<u8>,
    pub blocks: Vec<Result<Vec<u8>>>,
    pub ino: u64,
    /// The number that the listing gave.
    pub listed_ino: u64,
}

pub type Tree = BTreeMap<PathBuf, Node>;

impl Node {
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
}

/// Looks at everything below `root`. `ghosts`: names that are listed and cannot be found are left out.
pub fn look(root: &Path, ghosts: bool) -> std::result::Result<Tree, String> {
    let mut tree = Tree::new();
    let root_ino = fsx::ino(root);
    tree.insert(PathBuf::new(), node(root, root_ino).map_err(|error| format!("/: {error}"))?);
    add(root, Path::new(""), ghosts, &mut tree)?;
    Ok(tree)
}

fn add(
    root: &Path,
    below: &Path,
    ghosts: bool,
    tree: &mut Tree,
) -> std::result::Result<(), String> {
    let told = |path: &Path, error| format!("{}: {error}", path.display());
    let listed = list(&root.join(below)).map_err(|error| told(below, error))?;
    for (name, listed_ino) in listed {
        let path = below.join(std::ffi::OsStr::from_bytes(&name));
        let node = match node(&root.join(&path), listed_ino) {
            Err(Errno::NOENT) if ghosts => continue,
            node => node.map_err(|error| told(&path, error))?,
        };
        let is_dir = node.kind() == FileType::Directory;
        if tree.insert(path.clone(), node).is_some() {
            return Err(format!("{} is listed twice", path.display()));
        }
        if is_dir {
            add(root, &path, ghosts, tree)?;
        }
    }
    Ok(())
}

fn list(path: &Path) -> Result<Vec<(Vec<u8>, u64)>> {
    let directory = fsx::open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((name.to_vec(), entry.ino()));
        }
    }
    Ok(names)
}

fn node(path: &Path, listed_ino: u64) -> Result<Node> {
    let stat = rustix::fs::lstat(path)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let directory = kind == FileType::Directory;
    let size = if directory { 0 } else { u64::try_from(stat.st_size).unwrap() };
    let mut xattrs = BTreeMap::new();
    for name in fsx::list_xattrs(path)? {
        let value = fsx::get_xattr(path, std::str::from_utf8(&name).unwrap())?;
        xattrs.insert(name, value);
    }
    let target = match kind {
        FileType::Symlink => rustix::fs::readlink(path, Vec::new())?.into_bytes(),
        _ => Vec::new(),
    };
    let blocks = if kind == FileType::RegularFile { blocks(path, size) } else { Vec::new() };
    Ok(Node {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        nlink: if directory { 0 } else { stat.st_nlink },
        size,
        mtime: coarse((stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap())),
        xattrs,
        target,
        blocks,
        ino: stat.st_ino,
        listed_ino,
    })
}

fn coarse(time: (i64, u32)) -> (i64, u32) {
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    if (time.0 - now).abs() < 86_400 { (i64::MAX, 0) } else { time }
}

fn blocks(path: &Path, size: u64) -> Vec<Result<Vec<u8>>> {
    let file = match fsx::open(path, OFlags::RDONLY | OFlags::NOFOLLOW) {
        Ok(file) => file,
        Err(error) => return vec![Err(error)],
    };
    let read = |block: u64| {
        let len = BLOCK.min(size - block * BLOCK);
        let mut data = vec![0; usize::try_from(len).unwrap()];
        let mut done = 0;
        while done < data.len() {
            let at = block * BLOCK + done as u64;
            match rustix::io::pread(&file, &mut data[done..], at)? {
                0 => break,
                count => done += count,
            }
        }
        data.truncate(done);
        Ok(data)
    };
    (0..size.div_ceil(BLOCK)).map(read).collect()
}
