//! The same operations over a host file that fails, dies or loses power: at every call, one after the other, and at
//! random. `OVERCOAT_FAULT_CASES` sets how many sequences are tried.

use super::harness::{Harness, Host, Verdict};
use super::lowers::{self, Layer};
use super::op::{self, At, Make, Op};
use super::reference::Reference;
use crate::attr::{Caller, InodeNo};
use crate::config::{Config, Durability, FILESTORE_NAME, IdMap, Medium};
use crate::errno::Errno;
use crate::filestore::faulty::{Fault, Faulty, Rng};
use crate::journal::testing::formatted;
use crate::overlay::{Overlay, Writer};
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestCaseError};
use std::sync::Arc;

/// Outcomes of one power cut that are looked at.
const CUTS: usize = 8;

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
    /// A failed mount must not have broken anything: the next one works.
    fn open(&mut self) -> Verdict<Arc<Overlay>> {
        let opened = self.overlay();
        if opened.is_ok() || !self.file.has_struck() || self.file.is_dead() {
            return opened;
        }
        self.file.set_fault(None);
        self.overlay()
    }

    fn close(&mut self, overlay: Arc<Overlay>, kill: bool) -> Verdict {
        let killed = kill.then(|| self.file.fork());
        overlay.destroy();
        drop(overlay);
        if let Some(file) = killed {
            self.file = file;
        }
        if self.file.has_struck() && !self.file.is_dead() {
            self.file.set_fault(None);
        }
        Ok(())
    }

    fn tolerates(&self, err: Errno) -> bool {
        self.file.has_struck() && [Errno::IO, Errno::NOSPC, Errno::ROFS].contains(&err)
    }

    fn is_alive(&self) -> bool {
        !self.file.is_dead()
    }
}

/// What happened to a sequence, for those who ask later what a power cut may leave.
#[derive(Default)]
struct History {
    /// The reference before the first operation and after each.
    states: Vec<Reference>,
    /// The state that the last sync made durable.
    durable: usize,
}

/// Runs `ops` with `fault`; the filestore's calls by then, and its reads.
fn run(ground: &Ground, ops: &[Op], fault: Option<Fault>, seed: u64) -> Verdict<(u64, u64)> {
    let file = formatted();
    file.set_fault(fault);
    let host = Failing { config: ground.config.clone(), file: file.clone(), boot: 1 };
    let mut rng = Rng::new(seed);
    let mut history = History { states: vec![ground.model.clone()], durable: 0 };
    let mut harness = match Harness::new(host, ground.model.clone()) {
        Err(_) if file.is_dead() => {
            return lose_power_often(ground, &file, &history, &mut rng).map(|()| (0, 0));
        }
        harness => harness?,
    };
    for (n, op) in ops.iter().enumerate() {
        let done = harness.apply(op);
        if harness.host.file.is_dead() {
            history.states.extend([harness.model.clone(), harness.after.clone()]);
            return lose_power_often(ground, &harness.host.file, &history, &mut rng)
                .map_err(|err| format!("power cut in operation {n} {op:?}: {err}"))
                .map(|()| (0, 0));
        }
        done.map_err(|err| format!("operation {n} {op:?}: {err}"))?;
        history.states.push(harness.model.clone());
        if harness.made_durable() {
            history.durable = history.states.len() - 1;
        }
        let cut = rng.below(8) == 0 || n + 1 == ops.len();
        if cut {
            lose_power(ground, &harness.host.file, &history, &mut rng)
                .map_err(|err| format!("after operation {n} {op:?}: power cut: {err}"))?;
        }
    }
    let counts = (harness.host.file.calls(), harness.host.file.reads());
    harness.compare().map_err(|err| format!("at the end: {err}"))?;
    harness.remount(true).map_err(|err| format!("killed: {err}"))?;
    harness.remount(false).map_err(|err| format!("ended in order: {err}"))?;
    Ok(counts)
}

/// Several outcomes of a power cut in the middle of a call.
fn lose_power_often(ground: &Ground, file: &Faulty, history: &History, rng: &mut Rng) -> Verdict {
    (0..CUTS).try_for_each(|_| lose_power(ground, file, history, rng))
}

