//! FUSE over io_uring: requests of every size, every way a mount ends, and doing without.
//!
//! These need `/sys/module/fuse/parameters/enable_uring` to be on.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use overcoat_tests::mount::is_mounted;
use overcoat_tests::rng::bytes;
use overcoat_tests::{Mount, Scratch, SetOnDrop, Spec, fsx, mount_tests, overcoat_only, tool};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Pid;

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

const LIMIT: Duration = Duration::from_secs(20);

/// Sizes around those at which something else happens.
const SIZES: [usize; 9] =
    [1, 4095, 4096, 4097, 65_536, 1 << 17, 1 << 20, (1 << 20) + 1, 5 * (1 << 20) + 3];

fn uring_is_on() -> bool {
    let on = std::fs::read_to_string(PARAMETER).is_ok_and(|value| value.trim() == "Y");
    if !on {
        eprintln!("skipped: {PARAMETER} is off");
    }
    on
}

macro_rules! uring_only {
    () => {
        overcoat_only!();
        if !uring_is_on() {
            return;
        }
    };
}

fn spec(scratch: &Scratch) -> Spec {
    Spec::of(scratch).option("transport=uring")
}

/// The names of the daemon's threads.
fn threads(mount: &Mount) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", mount.pid().as_raw_pid())).unwrap();
    tasks
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap())
        .map(|name| name.trim().to_owned())
        .collect()
}

/// Anonymous memory that the daemon has in use, in bytes.
fn anonymous(mount: &Mount) -> u64 {
    let status = format!("/proc/{}/status", mount.pid().as_raw_pid());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// The file by which the connection of what is mounted at `root` is aborted.
fn abort_file(root: &Path) -> PathBuf {
    let minor = rustix::fs::minor(std::fs::metadata(root).unwrap().dev());
    PathBuf::from(format!("/sys/fs/fuse/connections/{minor}/abort"))
}

/// Changes files below `directory` until an operation fails, and returns how.
fn work_until_failure(directory: &Path, done: &AtomicU64) -> Errno {
    let round = |number: u64| -> Result<(), std::io::Error> {
        let file = directory.join(format!("f{}", number % 7));
        std::fs::write(&file, vec![number as u8; (number % 5 * 50_000) as usize])?;
        std::fs::read(&file)?;
        std::fs::rename(&file, directory.join("renamed"))?;
        done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    for number in 0.. {
        if let Err(error) = round(number) {
            return Errno::from_io_error(&error).unwrap();
        }
    }
    unreachable!()
}

/// Runs a few workers in the mount, calls `end` when all are at work, and returns how they failed.
fn ended_at_work(root: &Path, end: impl FnOnce()) -> Vec<Errno> {
    let done: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        let workers: Vec<_> = done
            .iter()
            .enumerate()
            .map(|(number, done)| {
                let directory = root.join(format!("d{number}"));
                fsx::mkdir(&directory);
                scope.spawn(move || work_until_failure(&directory, done))
            })
            .collect();
        tool::eventually("all at work", LIMIT, || {
            done.iter().all(|done| done.load(Ordering::Relaxed) > 10)
        });
        end();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    })
}

/// Mounts by way of the program `wrapper`: what was printed, and logged.
fn mount_in(scratch: &Scratch, wrapper: &[&str], transport: &str) -> (tool::Outcome, String) {
    let log = scratch.path(&format!("log.{transport}"));
    let mut arguments = Spec::of(scratch).option(&format!("transport={transport}")).arguments();
    arguments.insert(1, "--log".into());
    arguments.insert(2, log.clone().into());
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(tool::overcoat()).args(arguments);
    let outcome = tool::run_limited(&mut command, LIMIT);
    (outcome, std::fs::read_to_string(log).unwrap_or_default())
}

/// Runs its arguments with io_uring_setup answering EPERM, as containers have it.
const FORBID: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
code = b"".join(struct.pack("=HBBI", *i) for i in [
    (0x20, 0, 0, 0), (0x15, 0, 1, 425), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)])
code = ctypes.create_string_buffer(code)
program = struct.pack("=HxxxxxxQ", 4, ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;

/// The thread of the daemon with this name.
fn thread(daemon: Pid, name: &str) -> u32 {
    let tasks = format!("/proc/{}/task", daemon.as_raw_pid());
    let has_name = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).unwrap().trim() == name
    };
    let found = std::fs::read_dir(tasks).unwrap().map(Result::unwrap).find(has_name).unwrap();
    found.file_name().into_string().unwrap().parse().unwrap()
}

