//! Power cuts: writers work in a mount in a guest, qemu is killed, and what the guest's disk holds is looked at on the
//! host.
//!
//! With the process of qemu the guest's page cache goes. What its disk had been given stays in the host's, in
//! order, although a disk may lose what it had not flushed: so each run of a guest gives more states, which are made of the
//! log of the disk's writes (`writelog.rs`). qemu's `cache=` makes no difference to that: `none` goes past
//! the host's page cache, which does not lose anything here; `unsafe` ignores flushes, which then are nothing to test.
//!
//! `OVERCOAT_TEST_CUTS=200` is the long form: so many states, five of each run of a guest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use overcoat_tests::history::{self, History};
use overcoat_tests::rng::Rng;
use overcoat_tests::{Scratch, Spec, fsx, store, tool, work};

use crate::initramfs::Archive;
use crate::machine::{Boot, Line, tail};
use crate::matrix;
use crate::writelog::{Cache, WriteLog};

/// States that are looked at for each run of a guest: as it was killed, and four made of the log.
const STATES: [Option<Cache>; 5] =
    [None, Some(Cache::Kept), Some(Cache::Lost), Some(Cache::Torn), Some(Cache::Torn)];

/// How long a guest may take to begin.
const LIMIT: Duration = Duration::from_secs(120);

/// Operations of a history that may have been done beyond those that the guest told of.
const UNTOLD: u64 = 300;

const WRITERS: [&str; 10] =
    ["tree0", "tree1", "durable", "synced", "plain", "log", "bulk", "churn", "wal", "delete"];

/// One run of a guest.
#[derive(Clone, Copy, Debug)]
struct Run {
    kernel: &'static str,
    host: &'static str,
    options: &'static str,
}

const RUNS: [Run; 4] = [
    Run { kernel: "6.12", host: "ext4", options: "transport=auto" },
    Run { kernel: "7", host: "xfs", options: "transport=auto" },
    Run { kernel: "6.12", host: "xfs", options: "writeback=off" },
    Run { kernel: "7", host: "ext4", options: "writeback=off" },
];

impl Run {
    /// The kernel holds written data back.
    fn holds_back(self) -> bool {
        !self.options.contains("writeback=off")
    }
}

/// A file system of the host in a file, mounted as long as the guard lives.
struct Loop {
    point: PathBuf,
}

impl Loop {
    fn mount(image: &Path, point: PathBuf) -> Self {
        std::fs::create_dir_all(&point).unwrap();
        tool::run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), point.as_os_str()]);
        Self { point }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if !tool::output(std::process::Command::new("umount").arg(&self.point)).status.success() {
            overcoat_tests::mount::unmount_below(&self.point);
        }
    }
}

/// Makes the disk as the guest finds it: layers and an empty upper.
fn prepare(image: &Path, host: &str, seed: u64, scratch: &Scratch) {
    std::fs::File::create(image).unwrap().set_len(3 << 30).unwrap();
    let mkfs = format!("mkfs.{host}");
    tool::run(&mkfs, &["-q".as_ref(), image.as_os_str()]);
    let disk = Loop::mount(image, scratch.path("host"));
    let lower = disk.point.join("lower");
    for directory in [lower.clone(), disk.point.join("upper")] {
        fsx::mkdir(directory);
    }
    for writer in WRITERS {
        fsx::mkdir(lower.join(writer));
    }
    for number in 0..2 {
        History::new(seed + number).make_layer(&lower.join(format!("tree{number}")));
    }
    for writer in ["durable", "synced", "plain", "churn"] {
        fsx::write(lower.join(writer).join("file"), work::replacement(0));
    }
}

/// What a guest told: the last numbers of its writers.
#[derive(Clone, Debug, Default)]
struct Told {
    acked: BTreeMap<String, u64>,
    done: BTreeMap<String, u64>,
}

impl Told {
    /// What was told by the time when the log was that long.
    fn until<'a>(lines: impl Iterator<Item = &'a Line>) -> Self {
        let mut told = Self::default();
        for line in lines {
            let words: Vec<&str> = line.text.split(' ').collect();
            if let [verb @ ("ack" | "done"), writer, number] = words.as_slice() {
                let number: u64 = number.parse().unwrap();
                if *verb == "ack" {
                    told.acked.insert((*writer).to_owned(), number);
                }
                told.done.insert((*writer).to_owned(), number);
            }
        }
        told
    }

    fn acked(&self, writer: &str) -> u64 {
        self.acked.get(writer).copied().unwrap_or(0)
    }
}

/// Looks at a disk after a cut. Returns what is wrong.
fn judge(run: Run, image: &Path, seed: u64, told: &Told, scratch: &Scratch) -> Vec<String> {
    let disk = Loop::mount(image, scratch.path("host"));
    let upper = disk.point.join("upper");
    let mut wrong: Vec<String> = check(&upper).into_iter().collect();
    let spec = Spec::of(scratch).lowers(&[disk.point.join("lower")]);
    let spec = Spec { upper: Some(upper.clone()), ..spec };
    // A mount that is refused panics.
    match std::panic::catch_unwind(|| spec.mount()) {
        Err(_) => wrong.push("it cannot be mounted".into()),
        Ok(mount) => {
            wrong.extend(WRITERS.iter().filter_map(|writer| {
                let judged =
                    judge_writer(&mount.path(writer), writer, seed, told, run.holds_back());
                judged.err().map(|reason| format!("{writer}: {reason}"))
            }));
            mount.unmount();
            wrong.extend(check(&upper));
        }
    }
    wrong
}

