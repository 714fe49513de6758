//! Layers: made on the host from a list of steps, and merged in the reference as the definition says.

use super::reference::{Id, Inode, Kind, Name, ROOT, Reference, When};
use crate::attr::Time;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The names that tests use: few, so that operations meet.
pub fn name(selector: u8) -> Name {
    match selector % 9 {
        7 => vec![b'L'; 255],
        8 => vec![0xff, b'\n', 1],
        n => vec![b'a' + n],
    }
}

#[derive(Clone, Debug)]
pub enum What {
    Dir {
        opaque: bool,
    },
    /// Blocks of data; a hole of as many in front of each where `sparse`.
    File {
        len: u16,
        sparse: bool,
    },
    Symlink,
    Fifo,
    /// Another name for the file made so many steps ago.
    Link(u8),
    Whiteout {
        aufs: bool,
    },
}

/// One object of a layer. What does not fit what is there already is left out.
#[derive(Clone, Debug)]
pub struct Step {
    pub path: Vec<u8>,
    pub what: What,
    pub mode: u32,
    pub xattr: bool,
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let what = prop_oneof![
        4 => any::<bool>().prop_map(|opaque| What::Dir { opaque }),
        4 => (0..20_000_u16, any::<bool>()).prop_map(|(len, sparse)| What::File { len, sparse }),
        1 => Just(What::Symlink),
        1 => Just(What::Fifo),
        2 => any::<u8>().prop_map(What::Link),
        2 => any::<bool>().prop_map(|aufs| What::Whiteout { aufs }),
    ];
    let path = proptest::collection::vec(0..9_u8, 1..4);
    let mode = prop_oneof![Just(0o644), Just(0o6755), Just(0o2770), Just(0o1777)];
    let step = (path, what, mode, any::<bool>()).prop_map(|(path, what, mode, xattr)| Step {
        path,
        what,
        mode,
        xattr,
    });
    proptest::collection::vec(step, 0..14)
}

#[derive(Debug)]
enum Node {
    Dir { opaque: bool, at: PathBuf, entries: BTreeMap<Name, Node> },
    Other { at: PathBuf, kind: Kind, mark: Option<(u64, u64)> },
    Whiteout,
}

/// One layer on the host.
#[derive(Debug)]
pub struct Layer {
    pub path: PathBuf,
    root: Node,
}

