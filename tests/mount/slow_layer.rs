//! Layers that do not answer, and mounts that are full: only what needs them waits.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use overcoat_tests::{Mount, Scratch, SetOnDrop, Spec, fsx, mount_tests, overcoat_only, tool};
use rustix::process::{Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(20);

/// What an operation that does not need the layer may take. A layer that is stopped never answers.
const PROMPT: Duration = Duration::from_secs(5);

/// How many callers hang.
const HANGING: usize = 64;

/// How many threads try to make files where there is no room, and how many look-ups are timed beside.
const CREATORS: usize = 32;
const PROBES: usize = 200;

fn uring_is_on() -> bool {
    let parameter = std::fs::read_to_string("/sys/module/fuse/parameters/enable_uring");
    parameter.is_ok_and(|value| value.trim() == "Y")
}

/// The transports that there are.
fn transports() -> Vec<&'static str> {
    if uring_is_on() { vec!["dev", "uring"] } else { vec!["dev"] }
}

/// A program that is killed at the end: what hangs in the mount is let go by then.
struct Caller(Child);

impl Caller {
    fn start(program: &str, args: &[&Path]) -> Caller {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Caller(command.spawn().unwrap())
    }

    fn is_waiting(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn ends_well(mut self) {
        tool::eventually("the caller's end", LIMIT, || !self.is_waiting());
        assert!(self.0.wait().unwrap().success());
    }
}

/// A layer that can be stopped: a mount of Overcoat's own, over `slow` of the scratch directory.
struct SlowLayer {
    mount: Mount,
}

impl SlowLayer {
    fn new(scratch: &Scratch) -> SlowLayer {
        let below = scratch.dir("slow");
        fsx::mkdir(below.join("d"));
        fsx::mkdir(below.join("both"));
        fsx::mkdir(below.join("both/merged"));
        for number in 0..HANGING {
            fsx::write(below.join(format!("d/read{number}")), "slow");
            fsx::write(below.join(format!("d/look{number}")), "slow");
        }
        for name in ["removed", "renamed", "chmod", "appended", "linked"] {
            fsx::write(below.join("d").join(name), "slow");
        }
        let mut spec = Spec::of(scratch).lowers(&[below]).read_only().at(scratch.dir("slow-mnt"));
        spec.options.clear();
        SlowLayer { mount: spec.option("transport=dev").mount() }
    }

    /// How many requests wait for it.
    fn waiting(&self) -> usize {
        let minor = rustix::fs::minor(std::fs::metadata(self.mount.root()).unwrap().dev());
        let waiting = std::fs::read_to_string(format!("/sys/fs/fuse/connections/{minor}/waiting"));
        waiting.unwrap().trim().parse().unwrap()
    }

    fn stop(&self) -> Stopped<'_> {
        kill_process(self.mount.pid(), Signal::STOP).unwrap();
        Stopped(self)
    }
}

/// The layer does not answer as long as this lives.
struct Stopped<'a>(&'a SlowLayer);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        kill_process(self.0.mount.pid(), Signal::CONT).unwrap();
    }
}

/// Does `what` in another thread, and panics where that takes long.
fn promptly(what: &str, act: impl FnOnce() + Send + 'static) {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        act();
        done.send(()).ok();
    });
    assert!(ended.recv_timeout(PROMPT).is_ok(), "{what} waits for the layer");
}

/// What needs the upper or the other layer only.
fn other_work(root: &Path, round: usize) {
    let own = root.join("own");
    let at = |name: &str| own.join(format!("{name}{round}"));
    fsx::write(at("file"), "own");
    assert_eq!(fsx::read(at("file")), b"own");
    fsx::mkdir(at("dir"));
    std::os::unix::fs::symlink("target", at("link")).unwrap();
    std::fs::rename(at("file"), at("moved")).unwrap();
    std::fs::hard_link(at("moved"), at("second")).unwrap();
    assert!(std::fs::read_dir(&own).unwrap().count() >= 4);
    std::fs::remove_file(at("second")).unwrap();
    std::fs::remove_dir(at("dir")).unwrap();
    let fast = root.join("fast");
    assert_eq!(fsx::read(fast.join(format!("file{round}"))), b"fast");
    std::fs::remove_file(fast.join(format!("file{round}"))).unwrap();
    let file = fsx::open_rw(at("moved"));
    file.sync_all().unwrap();
    rustix::fs::syncfs(&file).unwrap();
    rustix::fs::statvfs(root).unwrap();
}

