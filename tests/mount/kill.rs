//! The daemon is killed at random moments of a known sequence; what had been acknowledged is there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use overcoat_tests::rng::{Rng, bytes};
use overcoat_tests::{Mount, Spec, fsx, mount_tests, overcoat_only, store};

/// How often the daemon is killed.
const ROUNDS: u64 = 50;

/// What is there: path → (seed, length) of its bytes. Names of directories are fixed.
type State = BTreeMap<String, (u64, usize)>;

/// One operation of the sequence: deterministic in `(seed, number)` and the state before it.
#[derive(Clone, Debug)]
enum Op {
    /// Write a new or an existing file as a whole, and close it.
    Write {
        path: String,
        seed: u64,
        len: usize,
    },
    /// Write it under another name, sync it and rename it over.
    Replace {
        path: String,
        seed: u64,
        len: usize,
    },
    Rename {
        from: String,
        to: String,
    },
    Link {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
}

fn name(rng: &mut Rng) -> String {
    format!("d{}/f{}", rng.below(3), rng.below(12))
}

fn plan(rng: &mut Rng, state: &State) -> Op {
    let existing: Vec<&String> = state.keys().collect();
    let most = if rng.one_in(10) { 600_000 } else { 20_000 };
    let len = usize::try_from(rng.below(most)).unwrap();
    match rng.below(10) {
        0..4 => Op::Write { path: name(rng), seed: rng.next(), len },
        4 | 5 => Op::Replace { path: name(rng), seed: rng.next(), len },
        _ if existing.is_empty() => Op::Write { path: name(rng), seed: rng.next(), len },
        6 => Op::Rename { from: (*rng.pick(&existing)).clone(), to: name(rng) },
        7 => Op::Link { from: (*rng.pick(&existing)).clone(), to: name(rng) },
        _ => Op::Unlink { path: (*rng.pick(&existing)).clone() },
    }
}

/// Does it. An error means that the daemon is dead (or that the file system is wrong, which the
/// comparison tells).
fn perform(root: &Path, op: &Op, state: &State) -> std::io::Result<()> {
    match op {
        Op::Write { path, seed, len } => {
            // Not through a link: the state knows paths only.
            if state.contains_key(path) {
                std::fs::remove_file(root.join(path))?;
            }
            let file = std::fs::File::create(root.join(path))?;
            std::io::Write::write_all(&mut &file, &bytes(*seed, *len))
        }
        Op::Replace { path, seed, len } => {
            let file = std::fs::File::create(root.join("temporary"))?;
            std::io::Write::write_all(&mut &file, &bytes(*seed, *len))?;
            file.sync_all()?;
            std::fs::rename(root.join("temporary"), root.join(path))
        }
        Op::Rename { from, to } => std::fs::rename(root.join(from), root.join(to)),
        Op::Link { from, to } => {
            if state.contains_key(to) && from != to {
                std::fs::remove_file(root.join(to))?;
            }
            if from == to { Ok(()) } else { std::fs::hard_link(root.join(from), root.join(to)) }
        }
        Op::Unlink { path } => std::fs::remove_file(root.join(path)),
    }
}

/// Whether the daemon still answers, so that what came before did get through (a close cannot tell).
fn alive(root: &Path) -> bool {
    let flags = rustix::fs::AtFlags::STATX_FORCE_SYNC;
    rustix::fs::statx(rustix::fs::CWD, root, flags, rustix::fs::StatxFlags::ALL).is_ok()
}

/// The state after it.
fn advance(op: &Op, state: &mut State) {
    match op {
        Op::Write { path, seed, len } | Op::Replace { path, seed, len } => {
            state.insert(path.clone(), (*seed, *len));
        }
        Op::Rename { from, to } => {
            let content = state[from];
            // Two links of one file: rename does nothing.
            if from != to && state.get(to) != Some(&content) {
                state.remove(from);
                state.insert(to.clone(), content);
            }
        }
        Op::Link { from, to } => {
            let content = state[from];
            state.insert(to.clone(), content);
        }
        Op::Unlink { path } => {
            state.remove(path);
        }
    }
}

/// Runs operations until one fails. Returns the one that failed; `state` is that before it.
fn run(root: &Path, rng: &mut Rng, state: &mut State, acknowledged: &AtomicU64) -> Op {
    loop {
        let op = plan(rng, state);
        if perform(root, &op, state).is_err() || !alive(root) {
            return op;
        }
        advance(&op, state);
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// Looks at every file; what `last` touches may be as before, as after, or half done.
fn verify(mount: &Mount, state: &State, last: &Op) -> Result<(), String> {
    let touched: Vec<&String> = match last {
        Op::Write { path, .. } | Op::Replace { path, .. } | Op::Unlink { path } => vec![path],
        Op::Rename { from, to } | Op::Link { from, to } => vec![from, to],
    };
    for (path, (seed, len)) in state {
        if touched.contains(&path) {
            continue;
        }
        let data = std::fs::read(mount.path(path)).map_err(|error| format!("{path}: {error}"))?;
        if data != bytes(*seed, *len) {
            let wrong = data.iter().zip(bytes(*seed, *len)).position(|(is, want)| *is != want);
            return Err(format!("{path}: {} bytes, want {len}; wrong from {wrong:?}", data.len()));
        }
    }
    for directory in ["d0", "d1", "d2"] {
        for name in fsx::names(mount.path(directory)) {
            let path = format!("{directory}/{name}");
            if !state.contains_key(&path) && !touched.contains(&&path) {
                return Err(format!("{path} had been removed"));
            }
        }
    }
    // A replacement is all or nothing.
    if let Op::Replace { path, seed, len } = last {
        let found = std::fs::read(mount.path(path)).ok();
        let before = state.get(path).map(|(seed, len)| bytes(*seed, *len));
        if found != before && found != Some(bytes(*seed, *len)) {
            return Err(format!("{path}: neither the old nor the new bytes after a replacement"));
        }
    }
    Ok(())
}

/// Takes the state of what `last` touches from the mount, so that the next round starts from the truth.
fn settle(mount: &Mount, state: &mut State, last: &Op) {
    let touched: Vec<String> = match last {
        Op::Write { path, .. } | Op::Replace { path, .. } | Op::Unlink { path } => {
            vec![path.clone()]
        }
        Op::Rename { from, to } | Op::Link { from, to } => vec![from.clone(), to.clone()],
    };
    for path in touched {
        state.remove(&path);
        if fsx::exists(mount.path(&path)) {
            std::fs::remove_file(mount.path(&path)).unwrap();
        }
    }
    if fsx::exists(mount.path("temporary")) {
        std::fs::remove_file(mount.path("temporary")).unwrap();
    }
}

mount_tests! {
    fn fifty_kills_lose_nothing_acknowledged(scratch) {
        overcoat_only!();
        for directory in ["d0", "d1", "d2"] {
            fsx::mkdir(scratch.lower().join(directory));
        }
        let spec = Spec::of(scratch);
        let mut rng = Rng::from_env("kill");
        let mut state = State::new();
        let mut mount = spec.mount();
        let acknowledged = AtomicU64::new(0);
        for round in 0..ROUNDS {
            let delay = Duration::from_micros(rng.below(60_000));
            let mut writer_rng = Rng::new(rng.next());
            let root = mount.root().to_owned();
            let last = std::thread::scope(|scope| {
                let writer = scope.spawn(|| run(&root, &mut writer_rng, &mut state, &acknowledged));
                std::thread::sleep(delay);
                mount.kill_daemon();
                writer.join().unwrap()
            });
            mount.detach();
            mount = spec.mount();
            if let Err(fault) = verify(&mount, &state, &last) {
                panic!("round {round} after {delay:?}, last operation {last:?}: {fault}");
            }
            settle(&mount, &mut state, &last);
            if round % 5 == 0 {
                // Killed again at rest, and checked as it was left.
                mount.kill_daemon();
                mount.detach();
                store::assert_clean(&scratch.upper());
                mount = spec.mount();
            }
        }
        eprintln!("{} operations acknowledged", acknowledged.load(Ordering::Relaxed));
        assert!(acknowledged.load(Ordering::Relaxed) > ROUNDS, "nearly nothing was done");
        mount.unmount();
        store::assert_clean(&scratch.upper());
    }
}