/// Fails all further calls of io_uring_enter by `thread`, when this returns.
fn fail_ring(thread: u32) -> std::process::Child {
    let inject = "--inject=io_uring_enter:error=EBADF";
    let child = Command::new("strace")
        .args(["-o", "/dev/null", "--trace=io_uring_enter", inject, "-p", &thread.to_string()])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    tool::eventually("traced", LIMIT, || {
        let status = std::fs::read_to_string(format!("/proc/{thread}/status"));
        // The thread ends as soon as its call is made again.
        status.is_err() || !status.unwrap().contains("TracerPid:\t0\n")
    });
    child
}

/// Has a queue of a daemon fail while programs work in its mount.
fn assert_fails_in_order(daemon: Pid, root: &Path, log: &Path) {
    let mut strace = None;
    let failures = ended_at_work(root, || strace = Some(fail_ring(thread(daemon, "ring-0"))));
    for failure in failures {
        // What was on its way is canceled with the ring.
        let expected = [Errno::CONNABORTED, Errno::NOTCONN, Errno::CANCELED, Errno::NOENT];
        assert!(expected.contains(&failure), "{failure:?}");
    }
    strace.unwrap().wait().unwrap();
    let said = || std::fs::read_to_string(log).unwrap();
    tool::eventually("ended in order", LIMIT, || said().contains("served lookup"));
    let said = said();
    assert!(said.contains("a worker failed"), "{said}");
    assert!(!said.contains("cannot be aborted"), "{said}");
}