/// Look-ups of names that the kernel does not know; the median of their times.
fn median_lookup(names: &mut impl Iterator<Item = PathBuf>) -> Duration {
    let mut times: Vec<Duration> = names
        .take(PROBES)
        .map(|name| {
            let begin = Instant::now();
            name.metadata().unwrap();
            begin.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// Does `work` while many threads try in vain to make files.
fn with_creators<T>(root: &Path, work: impl FnOnce() -> T) -> T {
    let (done, tries) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for creator in 0..CREATORS {
            let (done, tries) = (&done, &tries);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let made = std::fs::File::create(root.join(format!("more{creator}")));
                    assert!(made.is_err(), "there was room");
                    tries.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _end = SetOnDrop(&done);
        tool::eventually("all at work", LIMIT, || tries.load(Ordering::Relaxed) > CREATORS);
        work()
    })
}

mount_tests! {
    fn a_layer_that_hangs_holds_up_only_its_callers(scratch) {
        overcoat_only!();
        for transport in transports() {
            let layer = SlowLayer::new(scratch);
            let fast = scratch.dir(&format!("fast-{transport}"));
            fsx::mkdir(fast.join("fast"));
            (0..3).for_each(|n| fsx::write(fast.join(format!("fast/file{n}")), "fast"));
            let upper = scratch.dir(&format!("upper-{transport}"));
            let mut spec = Spec::of(scratch)
                .lowers(&[fast, layer.mount.root().to_owned()])
                .option(&format!("transport={transport}"));
            spec.upper = Some(upper);
            let mount = spec.mount();
            let root = mount.root().to_owned();
            fsx::mkdir(root.join("own"));
            let slow = root.join("d");
            for name in ["own", "fast", "d", "both"] {
                root.join(name).metadata().unwrap();
            }
            (0..HANGING).for_each(|n| _ = slow.join(format!("read{n}")).metadata().unwrap());
            // The kernel holds directories locked in which it looks names up: there must be none that others need.
            other_work(&root, 0);
            let stopped = layer.stop();
            let read = |number| Caller::start("cat", &[&slow.join(format!("read{number}"))]);
            let look = |number| Caller::start("stat", &[&slow.join(format!("look{number}"))]);
            let mut callers: Vec<Caller> = (0..HANGING / 2).flat_map(|n| [read(n), look(n)]).collect();
            callers.push(Caller::start("ls", &[&root.join("both")]));
            callers.push(Caller::start("chmod", &[Path::new("600"), &slow.join("chmod")]));
            callers.push(Caller::start("rm", &[Path::new("-f"), &slow.join("removed")]));
            tool::eventually("the callers wait", LIMIT, || layer.waiting() >= HANGING);
            for round in 1..3 {
                let root = root.clone();
                promptly(transport, move || other_work(&root, round));
            }
            assert!(callers.iter_mut().all(Caller::is_waiting), "{transport}: the layer answers");
            drop(stopped);
            callers.into_iter().for_each(Caller::ends_well);
            assert!(!fsx::exists(slow.join("removed")));
            mount.unmount();
        }
    }

    fn creators_that_find_no_room_hold_up_nobody(scratch) {
        overcoat_only!();
        fsx::mkdir(scratch.lower().join("names"));
        for number in 0..4 * PROBES {
            fsx::write(scratch.lower().join(format!("names/{number}")), "");
        }
        for transport in transports() {
            let mut spec = Spec::of(scratch).option("nr_inodes=40");
            spec.upper = Some(scratch.dir(&format!("upper-{transport}")));
            let mount = spec.option(&format!("transport={transport}")).mount();
            let root = mount.root();
            let made = (0..).find(|number| {
                let made = std::fs::File::create(root.join(format!("made{number}")));
                made.is_err_and(|error| error.raw_os_error() == Some(libc::ENOSPC))
            });
            assert!(made.is_some_and(|made| made > 30));
            let mut names = (0..).map(|number| root.join(format!("names/{number}")));
            let full = with_creators(root, || median_lookup(&mut names));
            let open = fsx::open_rw(root.join("made0"));
            std::fs::remove_file(root.join("made0")).unwrap();
            let unlinked = with_creators(root, || median_lookup(&mut names));
            let limit = 4 * full + Duration::from_millis(2);
            assert!(unlinked < limit, "{transport}: {full:?}, beside an unlinked file {unlinked:?}");
            drop(open);
            tool::eventually("room", LIMIT, || std::fs::File::create(root.join("new")).is_ok());
            mount.unmount();
        }
    }
}
