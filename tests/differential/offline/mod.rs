//! Random changes of the layers between mounts, on Overcoat and on kernel overlayfs.
//!
//! An upper is decided by names: whatever became of the layers meanwhile, the view is what overlayfs shows for the
//! same operations over the same layers. Wanted differences are in `origin.rs` (bytes of a layer's file that has gone)
//! and here: names of one file of a layer (*linked*) stay one file, while overlayfs splits them without its index, with which it wants
//! layers that never change. Such files are only renamed and removed here.

mod host;
mod origin;
mod regressions;
mod step;
mod tree;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use overcoat_tests::rng::Rng;
use overcoat_tests::{Disk, Driver, Scratch, Spec, fsx, store};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::compare::{Verdict, Writeback, describe, is_left_out, verdict};
use crate::op::{Op, Rename};
use crate::view::View;
use host::Host;
use origin::{Model, Shown, UpperId};
use step::Step;
use tree::{Node, Tree, look};

/// Features that let layers change between mounts, and directories be renamed.
const OVERLAYFS: &str = "index=off,redirect_dir=on,metacopy=off,xino=off";

type Outcome<T = ()> = Result<T, String>;

/// What is wrong begins so where overlayfs itself fails: it may answer `ESTALE`, or not find what lies in its upper
/// directory, when a new directory of a layer has got the number of one that has gone. Such a list is left out.
const ORACLE: &str = "overlayfs fails";

/// How many lists were left out so.
static LEFT_OUT: AtomicU32 = AtomicU32::new(0);

/// How many files were seen whose origin had gone or was replaced.
static LOST: AtomicU32 = AtomicU32::new(0);

/// The two views, the layers below them, and what is known of changed files.
///
/// Dropped in this order: mounts, then what they lie on.
struct Bench {
    ours: View,
    theirs: View,
    mounted: bool,
    model: Model,
    /// The numbers that files have in our view, by those of their copies in overlayfs' upper directory.
    numbers: BTreeMap<UpperId, u64>,
    /// The layers below ours, and below overlayfs.
    host: Host,
    their_host: Host,
    disk: Disk,
    scratch: Scratch,
}

impl Bench {
    fn new(writeback: Writeback) -> Self {
        let scratch = Scratch::new("offline");
        let disk = Disk::in_memory(&scratch, 256);
        let host = Host::new(disk.dir("layers"), Driver::from_env() == Driver::Overlayfs);
        let their_host = Host::new(disk.dir("their-layers"), true);
        let spec = |name: &str, driver, host: &Host| Spec {
            driver,
            lowers: host.layers.clone(),
            upper: Some(disk.dir(&format!("{name}-upper"))),
            point: scratch.dir(&format!("{name}-mnt")),
            options: vec!["noatime".to_owned(), format!("writeback={}", writeback.option())],
            log: None,
            descriptors: None,
            overlayfs: OVERLAYFS,
        };
        let ours = View::new(spec("ours", Driver::from_env(), &host));
        let theirs = View::new(spec("theirs", Driver::Overlayfs, &their_host));
        let model = Model::new(disk.dir("theirs-upper"));
        let numbers = BTreeMap::new();
        Self { ours, theirs, mounted: true, model, numbers, host, their_host, disk, scratch }
    }

    fn unmount(&mut self, kill: bool) {
        if self.mounted {
            self.ours.unmount(kill);
            self.theirs.unmount(false);
            self.mounted = false;
        }
    }

    fn mount(&mut self) {
        self.ours.mount_over(&self.host.layers);
        self.theirs.mount_over(&self.their_host.layers);
        self.mounted = true;
    }

    /// Mounts both over the layers as they are now, and compares.
    fn mount_and_compare(&mut self) -> Outcome {
        if !self.mounted {
            self.mount();
            self.compare()?;
        }
        Ok(())
    }

    fn is_linked(&self, path: &str) -> bool {
        let linked = |root: &Path| {
            let stat = rustix::fs::lstat(root.join(path));
            stat.is_ok_and(|stat| self.host.linked.contains(&stat.st_mtime))
        };
        linked(self.ours.root()) || linked(self.theirs.root())
    }

