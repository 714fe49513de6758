//! Timestamps.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use overcoat_tests::rng::Rng;
use overcoat_tests::{SetOnDrop, Spec, fsx, mount_tests, overcoat_only, tool};
use rustix::fs::{FallocateFlags, FileType};

const TIMES: [(i64, i64); 7] = [
    (0, 0),
    (-1, 1),
    (-1, 999_999_999),
    (-2_000_000_000, 123_456_789),
    (1 << 31, 1),
    (1 << 33, 987_654_321),
    (1_700_000_000, 1),
];

type Stamp = (i64, u32);

/// Changes times with the kernel's stamp (of regular files, with the writeback cache) and with the daemon's, in
/// random order, and tells each that bears an earlier time than one before it.
fn stamped_too_early(directory: &Path, rounds: u64, seed: u64) -> Vec<String> {
    let mut rng = Rng::new(seed);
    let (file, sub) = (directory.join("file"), directory.join("sub"));
    fsx::mkdir(&sub);
    fsx::write(&file, vec![b'x'; 8192]);
    let open = fsx::open_rw(&file);
    let mut latest = (0, 0);
    let mut too_early = Vec::new();
    for round in 0..rounds {
        let change = rng.below(CHANGES.len() as u64) as usize;
        let stamps =
            CHANGES[change](&Place { directory, sub: &sub, file: &file, open: &open, round });
        for (number, stamp) in stamps.iter().enumerate() {
            if *stamp < latest {
                too_early.push(format!(
                    "round {round}, change {change}, stamp {number}: {stamp:?} after {latest:?}"
                ));
            }
        }
        latest = stamps.into_iter().max().unwrap().max(latest);
    }
    too_early
}

struct Place<'a> {
    directory: &'a Path,
    sub: &'a Path,
    file: &'a Path,
    open: &'a std::fs::File,
    round: u64,
}

impl Place<'_> {
    /// The times of what is made, and that of its directory.
    fn made(&self, make: impl FnOnce(&Path)) -> Vec<Stamp> {
        let path = self.directory.join(format!("made{}", self.round));
        make(&path);
        let stat = fsx::statx(&path);
        let times = [stat.stx_btime, stat.stx_mtime, stat.stx_ctime].map(stamp);
        let mut all = vec![fsx::mtime(self.directory)];
        all.extend(times);
        // The next one shall find a directory that is no larger.
        match std::fs::symlink_metadata(&path).unwrap().is_dir() {
            true => std::fs::remove_dir(&path).unwrap(),
            false => std::fs::remove_file(&path).unwrap(),
        }
        all.push(fsx::mtime(self.directory));
        all
    }

    fn changed(&self) -> Vec<Stamp> {
        let stat = fsx::statx(self.file);
        vec![stamp(stat.stx_mtime), stamp(stat.stx_ctime)]
    }
}

fn stamp(time: rustix::fs::StatxTimestamp) -> Stamp {
    (time.tv_sec, time.tv_nsec)
}

/// UTIME_NOW and UTIME_OMIT of utimensat(2).
const NOW: (i64, i64) = (0, 0x3fff_ffff);
const OMIT: (i64, i64) = (0, 0x3fff_fffe);