/// Opens what a power cut would leave now: it must be a state that was, not before the last one made durable.
fn lose_power(ground: &Ground, file: &Faulty, history: &History, rng: &mut Rng) -> Verdict {
    let host = Failing { config: ground.config.clone(), file: file.after_power_cut(rng), boot: 2 };
    let overlay = host.overlay()?;
    let later = &history.states[history.durable..];
    let mut reasons = Vec::new();
    for n in (0..later.len()).rev() {
        let (host, model) = (Failing { ..host.again() }, later[n].clone());
        match Harness::over(host, overlay.clone(), model).compare_after_cut(&later[n..]) {
            Ok(()) => return Ok(()),
            Err(err) => reasons.push(format!("{}: {err}", history.durable + n)),
        }
    }
    Err(format!("no state that was, from {} on: {}", history.durable, reasons.join("; ")))
}

impl Failing {
    fn again(&self) -> Failing {
        Failing { config: self.config.clone(), file: self.file.clone(), boot: self.boot }
    }
}

/// Every fault at every call that `ops` make.
fn at_every_call(ground: &Ground, ops: &[Op], seed: u64) -> Verdict {
    let (calls, reads) = run(ground, ops, None, seed)?;
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
                Fault::Kill(n),
            ]
        })
        .chain((0..reads).map(|n| Fault::Read(n, Errno::IO)));
    for fault in faults {
        run(ground, ops, Some(fault), seed).map_err(|err| format!("{fault:?}: {err}"))?;
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
    fn any_call_may_fail_and_power_may_go_at_any_moment(
        layers in proptest::collection::vec(lowers::steps(), 2..4),
        ops in proptest::collection::vec(op::op(), 1..14),
        seed in any::<u64>(),
    ) {
        at_every_call(&Ground::new(&layers), &ops, seed).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(thorough(cases(20)))]

    #[test]
    fn a_random_call_may_fail_and_power_may_go_at_any_moment(
        layers in proptest::collection::vec(lowers::steps(), 2..4),
        ops in proptest::collection::vec(op::op(), 1..80),
        seed in any::<u64>(),
    ) {
        let ground = Ground::new(&layers);
        let (calls, _) = run(&ground, &ops, None, seed).map_err(TestCaseError::fail)?;
        let n = Rng::new(seed).below(calls);
        let faults = [
            Fault::From(n, Errno::IO),
            Fault::ShortThen(n, Errno::NOSPC),
            Fault::Late(n, Errno::IO),
            Fault::Kill(n),
            Fault::Kill(Rng::new(!seed).below(calls)),
        ];
        for fault in faults {
            run(&ground, &ops, Some(fault), seed)
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
    if let Err(err) = at_every_call(&Ground::new(&[Vec::new(), Vec::new()]), ops, 1) {
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

#[test]
fn a_sync_point_counts_on_nothing_that_a_power_cut_may_take() {
    let file = Op::Make { at: at(200), what: Make::File, mode: 0o644, umask: 0, who: 0 };
    let other = Op::Make { at: at(201), what: Make::File, mode: 0o644, umask: 0, who: 0 };
    let write = |file| Op::Write { file, at: 0, len: 20_000, kill: false };
    holds(&[file, write(0), other, write(1), Op::Fsync(1), write(0), Op::Fsync(1)]);
}

#[test]
fn after_a_flush_that_failed_nothing_is_acknowledged_any_more() {
    let ground = Ground::new(&[Vec::new(), Vec::new()]);
    let file = formatted();
    let mut host = Failing { config: ground.config.clone(), file: file.clone(), boot: 1 };
    let overlay = host.overlay().unwrap();
    let who = Caller { uid: 0, gid: 0, pid: 0 };
    let make = |name: &str| overlay.create(InodeNo::ROOT, name.as_ref(), 0, 0o644, 0, &who);
    let kept = make("kept").unwrap().attr.ino;
    overlay.write(kept, 0, b"kept", Writer::Privileged).unwrap();
    overlay.fsync(kept, false).unwrap();
    overlay.write(kept, 0, b"lost", Writer::Privileged).unwrap();
    file.set_fault(Some(Fault::Once(file.calls(), Errno::IO)));
    assert_eq!(overlay.fsync(kept, false), Err(Errno::IO));
    assert_eq!(overlay.fsync(kept, false), Err(Errno::IO), "the host does not say it twice");
    assert_eq!(make("more").unwrap_err(), Errno::ROFS);
    assert_eq!(overlay.write(kept, 0, b"more", Writer::Privileged), Err(Errno::ROFS));
    let calls = file.calls();
    overlay.work_beside();
    assert_eq!(file.calls(), calls, "the filestore is left alone");
    let mut buf = [0; 4];
    assert_eq!(overlay.read(kept, 0, &mut buf), Ok(4));
    host.close(overlay.clone(), false).unwrap();
    drop(host.open().unwrap());
}