    /// Whether an operation cannot be compared.
    fn is_left_out(&self, op: &Op) -> bool {
        match *op {
            // overlayfs copies the directory above up before it looks.
            Op::Rmdir(path) => self.ours.has_entries(path),
            Op::Rename(from, to, Rename::Replace) if self.is_linked(from) && self.is_linked(to) => {
                true
            }
            Op::Rename(from, to, Rename::Exchange) => self.is_linked(from) && self.is_linked(to),
            Op::Write(path, ..)
            | Op::Append(path, ..)
            | Op::Truncate(path, _)
            | Op::Chmod(path, _)
            | Op::Chown(path, ..)
            | Op::Utimens(path, ..)
            | Op::SetXattr(path, ..)
            | Op::Link(path, _) => self.is_linked(path),
            _ => is_left_out(op, &self.ours, 0),
        }
    }

    fn run_op(&mut self, op: &Op) -> Outcome {
        self.mount_and_compare()?;
        if let Op::Remount | Op::Kill = op {
            self.unmount(*op == Op::Kill);
            return self.mount_and_compare();
        }
        if self.is_left_out(op) {
            return Ok(());
        }
        let before = self.model.before(self.theirs.root(), op);
        let (ours, theirs) = (self.ours.run(op), self.theirs.run(op));
        if ours != theirs {
            if let Verdict::Fault | Verdict::Close(_) = verdict(op, &ours, &theirs) {
                let (ours, theirs) = (describe(&ours), describe(&theirs));
                return Err(format!("{op:?}:\n  ours      {ours}\n  overlayfs {theirs}"));
            }
        }
        if theirs.is_ok() {
            let size = match op {
                Op::Append(path, ..) => fsx::statx(self.theirs.root().join(path)).stx_size,
                _ => 0,
            };
            self.model.after(op, before, size);
        }
        Ok(())
    }