mount_tests! {
    fn a_failing_queue_ends_its_own_connection(scratch) {
        uring_only!();
        if tool::find("strace").is_none() {
            eprintln!("skipped: no strace");
            return;
        }
        let log = scratch.path("log");
        let mut mount = spec(scratch).log(log.clone()).mount();
        fsx::write(mount.path("before"), "kept");
        assert_fails_in_order(mount.pid(), mount.root(), &log);
        mount.wait_for_daemon();
        mount.forget();
        assert!(!is_mounted(mount.root()));
        let mount = spec(scratch).mount();
        assert_eq!(fsx::read(mount.path("before")), b"kept");
    }

    fn a_failing_queue_ends_its_connection_without_fusectl(scratch) {
        uring_only!();
        if tool::find("strace").is_none() {
            eprintln!("skipped: no strace");
            return;
        }
        // The mount is in this namespace only.
        let script = "umount /sys/fs/fuse/connections; exec \"$@\"";
        let wrapper = ["unshare", "-m", "--propagation", "slave", "sh", "-c", script, "sh"];
        let (outcome, _) = mount_in(scratch, &wrapper, "uring");
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let point = scratch.path("mnt");
        let pids = tool::processes(tool::overcoat(), &point);
        let [daemon] = pids.as_slice() else { panic!("not one daemon: {pids:?}") };
        let root = PathBuf::from(format!("/proc/{}/root{}", daemon.as_raw_pid(), point.display()));
        assert_fails_in_order(*daemon, &root, &scratch.path("log.uring"));
        tool::eventually("ended", LIMIT, || tool::processes(tool::overcoat(), &point).is_empty());
    }

    fn a_queue_for_each_cpu(scratch) {
        uring_only!();
        let mount = spec(scratch).mount();
        let cpus = std::fs::read_dir("/sys/devices/system/cpu").unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
                name.strip_prefix("cpu").is_some_and(|rest| rest.parse::<u32>().is_ok())
            })
            .count();
        // A thread gives itself its name after its start.
        tool::eventually("a thread for each queue and one reader", LIMIT, || {
            let names = threads(&mount);
            let count = |prefix| names.iter().filter(|name| name.starts_with(prefix)).count();
            (count("ring-"), count("fuse-")) == (cpus, 1)
        });
    }

    fn data_of_every_size(scratch) {
        uring_only!();
        for (at, size) in SIZES.into_iter().enumerate() {
            fsx::write(scratch.lower().join(format!("lower{at}")), bytes(at as u64, size));
        }
        for writeback in ["writeback=on", "writeback=off"] {
            let spec = spec(scratch).option("passthrough=off").option(writeback);
            let mount = spec.mount();
            for (at, size) in SIZES.into_iter().enumerate() {
                let path = mount.path(format!("upper{at}"));
                fsx::write(&path, bytes(100 + at as u64, size));
                let file = fsx::open_rw(&path);
                fsx::write_at(&file, size as u64 + 10, b"behind a hole");
                file.sync_all().unwrap();
            }
            mount.unmount();
            let mount = spec.mount();
            for (at, size) in SIZES.into_iter().enumerate() {
                assert!(fsx::read(mount.path(format!("lower{at}"))) == bytes(at as u64, size));
                let mut expected = bytes(100 + at as u64, size);
                expected.extend([0; 10]);
                expected.extend(b"behind a hole");
                assert!(fsx::read(mount.path(format!("upper{at}"))) == expected, "{size}, {writeback}");
            }
        }
    }

    fn whole_requests_without_the_page_cache(scratch) {
        uring_only!();
        let mount = spec(scratch).mount();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT;
        let file = rustix::fs::open(mount.path("f"), flags, 0o644.into()).unwrap();
        let len = 4 << 20;
        let mut buffer = memmap2::MmapMut::map_anon(len).unwrap();
        buffer.copy_from_slice(&bytes(1, len));
        assert_eq!(rustix::io::pwrite(&file, &buffer, 0).unwrap(), len);
        buffer.fill(0);
        assert_eq!(rustix::io::pread(&file, &mut buffer[..], 0).unwrap(), len);
        assert!(buffer[..] == bytes(1, len)[..]);
    }

    fn long_names_targets_and_attributes(scratch) {
        uring_only!();
        let mount = spec(scratch).mount();
        let name = "n".repeat(255);
        let target = "t/".repeat(2047);
        std::os::unix::fs::symlink(&target, mount.path(&name)).unwrap();
        fsx::write(mount.path("f"), "");
        for size in [0, 1, 255, 4095, 4096, 4097, 65_536] {
            let key = format!("user.{size}");
            fsx::set_xattr(mount.path("f"), &key, &bytes(size as u64, size)).unwrap();
            assert!(fsx::get_xattr(mount.path("f"), &key).unwrap() == bytes(size as u64, size));
        }
        mount.unmount();
        let mount = spec(scratch).mount();
        assert_eq!(std::fs::read_link(mount.path(&name)).unwrap(), Path::new(&target));
        assert_eq!(fsx::list_xattrs(mount.path("f")).unwrap().len(), 7);
        assert!(fsx::get_xattr(mount.path("f"), "user.65536").unwrap() == bytes(65_536, 65_536));
    }

    fn ten_thousand_entries(scratch) {
        uring_only!();
        let mount = spec(scratch).mount();
        fsx::mkdir(mount.path("d"));
        let mut expected: Vec<String> = (0..10_000).map(|n| format!("entry-{n:05}")).collect();
        expected.iter().for_each(|name| fsx::write(mount.path("d").join(name), ""));
        mount.unmount();
        let mount = spec(scratch).mount();
        let mut names = fsx::names(mount.path("d"));
        names.sort();
        expected.sort();
        assert_eq!(names, expected);
        std::fs::remove_dir_all(mount.path("d")).unwrap();
        assert!(fsx::names(mount.root()).is_empty());
    }

    fn many_at_once_with_syncs_between(scratch) {
        uring_only!();
        let mount = spec(scratch).mount();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = SetOnDrop(&stop);
            for number in 0..2 {
                let (mount, stop) = (&mount, &stop);
                scope.spawn(move || {
                    let file = std::fs::File::create(mount.path(format!("synced{number}"))).unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        fsx::write_at(&file, 0, &[number; 300_000]);
                        file.sync_all().unwrap();
                    }
                });
            }
            let workers: Vec<_> = (0..8_u64).map(|number| {
                let mount = &mount;
                scope.spawn(move || {
                    for round in 0..50 {
                        let path = mount.path(format!("w{number}-{round}"));
                        fsx::write(&path, bytes(number * 1000 + round, 10_000));
                        fsx::chmod(&path, 0o600);
                        std::fs::rename(&path, mount.path(format!("x{number}-{round}"))).unwrap();
                    }
                })
            }).collect();
            workers.into_iter().for_each(|worker| worker.join().unwrap());
        });
        for number in 0..8_u64 {
            for round in 0..50 {
                let read = fsx::read(mount.path(format!("x{number}-{round}")));
                assert!(read == bytes(number * 1000 + round, 10_000));
            }
        }
    }

    fn idle_payloads_are_given_back(scratch) {
        uring_only!();
        let mount = spec(scratch).option("writeback=off").mount();
        fsx::write(mount.path("f"), "");
        let before = anonymous(&mount);
        let file = fsx::open_rw(mount.path("f"));
        (0..8).for_each(|at| fsx::write_at(&file, at << 20, &[1; 1 << 20]));
        assert!(anonymous(&mount) >= before + (1 << 20), "nothing to give back");
        tool::eventually("payloads given back", LIMIT, || {
            anonymous(&mount) < before + (512 << 10)
        });
        assert!(fsx::read(mount.path("f")).iter().all(|&byte| byte == 1));
    }

    fn ends_with_an_unmount(scratch) {
        uring_only!();
        for _ in 0..5 {
            let mount = spec(scratch).mount();
            fsx::write(mount.path("f"), "x");
            mount.unmount();
        }
        assert_eq!(fsx::read(spec(scratch).mount().path("f")), b"x");
    }

    fn ends_with_the_last_user_after_a_lazy_unmount(scratch) {
        uring_only!();
        let mut mount = spec(scratch).mount();
        let file = std::fs::File::create(mount.path("f")).unwrap();
        mount.detach();
        fsx::write_at(&file, 0, &[3; 2 << 20]);
        file.sync_all().unwrap();
        drop(file);
        mount.wait_for_daemon();
        assert!(fsx::read(spec(scratch).mount().path("f")) == [3; 2 << 20]);
    }

    fn ends_with_a_signal(scratch) {
        uring_only!();
        let mount = spec(scratch).mount();
        fsx::write(mount.path("f"), "x");
        mount.terminate();
        assert_eq!(fsx::read(spec(scratch).mount().path("f")), b"x");
    }

    fn ends_when_aborted_at_work(scratch) {
        uring_only!();
        let mut mount = spec(scratch).mount();
        let abort = abort_file(mount.root());
        if !abort.exists() {
            eprintln!("skipped: no {}", abort.display());
            return;
        }
        let ends = ended_at_work(mount.root(), || std::fs::write(&abort, "1").unwrap());
        let known = [Errno::NOTCONN, Errno::CONNABORTED, Errno::CANCELED];
        assert!(ends.iter().all(|end| known.contains(end)), "{ends:?}");
        // The daemon takes the dead mount away.
        mount.wait_for_daemon();
        assert!(!is_mounted(mount.root()));
        mount.forget();
        spec(scratch).mount().unmount();
    }

    fn ends_when_killed_at_work(scratch) {
        uring_only!();
        let mut mount = spec(scratch).mount();
        let ends = ended_at_work(mount.root(), || mount.kill_daemon());
        let known = [Errno::NOTCONN, Errno::CONNABORTED, Errno::CANCELED];
        assert!(ends.iter().all(|end| known.contains(end)), "{ends:?}");
        mount.detach();
        let mount = spec(scratch).mount();
        assert_eq!(fsx::names(mount.root()).len(), 4);
    }

    fn does_without_where_the_parameter_is_off(scratch) {
        uring_only!();
        fsx::write(scratch.path("off"), "N\n");
        // A private view of the parameter; what is mounted in it is seen by the script only.
        let script = "mount --bind $1/off $2 && $3 mount --log $1/log -o $4,transport=auto $1/mnt && \
             echo data >$1/mnt/f && cat $1/mnt/f && umount $1/mnt && \
             ! $3 mount -o $4,transport=uring $1/mnt && ! mountpoint -q $1/mnt";
        let options = Spec::of(scratch).arguments()[2].clone();
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh"]).arg(scratch.root()).arg(PARAMETER);
        command.arg(tool::overcoat()).arg(options);
        let outcome = tool::run_limited(&mut command, LIMIT);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "data\n"), "{outcome:?}");
        let reason = format!("{PARAMETER} is off");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert!(outcome.stderr.contains(&reason), "{outcome:?}");
        let log = std::fs::read_to_string(scratch.path("log")).unwrap();
        let told = log.lines().filter(|line| line.contains("/dev/fuse") && line.contains(&reason));
        assert_eq!(told.count(), 1, "{log}");
    }

    fn does_without_where_io_uring_is_forbidden(scratch) {
        uring_only!();
        if !Path::new("/usr/bin/python3").exists() {
            eprintln!("skipped: no python3 to set a seccomp filter with");
            return;
        }
        let wrapper = ["/usr/bin/python3", "-c", FORBID];
        let (outcome, log) = mount_in(scratch, &wrapper, "auto");
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("forbidden")).collect();
        assert!(matches!(&lines[..], [line] if line.contains("/dev/fuse")), "{log}");
        fsx::write(scratch.path("mnt/f"), "over the device");
        assert_eq!(fsx::read(scratch.path("mnt/f")), b"over the device");
        overcoat_tests::mount::unmount_below(&scratch.path("mnt"));
        let daemons = || tool::processes(tool::overcoat(), scratch.root());
        tool::eventually("the daemon's end", LIMIT, || daemons().is_empty());

        let (outcome, _) = mount_in(scratch, &wrapper, "uring");
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert!(outcome.stderr.contains("forbidden"), "{outcome:?}");
        assert!(!is_mounted(&scratch.path("mnt")));
        tool::eventually("the daemon's end", LIMIT, || daemons().is_empty());
    }
}