fn judge_writer(
    root: &Path,
    writer: &str,
    seed: u64,
    told: &Told,
    held_back: bool,
) -> Result<(), String> {
    let acked = told.acked(writer);
    match writer {
        "tree0" | "tree1" => {
            let seed = seed + u64::from(writer == "tree1");
            let done = told.done.get(writer).copied().unwrap_or(0);
            history::judge(root, seed, acked, done - acked + UNTOLD).map(|_| ())
        }
        "durable" | "synced" | "plain" => work::judge_replaced(root, acked),
        "log" => work::judge_appended(root, acked),
        "bulk" => work::judge_bulk(root, held_back),
        "churn" => work::judge_churned(root, acked),
        _ => work::judge_sqlite(root, acked),
    }
}

/// What `overcoat check` finds fault with.
fn check(upper: &Path) -> Option<String> {
    let file = store::path(upper);
    if !file.exists() {
        return None;
    }
    let outcome = tool::overcoat_run(&["check".as_ref(), file.as_os_str()], LIMIT);
    (outcome.code != Some(0)).then(|| format!("check: {}{}", outcome.stdout, outcome.stderr))
}

/// Boots, lets it work, cuts the power. Returns what it said, or `None` where there is no kernel.
fn one_run(run: Run, seed: u64, files: &Files, work: Duration) -> Option<Vec<Line>> {
    let kernel = matrix::kernel(run.kernel)?;
    let mut archive = Archive::for_guest(&kernel);
    archive.program("bin/sqlite3", &tool::find("sqlite3").unwrap());
    archive.write(&files.initramfs);
    let seed = seed.to_string();
    let boot = Boot {
        kernel: &kernel,
        initramfs: &files.initramfs,
        disk: &files.disk,
        write_log: Some(&files.log),
        console: files.console.clone(),
        arguments: &["power", &seed, run.options],
    };
    let guest = boot.start();
    let deadline = Instant::now() + LIMIT;
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &Line| line.text != "begin") {
        let line = guest.line(deadline);
        lines.push(
            line.unwrap_or_else(|| {
                panic!("it does not begin: {lines:?}\n{}", tail(&files.console))
            }),
        );
    }
    let end = Instant::now() + work;
    lines.extend(std::iter::from_fn(|| guest.line(end)));
    lines.extend(guest.cut());
    let failed: Vec<&Line> = lines.iter().filter(|line| line.text.starts_with("failed")).collect();
    assert!(failed.is_empty(), "{failed:?}\n{}", tail(&files.console));
    Some(lines)
}

/// The files of a run.
struct Files {
    initramfs: PathBuf,
    /// The disk as the guest found it, and as it is.
    before: PathBuf,
    disk: PathBuf,
    log: PathBuf,
    console: PathBuf,
    /// The disk in a state made of the log.
    made: PathBuf,
}

impl Files {
    fn new(scratch: &Scratch) -> Self {
        let [initramfs, before, disk, log, console, made] =
            ["initramfs", "before", "disk", "log", "console", "made"]
                .map(|name| scratch.path(name));
        Self { initramfs, before, disk, log, console, made }
    }
}

fn copy(from: &Path, to: &Path) {
    tool::run("cp", &["--sparse=always".as_ref(), from.as_os_str(), to.as_os_str()]);
}

/// Looks at the disk in each state. Returns how many are wrong; their disks stay.
fn judge_states(
    run: Run,
    name: &str,
    seed: u64,
    lines: &[Line],
    files: &Files,
    scratch: &Scratch,
) -> usize {
    let mut rng = Rng::new(seed);
    let log = WriteLog::read(&files.log);
    let mut wrong = 0;
    for (state, cache) in STATES.into_iter().enumerate() {
        let (image, told) = match cache {
            None => (&files.disk, Told::until(lines.iter())),
            Some(cache) => {
                let back = usize::try_from(rng.below(log.len() as u64 * 3 / 4)).unwrap();
                let count = log.len() - back;
                let end = log.end_of(count);
                copy(&files.before, &files.made);
                log.replay(&files.made, count, cache, &mut rng);
                (&files.made, Told::until(lines.iter().filter(|line| line.logged <= end)))
            }
        };
        let what = format!("{name}, state {cache:?}, durable: {:?}", told.acked);
        let faults = judge(run, image, seed, &told, scratch);
        if faults.is_empty() {
            eprintln!("right: {what}");
        } else {
            wrong += 1;
            eprintln!("WRONG: {what}\n  {}", faults.join("\n  "));
            std::fs::rename(image, scratch.path(&format!("wrong.{seed}.{state}"))).unwrap();
        }
    }
    wrong
}

#[test]
fn power_cuts_keep_what_was_durable() {
    let programs = ["qemu-system-x86_64", "sqlite3", "mkfs.ext4", "mkfs.xfs"];
    if !overcoat_tests::can_mount() || !overcoat_tests::have(&programs) {
        return;
    }
    let cuts =
        std::env::var("OVERCOAT_TEST_CUTS").map_or(STATES.len(), |cuts| cuts.parse().unwrap());
    let mut rng = Rng::from_env("power");
    let scratch = Scratch::new("power");
    let files = Files::new(&scratch);
    let (mut states, mut wrong) = (0, 0);
    for number in 0..cuts.div_ceil(STATES.len()) {
        let run = RUNS[number % RUNS.len()];
        let seed = rng.next() >> 1;
        prepare(&files.before, run.host, seed, &scratch);
        copy(&files.before, &files.disk);
        std::fs::File::create(&files.log).unwrap();
        let work = Duration::from_millis(2000 + rng.below(5000));
        let Some(lines) = one_run(run, seed, &files, work) else { return };
        let what =
            format!("{number}: Linux {}, {}, {}, {work:?}", run.kernel, run.host, run.options);
        wrong += judge_states(run, &what, seed, &lines, &files, &scratch);
        states += STATES.len();
    }
    assert_eq!(wrong, 0, "of {states} states so many are wrong");
}