    fn run_step(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Op(op) => self.run_op(op),
            Step::Change(change) => {
                if self.mounted {
                    self.compare()?;
                    self.unmount(false);
                }
                self.host.apply(*change);
                self.their_host.apply(*change);
                Ok(())
            }
        }
    }

    /// The layers alone, merged by overlayfs.
    fn merged_layers(&self) -> overcoat_tests::Mount {
        let mut lowers = self.their_host.layers.clone();
        // Two at least.
        lowers.push(self.scratch.dir("empty"));
        let spec = Spec {
            driver: Driver::Overlayfs,
            lowers,
            upper: None,
            point: self.scratch.dir("layers-mnt"),
            options: Vec::new(),
            log: None,
            descriptors: None,
            overlayfs: OVERLAYFS,
        };
        spec.mount()
    }

    /// Compares the two views. What is lost with the layers is removed from both.
    fn compare(&mut self) -> Outcome {
        let ghosts = Driver::from_env() == Driver::Overlayfs;
        let ours = look(self.ours.root(), ghosts).map_err(|fault| format!("ours: {fault}"))?;
        let theirs =
            look(self.theirs.root(), true).map_err(|fault| format!("{ORACLE}: {fault}"))?;
        let merged = self.merged_layers();
        let mut faults = Vec::new();
        let mut lost = Vec::new();
        let paths: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        for path in paths {
            match (ours.get(path), theirs.get(path)) {
                (Some(ours), Some(theirs)) => {
                    let shown = match Driver::from_env() {
                        Driver::Overcoat => {
                            self.model.shown(path, &self.host.layers, merged.root())
                        }
                        Driver::Overlayfs => Shown::Same,
                    };
                    self.compare_nodes(path, ours, theirs, &shown, &mut faults);
                    if !matches!(shown, Shown::Same) {
                        lost.push(path.clone());
                    }
                }
                (Some(_), None) if self.model.upper_id(path).is_some() => {
                    return Err(format!("{ORACLE}: {} is in its upper directory", path.display()));
                }
                (ours, _) => {
                    let who = if ours.is_some() { "ours" } else { "overlayfs" };
                    faults.push(format!("{}: only in {who}", path.display()));
                }
            }
        }
        if Driver::from_env() == Driver::Overcoat {
            self.compare_numbers(&ours, &mut faults);
        }
        drop(merged);
        if !faults.is_empty() {
            faults.truncate(20);
            return Err(format!("the views differ (ours | overlayfs):\n{}", faults.join("\n")));
        }
        for path in lost {
            LOST.fetch_add(1, Relaxed);
            for root in [self.ours.root(), self.theirs.root()] {
                std::fs::remove_file(root.join(&path)).unwrap();
            }
        }
        Ok(())
    }

    fn compare_nodes(
        &self,
        path: &Path,
        ours: &Node,
        theirs: &Node,
        shown: &Shown,
        faults: &mut Vec<String>,
    ) {
        let linked = self.host.linked.contains(&ours.mtime.0)
            || self.host.linked.contains(&theirs.mtime.0)
            || self
                .model
                .copied(path)
                .is_some_and(|copied| self.host.linked.contains(&copied.origin.mtime.0));
        let mut expected = theirs.clone();
        let mut open_mtime = false;
        match shown {
            Shown::Same => {}
            // A further name may still lead to the origin.
            _ if linked => return,
            Shown::Follows(now) => {
                let now = look_at(now);
                expected.size = now.size;
                expected.blocks = now.blocks;
                open_mtime = self.model.copied(path).is_some_and(|copied| copied.mtime_set);
                expected.mtime = now.mtime;
            }
            Shown::Lost => {
                let copied = self.model.copied(path).expect("it is lost");
                for (number, block) in (0..).zip(&mut expected.blocks) {
                    let ours = ours.blocks.get(usize::try_from(number).unwrap());
                    let is_lost = match copied.has(number) {
                        Some(has) => !has,
                        None => ours == Some(&Err(Errno::IO)),
                    };
                    if is_lost {
                        *block = Err(Errno::IO);
                    }
                }
            }
        }
        expected.ino = ours.ino;
        expected.listed_ino = match Driver::from_env() {
            Driver::Overcoat => ours.ino,
            Driver::Overlayfs => ours.listed_ino,
        };
        if linked {
            expected.nlink = ours.nlink;
        }
        if open_mtime {
            expected.mtime = ours.mtime;
        }
        describe_difference(path, ours, &expected, faults);
    }

    /// Numbers are unique, and those of changed files stay.
    fn compare_numbers(&mut self, ours: &Tree, faults: &mut Vec<String>) {
        let mut numbers = BTreeMap::new();
        let mut first: BTreeMap<u64, (&Path, Option<UpperId>)> = BTreeMap::new();
        for (path, node) in ours {
            let upper = self.model.upper_id(path);
            if let Some(upper) = upper {
                let before = self.numbers.get(&upper);
                if before.is_some_and(|before| *before != node.ino) {
                    faults.push(format!("{}: ino was {before:?}, is {}", path.display(), node.ino));
                }
                numbers.insert(upper, node.ino);
            }
            match first.get(&node.ino) {
                None => drop(first.insert(node.ino, (path, upper))),
                Some((other, other_upper)) => {
                    let same = upper.is_some() && upper == *other_upper;
                    if !same && !self.host.linked.contains(&node.mtime.0) {
                        let (path, other) = (path.display(), other.display());
                        faults.push(format!("{path} and {other} have one number: {}", node.ino));
                    }
                }
            }
        }
        self.numbers = numbers;
    }

    fn end(mut self) -> Outcome {
        self.mount_and_compare()?;
        self.compare()?;
        self.unmount(false);
        self.mount_and_compare()?;
        self.unmount(false);
        if Driver::from_env() == Driver::Overcoat {
            store::assert_clean(&self.disk.dir("ours-upper"));
        }
        Ok(())
    }
}

/// The node of a path of the host.
fn look_at(path: &Path) -> Node {
    let parent = path.parent().expect("a parent");
    let mut tree = look(parent, true).expect("a readable directory");
    tree.remove(Path::new(path.file_name().expect("a name"))).expect("a file")
}