const CHANGES: [fn(&Place<'_>) -> Vec<Stamp>; 15] = [
    |p| {
        fsx::write_at(p.open, p.round % 8192, b"y");
        p.changed()
    },
    |p| {
        fsx::write_at(&fsx::open_rw(p.file), 0, b"z");
        p.changed()
    },
    |p| {
        p.open.set_len(8192 + p.round % 2).unwrap();
        p.changed()
    },
    |p| {
        fsx::fallocate(p.open, FallocateFlags::ZERO_RANGE, 0, 4096).unwrap();
        p.changed()
    },
    |p| {
        fsx::set_times(p.file, OMIT, NOW).unwrap();
        p.changed()
    },
    |p| {
        fsx::set_times(p.file, NOW, OMIT).unwrap();
        let stat = fsx::statx(p.file);
        vec![stamp(stat.stx_atime), stamp(stat.stx_ctime)]
    },
    |p| {
        fsx::chmod(p.file, 0o600 + p.round as u32 % 2);
        vec![stamp(fsx::statx(p.file).stx_ctime)]
    },
    |p| {
        fsx::set_xattr(p.file, "user.round", &p.round.to_le_bytes()).unwrap();
        vec![stamp(fsx::statx(p.file).stx_ctime)]
    },
    |p| p.made(|path| fsx::mkdir(path)),
    |p| p.made(|path| std::os::unix::fs::symlink("x", path).unwrap()),
    |p| p.made(|path| fsx::mknod(path, FileType::Fifo, 0o600, (0, 0)).unwrap()),
    |p| p.made(|path| drop(std::fs::File::create(path).unwrap())),
    |p| p.made(|path| fsx::write(path, "x")),
    |p| {
        std::fs::rename(p.file, p.sub.join("file")).unwrap();
        let away = stamp(fsx::statx(p.sub.join("file")).stx_ctime);
        std::fs::rename(p.sub.join("file"), p.file).unwrap();
        vec![away, fsx::mtime(p.directory), fsx::mtime(p.sub), stamp(fsx::statx(p.file).stx_ctime)]
    },
    |p| {
        fsx::set_times(p.sub, NOW, NOW).unwrap();
        let stat = fsx::statx(p.sub);
        let times = [stat.stx_atime, stat.stx_mtime, stat.stx_ctime].map(stamp);
        fsx::chmod(p.sub, 0o700 + p.round as u32 % 2);
        [&times[..], &[stamp(fsx::statx(p.sub).stx_ctime)]].concat()
    },
];

/// How many changes each way of mounting is asked for; the whole is beyond 100,000 with OVERCOAT_TEST_ROUNDS=25000.
fn rounds() -> u64 {
    let asked = std::env::var("OVERCOAT_TEST_ROUNDS").ok();
    asked.map_or(2_500, |rounds| rounds.parse().unwrap())
}

/// Each kind of step makes what a later one depends on: a file, a directory, a file written in place.
const RULES: &str = "d2: f3
	[ -d d2 ] && touch d2 || mkdir d2
f3: p1
	printf x >f3
p1: d1
	rm -f p1 && mkfifo p1
d1: f1
	rm -rf d1 && mkdir d1 && : >d1/f && touch d1
f1: source
	cat source >f1
";

mount_tests! {
    fn to_the_nanosecond_before_1970_and_after_2038(scratch) {
        let lower = scratch.lower();
        fsx::write(lower.join("f"), "x");
        fsx::mkdir(lower.join("d"));
        std::os::unix::fs::symlink("f", lower.join("l")).unwrap();
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("upper"), "x");
        for name in ["f", "d", "l", "upper"] {
            for time in TIMES {
                let other = (time.0 + 1, 7);
                fsx::set_times(mount.path(name), other, time).unwrap();
                let stat = fsx::statx(mount.path(name));
                let got = |stamp: rustix::fs::StatxTimestamp| (stamp.tv_sec, i64::from(stamp.tv_nsec));
                assert_eq!(got(stat.stx_mtime), time, "{name} mtime");
                assert_eq!(got(stat.stx_atime), other, "{name} atime");
            }
        }
        for (number, time) in TIMES.into_iter().enumerate() {
            fsx::write(mount.path(format!("t{number}")), "x");
            fsx::set_times(mount.path(format!("t{number}")), time, time).unwrap();
        }
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        for (number, time) in TIMES.into_iter().enumerate() {
            let got = fsx::mtime(mount.path(format!("t{number}")));
            assert_eq!((got.0, i64::from(got.1)), time, "after a remount");
        }
    }

    fn times_of_a_lower_are_its_own(scratch) {
        let lower = scratch.lower();
        for (number, time) in TIMES.into_iter().enumerate() {
            fsx::write(lower.join(number.to_string()), "x");
            // The host's file system may not hold them all: compare with what it made of them.
            fsx::set_times(lower.join(number.to_string()), time, time).unwrap();
        }
        let mount = Spec::of(scratch).mount();
        for number in 0..TIMES.len() {
            let (below, above) = (lower.join(number.to_string()), mount.path(number.to_string()));
            assert_eq!(fsx::mtime(&below), fsx::mtime(&above));
            fsx::chmod(&above, 0o600);
            assert_eq!(fsx::mtime(&below), fsx::mtime(&above), "after a chmod");
        }
    }

    fn a_fresh_upper_shows_the_same_times_of_its_root_each_time(scratch) {
        let times = |root: &std::path::Path| {
            let stat = fsx::statx(root);
            [stat.stx_mtime, stat.stx_ctime].map(|time| (time.tv_sec, time.tv_nsec))
        };
        let mount = Spec::of(scratch).mount();
        let first = times(&mount.path("."));
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert_eq!(times(&mount.path(".")), first);
    }

    fn an_unlinked_lower_file_keeps_the_times_it_is_given(scratch) {
        let lower = scratch.lower();
        fsx::write(lower.join("f"), "x");
        let below = fsx::statx(lower.join("f"));
        let mount = Spec::of(scratch).mount();
        let file = std::fs::File::options().read(true).write(true).open(mount.path("f")).unwrap();
        std::fs::remove_file(mount.path("f")).unwrap();
        let times = |file: &std::fs::File| {
            let stat = rustix::fs::fstat(file).unwrap();
            ((stat.st_atime, stat.st_atime_nsec as u64), (stat.st_mtime, stat.st_mtime_nsec as u64))
        };
        let set = |atime: i64, mtime: i64| {
            let at = |tv_sec| rustix::fs::Timespec { tv_sec, tv_nsec: 5 };
            let times = rustix::fs::Timestamps { last_access: at(atime), last_modification: at(mtime) };
            rustix::fs::futimens(&file, &times).unwrap();
        };
        set(1000, 2000);
        assert_eq!(times(&file), ((1000, 5), (2000, 5)));
        // Once it is one of the upper, it still has them.
        rustix::fs::fchmod(&file, 0o640.into()).unwrap();
        assert_eq!(times(&file), ((1000, 5), (2000, 5)));
        set(3000, 4000);
        assert_eq!(times(&file), ((3000, 5), (4000, 5)));
        assert_eq!(rustix::fs::fstat(&file).unwrap().st_nlink, 0);
        drop(file);
        assert_eq!(fsx::statx(lower.join("f")).stx_mtime.tv_sec, below.stx_mtime.tv_sec);
    }

    fn changes_set_the_right_times(scratch) {
        let lower = scratch.lower();
        fsx::mkdir(lower.join("d"));
        fsx::write(lower.join("d/f"), "x");
        let old = (1_000_000_000, 5);
        fsx::set_times(lower.join("d/f"), old, old).unwrap();
        fsx::set_times(lower.join("d"), old, old).unwrap();
        let mount = Spec::of(scratch).mount();
        let before = fsx::statx(mount.path("d/f")).stx_ctime;

        fsx::chmod(mount.path("d/f"), 0o600);
        assert_eq!(fsx::mtime(mount.path("d/f")), (1_000_000_000, 5), "chmod leaves mtime");
        let after = fsx::statx(mount.path("d/f")).stx_ctime;
        assert!((after.tv_sec, after.tv_nsec) > (before.tv_sec, before.tv_nsec), "chmod sets ctime");
        assert_eq!(fsx::mtime(mount.path("d")), (1_000_000_000, 5), "chmod leaves the parent alone");

        std::fs::hard_link(mount.path("d/f"), mount.path("d/g")).unwrap();
        assert!(fsx::mtime(mount.path("d")).0 > 1_600_000_000, "link sets the parent's mtime");
        assert_eq!(fsx::mtime(mount.path("d/f")), (1_000_000_000, 5), "link leaves mtime");

        fsx::write_at(&fsx::open_rw(mount.path("d/f")), 0, b"y");
        assert!(fsx::mtime(mount.path("d/f")).0 > 1_600_000_000, "write sets mtime");

        for change in ["rename", "unlink", "truncate"] {
            fsx::set_times(mount.path("d"), old, old).unwrap();
            match change {
                "rename" => std::fs::rename(mount.path("d/g"), mount.path("d/h")).unwrap(),
                "unlink" => std::fs::remove_file(mount.path("d/h")).unwrap(),
                _ => {
                    fsx::set_times(mount.path("d/f"), old, old).unwrap();
                    fsx::open_rw(mount.path("d/f")).set_len(0).unwrap();
                    assert!(fsx::mtime(mount.path("d/f")).0 > 1_600_000_000, "truncate sets mtime");
                    continue;
                }
            }
            assert!(fsx::mtime(mount.path("d")).0 > 1_600_000_000, "{change} sets the parent's mtime");
        }
    }

    fn touch_with_now_and_omit(scratch) {
        fsx::write(scratch.lower().join("f"), "x");
        let mount = Spec::of(scratch).mount();
        let old = (1_000_000_000, 5);
        fsx::set_times(mount.path("f"), old, old).unwrap();
        // UTIME_OMIT, UTIME_NOW
        fsx::set_times(mount.path("f"), (0, 0x3fff_fffe), (0, 0x3fff_ffff)).unwrap();
        let stat = fsx::statx(mount.path("f"));
        assert_eq!((stat.stx_atime.tv_sec, stat.stx_atime.tv_nsec), (1_000_000_000, 5));
        assert!(stat.stx_mtime.tv_sec > 1_600_000_000);
        // A stranger may do neither, unless he may write: then now.
        let other = |times: ((i64, i64), (i64, i64))| {
            fsx::as_user(fsx::NOBODY, fsx::NOBODY, || fsx::set_times(mount.path("f"), times.0, times.1))
        };
        let now = ((0, 0x3fff_ffff), (0, 0x3fff_ffff));
        assert_eq!(other((old, old)), Err(rustix::io::Errno::PERM));
        assert_eq!(other(now), Err(rustix::io::Errno::ACCESS));
        fsx::chmod(mount.path("f"), 0o666);
        assert_eq!(other(now), Ok(()));
    }

    fn a_store_to_a_mapping_moves_mtime(scratch) {
        for writeback in ["on", "off"] {
            let lower = scratch.lower().join(writeback);
            fsx::write(&lower, vec![b'x'; 10_000]);
            fsx::set_times(&lower, (1, 1), (2, 2)).unwrap();
        }
        for writeback in ["on", "off"] {
            let option = format!("writeback={writeback},passthrough=off");
            let mount = Spec::of(scratch).option(&option).mount();
            let path = mount.path(writeback);
            let file = fsx::open_rw(&path);
            // SAFETY: the file keeps its length while it is mapped.
            let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
            map[5000] = b'y';
            map.flush().unwrap();
            drop(map);
            let moved = fsx::mtime(&path);
            assert!(moved.0 > 2, "writeback={writeback}");
            drop(file);
            mount.unmount();
            let mount = Spec::of(scratch).option(&option).mount();
            assert_eq!(fsx::mtime(mount.path(writeback)), moved, "after a remount");
        }
    }

    fn mtime_of_a_closed_file_stays(scratch) {
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("f"), vec![1; 100_000]);
        let first = fsx::mtime(mount.path("f"));
        assert_eq!(fsx::read(mount.path("f")).len(), 100_000);
        assert_eq!(fsx::mtime(mount.path("f")), first);
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::mtime(mount.path("f")), first, "after a remount");
    }

    fn what_happens_later_never_bears_an_earlier_time(scratch) {
        overcoat_only!();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _done = SetOnDrop(&done);
            // As any program of the host that changes a file and looks at it. The times it gets are exact, and
            // the kernel stamps nothing with an earlier one from then on.
            scope.spawn(|| {
                let file = std::fs::File::create(scratch.path("host")).unwrap();
                while !done.load(Ordering::Relaxed) {
                    fsx::write_at(&file, 0, b"x");
                    file.metadata().unwrap();
                }
            });
            for options in [
                "transport=auto,writeback=on",
                "transport=auto,writeback=off",
                "transport=dev,writeback=on",
                "transport=dev,writeback=off",
            ] {
                let mount = Spec::of(scratch).option(options).mount();
                let directory = mount.path(options);
                fsx::mkdir(&directory);
                let wrong = stamped_too_early(&directory, rounds(), 1);
                assert!(wrong.is_empty(), "{options}: {} times, first {}", wrong.len(), wrong[0]);
            }
        });
    }

    fn make_has_nothing_to_do_after_make(scratch) {
        overcoat_only!();
        if !overcoat_tests::have(&["make"]) {
            return;
        }
        for options in ["writeback=on", "writeback=off"] {
            let mount = Spec::of(scratch).option(options).mount();
            let work = mount.path(options);
            fsx::mkdir(&work);
            fsx::write(work.join("Makefile"), RULES);
            let make = |option: &str| {
                let mut command = std::process::Command::new("make");
                tool::output(command.arg(option).arg("-C").arg(&work))
            };
            for round in 0..rounds() / 50 {
                fsx::write(work.join("source"), round.to_string());
                let made = make("-s");
                assert!(made.status.success(), "{made:?}");
                let again = make("-q");
                assert!(again.status.success(), "{options}, round {round}: {:?}", make("-n"));
            }
        }
    }
}