fn host_name(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

impl Layer {
    pub fn make(path: &Path, steps: &[Step]) -> Layer {
        std::fs::create_dir_all(path).unwrap();
        let entries = BTreeMap::new();
        let mut root = Node::Dir { opaque: false, at: path.to_path_buf(), entries };
        let mut files: Vec<(PathBuf, Kind)> = Vec::new();
        for (n, step) in steps.iter().enumerate() {
            root.add(step, n as u64, &mut files);
        }
        Layer { path: path.to_path_buf(), root }
    }
}

impl Node {
    fn add(&mut self, step: &Step, seed: u64, files: &mut Vec<(PathBuf, Kind)>) {
        let Some((last, parents)) = step.path.split_last() else { return };
        let mut dir = self;
        for parent in parents {
            let Node::Dir { at, entries, .. } = dir else { return };
            dir = entries.entry(name(*parent)).or_insert_with(|| {
                let at = at.join(host_name(&name(*parent)));
                std::fs::create_dir(&at).unwrap();
                Node::Dir { opaque: false, at, entries: BTreeMap::new() }
            });
        }
        let Node::Dir { at, entries, .. } = dir else { return };
        let last = name(*last);
        if entries.contains_key(&last) {
            return;
        }
        if let Some(node) = make(at, &last, step, seed, files) {
            entries.insert(last, node);
        }
    }
}

fn make(
    dir: &Path,
    name: &[u8],
    step: &Step,
    seed: u64,
    files: &mut Vec<(PathBuf, Kind)>,
) -> Option<Node> {
    let at = dir.join(host_name(name));
    let kind = match &step.what {
        What::Whiteout { aufs: true } if name.len() < 250 => {
            std::fs::write(dir.join(host_name(&[b".wh.", name].concat())), b"").unwrap();
            return Some(Node::Whiteout);
        }
        What::Whiteout { .. } => {
            let made = rustix::fs::mknodat(CWD, &at, FileType::CharacterDevice, Mode::empty(), 0);
            return made.ok().map(|()| Node::Whiteout);
        }
        What::Dir { opaque } => {
            std::fs::create_dir(&at).unwrap();
            if *opaque {
                rustix::fs::setxattr(&at, "user.overlay.opaque", b"y", XattrFlags::empty())
                    .unwrap();
            }
            dress(&at, step, seed, true);
            return Some(Node::Dir { opaque: *opaque, at, entries: BTreeMap::new() });
        }
        What::File { len, sparse } => {
            let data = sparse_bytes(seed, usize::from(*len), *sparse);
            write_sparse(&at, &data);
            let kind = Kind::File(data);
            files.push((at.clone(), kind.clone()));
            kind
        }
        What::Symlink => {
            let target = vec![b't'; 1 + seed as usize];
            std::os::unix::fs::symlink(host_name(&target), &at).unwrap();
            Kind::Symlink(target)
        }
        What::Fifo => {
            rustix::fs::mknodat(CWD, &at, FileType::Fifo, Mode::RUSR, 0).unwrap();
            Kind::Special
        }
        What::Link(back) => {
            let n = files.len().checked_sub(1 + usize::from(*back) % files.len().max(1))?;
            let (old, kind) = &files[n];
            std::fs::hard_link(old, &at).unwrap();
            let (kind, stat) = (kind.clone(), stat(&at));
            return Some(Node::Other { at, kind, mark: Some((stat.dev, stat.ino)) });
        }
    };
    let is_file = matches!(kind, Kind::File(_));
    dress(&at, step, seed, is_file);
    let stat = stat(&at);
    Some(Node::Other { at, kind, mark: is_file.then_some((stat.dev, stat.ino)) })
}

/// Attributes out of the ordinary.
fn dress(at: &Path, step: &Step, seed: u64, plain: bool) {
    use rustix::fs::{AtFlags, Timespec, Timestamps, utimensat};
    if plain {
        if step.xattr {
            let set = |name: &str| {
                rustix::fs::setxattr(at, name, &[seed as u8; 3], XattrFlags::empty()).unwrap();
            };
            set("user.m0");
            if at.is_file() && rustix::process::geteuid().is_root() {
                let capability = [1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                let name = "security.capability";
                rustix::fs::setxattr(at, name, &capability, XattrFlags::empty()).unwrap();
            }
        }
        std::fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(step.mode))
            .unwrap();
    }
    let time = Timespec { tv_sec: seed as i64 * 1_000_000 - 3_000_000, tv_nsec: 999_999_990 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, at, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Bytes that are never zero, with a hole in front of every second block where `sparse`.
fn sparse_bytes(seed: u64, len: usize, sparse: bool) -> Vec<u8> {
    let byte = |i: usize| match sparse && (i / 4096) % 2 == 0 {
        true => 0,
        false => (i as u64 * 7 + seed * 31) as u8 | 1,
    };
    (0..len).map(byte).collect()
}

fn write_sparse(at: &Path, data: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(at).unwrap();
    file.set_len(data.len() as u64).unwrap();
    for (n, block) in data.chunks(4096).enumerate() {
        if block.iter().any(|b| *b != 0) {
            file.write_all_at(block, n as u64 * 4096).unwrap();
        }
    }
}

struct Stat {
    dev: u64,
    ino: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    times: [Time; 4],
}

fn stat(at: &Path) -> Stat {
    use rustix::fs::{AtFlags, StatxFlags, StatxTimestamp};
    let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let s = rustix::fs::statx(CWD, at, AtFlags::SYMLINK_NOFOLLOW, flags).unwrap();
    let time = |t: StatxTimestamp| Time { sec: t.tv_sec, nsec: t.tv_nsec };
    Stat {
        dev: u64::from(s.stx_dev_major) << 32 | u64::from(s.stx_dev_minor),
        ino: s.stx_ino,
        mode: u32::from(s.stx_mode),
        uid: s.stx_uid,
        gid: s.stx_gid,
        nlink: s.stx_nlink,
        size: s.stx_size,
        times: [time(s.stx_atime), time(s.stx_mtime), time(s.stx_ctime), time(s.stx_btime)],
    }
}

fn xattrs(at: &Path) -> BTreeMap<Name, Vec<u8>> {
    let mut found = BTreeMap::new();
    for name in ["user.m0", "security.capability"] {
        let mut value = [0; 64];
        if let Ok(len) = rustix::fs::lgetxattr(at, name, &mut value[..]) {
            found.insert(name.as_bytes().to_vec(), value[..len].to_vec());
        }
    }
    found
}

fn inode(at: &Path, kind: Kind) -> Inode {
    let stat = stat(at);
    let [atime, mtime, ctime, btime] = stat.times.map(When::At);
    Inode {
        nlink: if matches!(kind, Kind::Dir { .. }) { 1 } else { stat.nlink },
        kind,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        rdev: 0,
        atime,
        mtime,
        ctime,
        btime,
        xattrs: xattrs(at),
        ino: None,
        linkable: false,
    }
}

/// The merged view of `layers`, topmost first.
pub fn merge(layers: &[Layer]) -> Reference {
    let now = Time::default();
    let mut reference = Reference { inodes: Vec::new(), window: (now, now) };
    let roots: Vec<&Node> = layers.iter().map(|layer| &layer.root).collect();
    merge_dir(&mut reference, &roots, ROOT, &mut BTreeMap::new());
    reference
}

/// Merges directories, topmost first, the first of which shows.
fn merge_dir(
    reference: &mut Reference,
    dirs: &[&Node],
    parent: Id,
    links: &mut BTreeMap<(u64, u64), Id>,
) -> Id {
    let Node::Dir { at, .. } = dirs[0] else { unreachable!("a directory") };
    let id = reference.inodes.len();
    let kind = Kind::Dir { entries: BTreeMap::new(), parent, merged: true };
    reference.inodes.push(inode(at, kind));
    let mut below: BTreeMap<Name, Vec<&Node>> = BTreeMap::new();
    for dir in dirs {
        let Node::Dir { entries, .. } = dir else { unreachable!("a directory") };
        for (name, node) in entries {
            below.entry(name.clone()).or_default().push(node);
        }
    }
    for (name, nodes) in below {
        let child = match nodes[0] {
            Node::Whiteout => continue,
            Node::Other { at, kind, mark } => match mark.and_then(|mark| links.get(&mark)) {
                Some(id) => *id,
                None => {
                    reference.inodes.push(inode(at, kind.clone()));
                    let id = reference.inodes.len() - 1;
                    links.extend(mark.map(|mark| (mark, id)));
                    id
                }
            },
            Node::Dir { .. } => {
                let is_dir = |node: &&&Node| matches!(node, Node::Dir { .. });
                let mut merged: Vec<&Node> = nodes.iter().take_while(is_dir).copied().collect();
                let opaque = |n: &&Node| matches!(n, Node::Dir { opaque: true, .. });
                if let Some(last) = merged.iter().position(opaque) {
                    merged.truncate(last + 1);
                }
                merge_dir(reference, &merged, id, links)
            }
        };
        if let Kind::Dir { entries, .. } = &mut reference.inodes[id].kind {
            entries.insert(name, child);
        }
    }
    id
}

/// Everything about a layer that a change would show in. Looking does not change it.
pub fn manifest(layer: &Layer) -> Vec<String> {
    fn add(node: &Node, out: &mut Vec<String>) {
        let (at, entries) = match node {
            Node::Dir { at, entries, .. } => (at, Some(entries)),
            Node::Other { at, .. } => (at, None),
            Node::Whiteout => return,
        };
        let Stat { ino, mode, uid, gid, nlink, size, mut times, .. } = stat(at);
        if mode & 0o170000 == 0o120000 {
            // A link's access time cannot be spared by whoever reads it.
            times[0] = Time::default();
        }
        let x = xattrs(at);
        out.push(format!("{at:?} {ino} {mode:o} {uid} {gid} {nlink} {size} {times:?} {x:?}"));
        entries.into_iter().flat_map(BTreeMap::values).for_each(|node| add(node, out));
    }
    let mut out = Vec::new();
    add(&layer.root, &mut out);
    out
}
