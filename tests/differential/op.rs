//! The operations, and how to make random lists of them.

use overcoat_tests::rng::Rng;

/// A path below the root of a view.
pub type Path = &'static str;

/// One of the descriptors that a run can hold.
pub type Slot = usize;

/// How many descriptors a run can hold.
pub const SLOTS: usize = 4;

/// Allocation modes that FUSE lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Falloc {
    Allocate,
    KeepSize,
    Punch,
    Zero,
    ZeroKeepSize,
}

/// How a descriptor is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    Read,
    Write,
    ReadWrite,
    ReadWriteTruncate,
    Append,
    CreateReadWrite,
    Directory,
    Path,
}

/// What a rename may do to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    Replace,
    NoReplace,
    Exchange,
}

/// Types that `mknod` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    Regular,
    Fifo,
    Socket,
    Char(u32, u32),
    Block(u32, u32),
}

/// One step. The printed form can be pasted into `regressions.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create(Path, u32),
    /// Offset, length, seed of the bytes.
    Write(Path, u64, u32, u8),
    Append(Path, u32, u8),
    Read(Path),
    Truncate(Path, u64),
    Fallocate(Path, Falloc, u64, u64),
    CopyRange(Path, Path, u64, u64, usize),
    SeekData(Path),
    /// Stores to a shared mapping: offset, length, seed of the bytes.
    MapWrite(Path, u64, u32, u8),
    Mkdir(Path, u32),
    Rmdir(Path),
    Unlink(Path),
    Link(Path, Path),
    /// Target, then the link's own path.
    Symlink(&'static str, Path),
    Readlink(Path),
    Mknod(Path, Node, u32),
    Rename(Path, Path, Rename),
    Chmod(Path, u32),
    Chown(Path, Option<u32>, Option<u32>),
    /// Access and modification time in seconds.
    Utimens(Path, i64, i64),
    SetXattr(Path, &'static str, u32),
    GetXattr(Path, &'static str),
    RemoveXattr(Path, &'static str),
    ListXattr(Path),
    /// Permissions of a named user in the access or (true) the default ACL.
    SetAcl(Path, bool, u16),
    Stat(Path),
    Readdir(Path),
    Access(Path, u8),
    Tmpfile(Slot, Path),
    LinkTmpfile(Slot, Path),
    Open(Slot, Path, Open),
    Close(Slot),
    FdRead(Slot, u64, u32),
    FdWrite(Slot, u64, u32, u8),
    FdTruncate(Slot, u64),
    FdChmod(Slot, u32),
    FdStat(Slot),
    FdSync(Slot),
    FdSetXattr(Slot, &'static str, u32),
    FdReaddir(Slot),
    FdUtimens(Slot, i64, i64),
    /// From here on as this user.
    As(u32),
    /// Closes all descriptors; unmounts and mounts.
    Remount,
    /// The same, but the daemon under test is killed.
    Kill,
}

/// The paths operations choose from: those of the lowers, and some that are not there.
pub fn paths() -> Vec<Path> {
    let directories = ["", "d0", "d0/e", "d1", "d1/e", "d2", "d3", "t", "u", "n0", "n0/n1", "m"];
    let names = ["a", "b", "c", "e", "h", "n", "s", "x"];
    let mut paths: Vec<Path> = Vec::new();
    for directory in directories {
        if !directory.is_empty() {
            // Often, as the interesting things are directories.
            paths.extend([directory; 3]);
        }
        for name in names {
            let path =
                if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
            paths.push(path.leak());
        }
    }
    paths.extend(["sparse", "big", "null", "fifo", "suid", "acl", "hard0", "hard1", "d1/hard2"]);
    paths
}

const MODES: [u32; 8] = [0o644, 0o600, 0o755, 0o700, 0o4755, 0o2775, 0o1777, 0o000];
const XATTRS: [&str; 4] = ["user.a", "user.b", "trusted.a", "security.a"];
const TIMES: [i64; 6] = [0, -1, -2_000_000_000, 1 << 31, 1 << 33, 1_000_000_000];
const LENGTHS: [u32; 7] = [0, 1, 100, 4095, 4096, 10_000, 150_000];
const OFFSETS: [u64; 8] = [0, 1, 10, 4095, 4096, 8192, 70_000, 1 << 20];

fn data_op(rng: &mut Rng, path: Path, other: Path) -> Op {
    let (offset, len, seed) =
        (*rng.pick(&OFFSETS), *rng.pick(&LENGTHS), u8::try_from(rng.below(256)).unwrap());
    let modes =
        [Falloc::Allocate, Falloc::KeepSize, Falloc::Punch, Falloc::Zero, Falloc::ZeroKeepSize];
    match rng.below(12) {
        0..4 => Op::Write(path, offset, len, seed),
        4 => Op::Append(path, len, seed),
        5 => Op::Truncate(path, *rng.pick(&OFFSETS)),
        6 | 7 => Op::Fallocate(path, *rng.pick(&modes), offset, u64::from(len)),
        8 => Op::CopyRange(path, other, offset, *rng.pick(&OFFSETS), len as usize),
        9 => Op::SeekData(path),
        _ => Op::Read(path),
    }
}

fn name_op(rng: &mut Rng, path: Path, other: Path) -> Op {
    let nodes = [Node::Regular, Node::Fifo, Node::Socket, Node::Char(1, 3), Node::Block(7, 300)];
    let mode = *rng.pick(&MODES);
    match rng.below(20) {
        0 | 1 => Op::Create(path, mode),
        2..5 => Op::Mkdir(path, mode),
        5 | 6 => Op::Rmdir(path),
        7 | 8 => Op::Unlink(path),
        9 | 10 => Op::Link(path, other),
        11 => Op::Symlink(other, path),
        12 => Op::Mknod(path, *rng.pick(&nodes), mode),
        13 => Op::Rename(path, other, Rename::NoReplace),
        14 | 15 => Op::Rename(path, other, Rename::Exchange),
        _ => Op::Rename(path, other, Rename::Replace),
    }
}

fn attribute_op(rng: &mut Rng, path: Path) -> Op {
    let ids = [None, Some(0), Some(1000), Some(1001)];
    let xattr = *rng.pick(&XATTRS);
    match rng.below(16) {
        0..3 => Op::Chmod(path, *rng.pick(&MODES)),
        3 | 4 => Op::Chown(path, *rng.pick(&ids), *rng.pick(&ids)),
        5 | 6 => Op::Utimens(path, *rng.pick(&TIMES), *rng.pick(&TIMES)),
        7 | 8 => Op::SetXattr(path, xattr, u32::try_from(rng.below(200)).unwrap()),
        9 => Op::RemoveXattr(path, xattr),
        10 => Op::GetXattr(path, xattr),
        11 => Op::ListXattr(path),
        12 | 13 => Op::SetAcl(path, rng.one_in(2), u16::try_from(rng.below(8)).unwrap()),
        14 if rng.one_in(2) => Op::Readlink(path),
        14 => Op::Access(path, u8::try_from(rng.below(8)).unwrap()),
        _ => Op::Stat(path),
    }
}

fn slot_op(rng: &mut Rng, path: Path) -> Op {
    let slot = usize::try_from(rng.below(SLOTS as u64)).unwrap();
    let opens = [
        Open::Read,
        Open::Write,
        Open::ReadWrite,
        Open::ReadWriteTruncate,
        Open::Append,
        Open::CreateReadWrite,
        Open::Directory,
        Open::Path,
    ];
    let (offset, len, seed) =
        (*rng.pick(&OFFSETS), *rng.pick(&LENGTHS), u8::try_from(rng.below(256)).unwrap());
    match rng.below(20) {
        0..5 => Op::Open(slot, path, *rng.pick(&opens)),
        5 | 6 => Op::Tmpfile(slot, path),
        7 | 8 => Op::LinkTmpfile(slot, path),
        9 => Op::Close(slot),
        10 => Op::FdRead(slot, offset, len),
        11 | 12 => Op::FdWrite(slot, offset, len, seed),
        13 => Op::FdTruncate(slot, offset),
        14 => Op::FdChmod(slot, *rng.pick(&MODES)),
        15 => Op::FdSync(slot),
        16 => Op::FdSetXattr(slot, rng.pick::<&str>(&XATTRS), 10),
        17 => Op::FdReaddir(slot),
        18 => Op::FdUtimens(slot, *rng.pick(&TIMES), *rng.pick(&TIMES)),
        _ => Op::FdStat(slot),
    }
}

/// A random list.
pub fn random(rng: &mut Rng, len: usize) -> Vec<Op> {
    let paths = paths();
    let users = [0, 0, 1000];
    (0..len)
        .map(|_| {
            let (path, other) = (*rng.pick(&paths), *rng.pick(&paths));
            match rng.below(100) {
                0..25 => data_op(rng, path, other),
                25..60 => name_op(rng, path, other),
                60..75 => attribute_op(rng, path),
                75..90 => slot_op(rng, path),
                90..95 => Op::Readdir(path),
                95..98 => Op::As(*rng.pick(&users)),
                98 => Op::Remount,
                _ => Op::Kill,
            }
        })
        .collect()
}