fn describe_difference(path: &Path, ours: &Node, theirs: &Node, faults: &mut Vec<String>) {
    let mut tell = |what: &str, ours: String, theirs: String| {
        if ours != theirs {
            faults.push(format!("{}: {what} {ours} | {theirs}", path.display()));
        }
    };
    tell("mode", format!("{:o}", ours.mode), format!("{:o}", theirs.mode));
    tell("owner", format!("{}:{}", ours.uid, ours.gid), format!("{}:{}", theirs.uid, theirs.gid));
    tell("nlink", ours.nlink.to_string(), theirs.nlink.to_string());
    tell("size", ours.size.to_string(), theirs.size.to_string());
    tell("mtime", format!("{:?}", ours.mtime), format!("{:?}", theirs.mtime));
    tell("target", format!("{:?}", ours.target), format!("{:?}", theirs.target));
    tell("number in the listing", ours.listed_ino.to_string(), theirs.listed_ino.to_string());
    tell("xattrs", format!("{:?}", ours.xattrs), format!("{:?}", theirs.xattrs));
    let blocks = |node: &Node| {
        let told = |block: &rustix::io::Result<Vec<u8>>| match block {
            Ok(data) => format!("{}:{:02x?}", data.len(), &data[..data.len().min(8)]),
            Err(error) => format!("{error:?}"),
        };
        node.blocks.iter().map(told).collect::<Vec<_>>()
    };
    if ours.blocks != theirs.blocks {
        tell("blocks", format!("{:?}", blocks(ours)), format!("{:?} and more", blocks(theirs)));
    }
    let kind = ours.kind();
    debug_assert!(kind != FileType::Directory || ours.blocks.is_empty());
}

/// Runs a list; the first difference in words.
fn run(steps: &[Step], writeback: Writeback) -> Outcome {
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut bench = Bench::new(writeback);
            let run = |(number, step): (usize, &Step)| {
                bench.run_step(step).map_err(|fault| (format!("step {number} {step:?}"), fault))
            };
            let ran = steps.iter().enumerate().try_for_each(run);
            let ran = ran.and_then(|()| bench.end().map_err(|fault| ("at the end".into(), fault)));
            match ran {
                Err((_, fault)) if fault.starts_with(ORACLE) => {
                    LEFT_OUT.fetch_add(1, Relaxed);
                    Ok(())
                }
                ran => ran.map_err(|(place, fault)| format!("{place}: {fault}")),
            }
        });
        thread.join()
    });
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// A shorter list that still differs, and its difference.
fn shrink(mut steps: Vec<Step>, writeback: Writeback, mut fault: String) -> (Vec<Step>, String) {
    let mut budget = 250;
    let mut chunk = steps.len().div_ceil(2);
    while chunk > 0 && budget > 0 {
        let mut start = 0;
        while start < steps.len() && budget > 0 {
            let mut fewer = steps.clone();
            fewer.drain(start..steps.len().min(start + chunk));
            budget -= 1;
            match run(&fewer, writeback) {
                Err(found) => (steps, fault) = (fewer, found),
                Ok(()) => start += chunk,
            }
        }
        chunk /= 2;
    }
    (steps, fault)
}

/// A list of a regression.
fn check(steps: &[Step]) {
    if !overcoat_tests::can_mount() {
        return;
    }
    for writeback in [Writeback::On, Writeback::Off] {
        if let Err(fault) = run(steps, writeback) {
            panic!("{fault}\nwriteback: {writeback:?}");
        }
    }
}

/// How many lists are run every time.
const LISTS: u64 = 25;
/// How often the layers are changed in each.
const ROUNDS: usize = 3;

#[test]
fn random_changes_of_layers_agree_with_overlayfs() {
    if !overcoat_tests::can_mount() {
        return;
    }
    let hunt = std::env::var("OVERCOAT_TEST_SECONDS").is_ok();
    let limit = std::time::Duration::from_secs(crate::setting("OVERCOAT_TEST_SECONDS", 0));
    let deadline = std::time::Instant::now() + limit;
    let mut seeds = if hunt { Rng::from_env("offline") } else { Rng::new(1) };
    let mut runs = 0;
    while runs < LISTS && !hunt || std::time::Instant::now() < deadline {
        let seed = seeds.next();
        let steps = step::random(&mut Rng::new(seed), ROUNDS);
        let writeback = if seed % 2 == 0 { Writeback::On } else { Writeback::Off };
        if let Err(fault) = run(&steps, writeback) {
            eprintln!("list of seed {seed}: {fault}\nshortening…");
            let (steps, fault) = shrink(steps, writeback, fault);
            panic!("{fault}\nwriteback: {writeback:?}\n{steps:#?}");
        }
        runs += 1;
    }
    let lost = LOST.load(Relaxed);
    let left_out = LEFT_OUT.load(Relaxed);
    eprintln!(
        "{runs} lists agree; {lost} files had lost what they were; {left_out} lists left out"
    );
    assert!(u64::from(left_out) * 5 <= runs, "overlayfs fails too often");
    assert!(lost > 0 || Driver::from_env() == Driver::Overlayfs, "no list tries that");
}
