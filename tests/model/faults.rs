//! The same operations over a host file that fails or dies: at every call, one after the other, and at
//! random. `OVERCOAT_FAULT_CASES` sets how many sequences are tried.

use super::harness::{Harness, Host, Verdict};
use super::lowers::{self, Layer};
use super::op::{self, At, Make, Op};
use super::reference::Reference;
use crate::config::{Config, Durability, FILESTORE_NAME, IdMap, Medium};
use crate::errno::Errno;
use crate::filestore::faulty::{Fault, Faulty, Rng};
use crate::journal::testing::formatted;
use crate::overlay::Overlay;
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestCaseError};
use std::sync::Arc;

/// What a sequence runs on: layers on the host, and a filestore that only exists here.
struct Ground {
    config: Config,
    /// What the view shows at first.
    model: Reference,
    /// The layers' directories, removed at the end.
    _place: tempfile::TempDir,
}

impl Ground {
    fn new(layers: &[Vec<lowers::Step>]) -> Ground {
        let base = if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
        let place = tempfile::Builder::new().prefix("faults").tempdir_in(base).unwrap();
        let path = |n: usize| place.path().join(format!("layer{n}"));
        let mut layers: Vec<Layer> =
            layers.iter().enumerate().map(|(n, steps)| Layer::make(&path(n), steps)).collect();
        layers.reverse();
        // It never comes to be there, but the directory's name is known.
        assert!(!layers[0].path.join(FILESTORE_NAME).exists());
        let config = Config {
            lowers: layers[1..].iter().map(|layer| layer.path.clone()).collect(),
            upper: Some(layers[0].path.clone()),
            medium: Medium::OwnFile,
            size_limit: None,
            inode_limit: None,
            durability: Durability::Full,
            idmap: IdMap::default(),
        };
        Ground { config, model: lowers::merge(&layers), _place: place }
    }
}

/// A filestore that fails, as a host.
struct Failing {
    config: Config,
    file: Faulty,
    boot: u8,
}

impl Failing {
    fn overlay(&self) -> Verdict<Arc<Overlay>> {
        let backing = Box::new(self.file.clone());
        Overlay::over(&self.config, backing, [self.boot; 16]).map_err(|err| format!("open: {err}"))
    }
}

impl Host for Failing {
    fn open(&mut self) -> Verdict<Arc<Overlay>> {
        self.overlay()
    }

    fn close(&mut self, overlay: Arc<Overlay>, kill: bool) -> Verdict {
        let killed = kill.then(|| self.file.fork());
        overlay.destroy();
        drop(overlay);
        if let Some(file) = killed {
            self.file = file;
        }
        self.file.set_fault(None);
        Ok(())
    }

    fn tolerates(&self, err: Errno) -> bool {
        self.file.has_struck() && [Errno::IO, Errno::NOSPC, Errno::ROFS].contains(&err)
    }
}

/// Runs `ops` with `fault`; the filestore's calls by then, and its reads.
fn run(ground: &Ground, ops: &[Op], fault: Option<Fault>) -> Verdict<(u64, u64)> {
    let file = formatted();
    file.set_fault(fault);
    let host = Failing { config: ground.config.clone(), file: file.clone(), boot: 1 };
    let mut harness = match Harness::new(host, ground.model.clone()) {
        // It must not have broken anything.
        Err(_) if file.has_struck() => {
            file.set_fault(None);
            let host = Failing { config: ground.config.clone(), file: file.clone(), boot: 1 };
            Harness::new(host, ground.model.clone())?
        }
        harness => harness?,
    };
    for (n, op) in ops.iter().enumerate() {
        harness.apply(op).map_err(|err| format!("operation {n} {op:?}: {err}"))?;
    }
    let counts = (file.calls(), file.reads());
    harness.compare().map_err(|err| format!("at the end: {err}"))?;
    harness.remount(true).map_err(|err| format!("killed: {err}"))?;
    harness.remount(false).map_err(|err| format!("ended in order: {err}"))?;
    Ok(counts)
}

/// Every fault at every call that `ops` make.
fn at_every_call(ground: &Ground, ops: &[Op]) -> Verdict {
    let (calls, reads) = run(ground, ops, None)?;
    let faults = (0..calls)
        .flat_map(|n| {
            [
                Fault::Once(n, Errno::IO),
                Fault::Once(n, Errno::NOSPC),
                Fault::From(n, Errno::NOSPC),
                Fault::From(n, Errno::IO),
                Fault::Late(n, Errno::IO),
                Fault::Short(n),
                Fault::ShortThen(n, Errno::NOSPC),
            ]
        })
        .chain((0..reads).map(|n| Fault::Read(n, Errno::IO)));
    for fault in faults {
        run(ground, ops, Some(fault)).map_err(|err| format!("{fault:?}: {err}"))?;
    }
    Ok(())
}

/// Sequences of which every call is made to fail.
fn thorough(cases: u32) -> Runs {
    Runs { cases, max_shrink_iters: 100, failure_persistence: None, ..Runs::default() }
}

/// `default` sequences, or as many as `OVERCOAT_FAULT_CASES` says.
fn cases(default: u32) -> u32 {
    std::env::var("OVERCOAT_FAULT_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

proptest! {
    #![proptest_config(thorough(cases(2)))]

    #[test]
    fn any_call_may_fail(
        layers in proptest::collection::vec(lowers::steps(), 2..4),
        ops in proptest::collection::vec(op::op(), 1..14),
    ) {
        at_every_call(&Ground::new(&layers), &ops).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(thorough(cases(20)))]

    #[test]
    fn a_random_call_may_fail(
        layers in proptest::collection::vec(lowers::steps(), 2..4),
        ops in proptest::collection::vec(op::op(), 1..80),
        seed in any::<u64>(),
    ) {
        let ground = Ground::new(&layers);
        let (calls, _) = run(&ground, &ops, None).map_err(TestCaseError::fail)?;
        let n = Rng::new(seed).below(calls);
        for fault in [Fault::From(n, Errno::IO), Fault::ShortThen(n, Errno::NOSPC), Fault::Late(n, Errno::IO)] {
            run(&ground, &ops, Some(fault))
                .map_err(|err| TestCaseError::fail(format!("{fault:?}: {err}")))?;
        }
    }
}

// Sequences that once went wrong.

fn at(name: u8) -> At {
    At { dir: 0, name }
}

fn mkdir(dir: u8, name: u8) -> Op {
    Op::Make { at: At { dir, name }, what: Make::Dir, mode: 0o755, umask: 0, who: 0 }
}

/// Every fault at every call, from a view without layers.
fn holds(ops: &[Op]) {
    if let Err(err) = at_every_call(&Ground::new(&[Vec::new(), Vec::new()]), ops) {
        panic!("{err}");
    }
}

#[test]
fn an_exchange_that_fails_leaves_dot_dot_as_it_was() {
    // 0: the root, 1 and 2: what is made in it, 3 and 4: what is made in these.
    let exchange =
        Op::Rename { from: At { dir: 1, name: 0 }, to: At { dir: 2, name: 0 }, flags: 2 };
    holds(&[mkdir(0, 200), mkdir(0, 201), mkdir(1, 202), mkdir(2, 203), exchange]);
}

#[test]
fn an_append_that_is_cut_short_is_taken_back_whole() {
    let xattr = |name| Op::SetXattr { what: 0, name, len: 4000, flags: 0 };
    let file = Op::Make { at: at(200), what: Make::File, mode: 0o644, umask: 0, who: 0 };
    holds(&[file, xattr(0), xattr(1)]);
}
