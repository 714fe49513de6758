//! The steps of a list: operations through the mounts, and changes of the layers between two mounts.

use overcoat_tests::rng::Rng;

use crate::op::{Op, Path, Rename};

/// A layer, counted from the top, modulo their number.
pub type Layer = usize;

/// The second of a modification time, which tells what is written on the host from everything else.
pub type Stamp = i64;

/// What is done to the layers while nothing is mounted. What cannot be done is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new file takes the place of whatever has the name: its length, and its time.
    Replace(Layer, Path, usize, Stamp),
    /// A file is written in place.
    Modify(Layer, Path, usize, Stamp),
    Remove(Layer, Path),
    Mkdir(Layer, Path),
    Symlink(Layer, Path),
    Fifo(Layer, Path),
    Move(Layer, Path, Path),
    /// A further name of a file.
    Link(Layer, Path, Path),
    /// A copy with other contents takes the place of one of several names.
    BreakLink(Layer, Path, Stamp),
    Chmod(Layer, Path, u32),
    SetXattr(Layer, Path),
    Whiteout(Layer, Path),
    /// A directory hides what lower layers have at its path.
    Opaque(Layer, Path),
    /// A copy takes the place of the layer.
    Copy(Layer),
    /// A copy whose times have lost their nanoseconds, as tar writes them.
    CoarseCopy(Layer),
    /// A new layer above this one; its contents come of the seed.
    Insert(Layer, u64),
    /// A new lowest layer.
    Append(u64),
    /// The layer goes, if it is not the only one.
    Drop(Layer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Op(Op),
    Change(Change),
}

/// Where the directories are. Few names, so that steps meet.
pub const DIRECTORIES: [Path; 7] = ["d", "d/e", "d/e/g", "f", "f/e", "n", "n/e"];

/// All paths that steps choose from.
pub fn paths() -> Vec<Path> {
    let mut paths: Vec<Path> = DIRECTORIES.to_vec();
    for directory in std::iter::once("").chain(DIRECTORIES) {
        for name in ["a", "b", "c", "x"] {
            let path =
                if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
            paths.push(path.leak());
        }
    }
    paths
}

const LENGTHS: [usize; 6] = [0, 1, 4095, 4096, 10_000, 30_000];
const OFFSETS: [u64; 6] = [0, 1, 4096, 8192, 9_999, 50_000];
const MODES: [u32; 5] = [0o644, 0o600, 0o755, 0o700, 0o1777];
const TIMES: [i64; 4] = [1, -1, 1 << 33, 1_000_000_000];

fn op(rng: &mut Rng, path: Path, other: Path) -> Op {
    let (offset, seed) = (*rng.pick(&OFFSETS), u8::try_from(rng.below(256)).unwrap());
    // A length of 0 opens for writing and writes nothing: overlayfs copies the file up, which is no change.
    let len = u32::try_from(*rng.pick(&LENGTHS[1..])).unwrap();
    match rng.below(34) {
        0 | 1 => Op::Create(path, *rng.pick(&MODES)),
        2..5 => Op::Write(path, offset, len, seed),
        5 => Op::Append(path, len, seed),
        6 | 7 => Op::Truncate(path, *rng.pick(&OFFSETS)),
        8..10 => Op::Mkdir(path, *rng.pick(&MODES)),
        10 | 11 => Op::Rmdir(path),
        12..15 => Op::Unlink(path),
        15 | 16 => Op::Link(path, other),
        // To a name that never is: one thing, one path.
        17 => Op::Symlink("target", path),
        18..23 => Op::Rename(path, other, Rename::Replace),
        23 | 24 => Op::Rename(path, other, Rename::Exchange),
        25..28 => Op::Chmod(path, *rng.pick(&MODES)),
        28 => Op::Chown(path, Some(1000), None),
        29 => Op::Utimens(path, *rng.pick(&TIMES), *rng.pick(&TIMES)),
        30 => Op::SetXattr(path, "user.b", u32::try_from(rng.below(200)).unwrap()),
        31 => Op::Read(path),
        32 => Op::Readdir(path),
        _ if rng.one_in(4) => Op::Kill,
        _ => Op::Remount,
    }
}

fn change(rng: &mut Rng, path: Path, other: Path) -> Change {
    let layer = usize::try_from(rng.below(4)).unwrap();
    let len = *rng.pick(&LENGTHS);
    let stamp = 1_200_000_000 + i64::try_from(rng.below(100_000_000)).unwrap();
    match rng.below(32) {
        0..5 => Change::Replace(layer, path, len, stamp),
        5..8 => Change::Modify(layer, path, len, stamp),
        8..11 => Change::Remove(layer, path),
        11 | 12 => Change::Mkdir(layer, path),
        13 => Change::Symlink(layer, path),
        14 => Change::Fifo(layer, path),
        15 | 16 => Change::Move(layer, path, other),
        17 | 18 => Change::Link(layer, path, other),
        19 => Change::BreakLink(layer, path, stamp),
        20 => Change::Chmod(layer, path, *rng.pick(&MODES)),
        21 => Change::SetXattr(layer, path),
        22 => Change::Whiteout(layer, path),
        23 => Change::Opaque(layer, path),
        24 | 25 => Change::Copy(layer),
        26 => Change::CoarseCopy(layer),
        27 | 28 => Change::Insert(layer, rng.next()),
        29 => Change::Append(rng.next()),
        _ => Change::Drop(layer),
    }
}

/// A random list: rounds of operations and of changes after them.
pub fn random(rng: &mut Rng, rounds: usize) -> Vec<Step> {
    let paths = paths();
    let mut steps = Vec::new();
    for _ in 0..rounds {
        for _ in 0..10 + rng.below(30) {
            let (path, other) = (*rng.pick(&paths), *rng.pick(&paths));
            steps.push(Step::Op(op(rng, path, other)));
        }
        for _ in 0..1 + rng.below(8) {
            let (path, other) = (*rng.pick(&paths), *rng.pick(&paths));
            steps.push(Step::Change(change(rng, path, other)));
        }
    }
    steps
}
