//! Directories of many entries. `OVERCOAT_TEST_BIG=1000000` makes them as big as promised.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use overcoat_tests::{SetOnDrop, Spec, fsx, mount_tests};
use rustix::fs::{OFlags, SeekFrom};

fn size() -> usize {
    std::env::var("OVERCOAT_TEST_BIG").map_or(100_000, |text| text.parse().unwrap())
}

/// Makes `count` empty files `prefix-N` by descriptor.
fn fill(directory: impl AsFd, prefix: &str, count: usize) {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    for number in 0..count {
        let name = format!("{prefix}-{number}");
        rustix::fs::openat(&directory, name, flags, rustix::fs::Mode::from_raw_mode(0o644))
            .unwrap();
    }
}

/// All names but `.` and `..`, in order.
fn names(directory: impl AsFd) -> Vec<CString> {
    let all = fsx::read_names(directory, usize::MAX);
    all.into_iter()
        .map(|(name, _)| name)
        .filter(|name| name.as_bytes().iter().any(|byte| *byte != b'.'))
        .collect()
}

mount_tests! {
    // xfstests' generic/736.
    fn renaming_entries_as_they_are_read_ends(scratch) {
        let mount = Spec::of(scratch).mount();
        fsx::mkdir(mount.path("d"));
        fill(fsx::open_dir(mount.path("d")), "f", 2000);
        let mut seen = 0;
        for entry in std::fs::read_dir(mount.path("d")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::rename(&path, mount.path("moved")).unwrap();
            std::fs::rename(mount.path("moved"), path.with_extension("again")).unwrap();
            seen += 1;
            assert!(seen <= 2000, "entries that were renamed come again");
        }
        assert_eq!(names(fsx::open_dir(mount.path("d"))).len(), 2000);
    }

    fn all_entries_of_lower_and_upper_once(scratch) {
        let half = size() / 2;
        fsx::mkdir(scratch.lower().join("d"));
        fill(fsx::open_dir(scratch.lower().join("d")), "lower", half);
        let mount = Spec::of(scratch).mount();
        fill(fsx::open_dir(mount.path("d")), "upper", half);
        let listed = names(fsx::open_dir(mount.path("d")));
        let distinct: HashSet<_> = listed.iter().collect();
        assert_eq!((listed.len(), distinct.len()), (2 * half, 2 * half));
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert_eq!(names(fsx::open_dir(mount.path("d"))).len(), 2 * half, "after a remount");
        std::fs::remove_dir_all(mount.path("d")).unwrap();
        assert!(!fsx::exists(mount.path("d")));
    }

    fn cursors_hold_under_concurrent_change(scratch) {
        let steady = size() / 10;
        fsx::mkdir(scratch.lower().join("d"));
        fill(fsx::open_dir(scratch.lower().join("d")), "lower", steady);
        let mount = Spec::of(scratch).mount();
        fill(fsx::open_dir(mount.path("d")), "upper", steady);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = SetOnDrop(&stop);
            scope.spawn(|| {
                let mut round = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    let path = mount.path(format!("d/passing-{}", round % 50));
                    fsx::write(&path, "");
                    if round % 3 == 0 {
                        let moved = mount.path("d/passing-moved");
                        std::fs::rename(&path, &moved).unwrap();
                        std::fs::remove_file(moved).unwrap();
                    } else {
                        std::fs::remove_file(path).unwrap();
                    }
                    round += 1;
                }
            });
            for _ in 0..5 {
                let listed = names(fsx::open_dir(mount.path("d")));
                let steady_ones: Vec<_> =
                    listed.iter().filter(|name| !name.as_bytes().starts_with(b"passing")).collect();
                let distinct: HashSet<_> = steady_ones.iter().collect();
                assert_eq!(distinct.len(), steady_ones.len(), "an entry twice");
                assert_eq!(distinct.len(), 2 * steady, "entries missed");
            }
        });
    }

    fn seekdir_comes_back_to_the_same_place(scratch) {
        fsx::mkdir(scratch.lower().join("d"));
        fill(fsx::open_dir(scratch.lower().join("d")), "lower", 1000);
        let mount = Spec::of(scratch).mount();
        fill(fsx::open_dir(mount.path("d")), "upper", 1000);
        let dir = fsx::open_dir(mount.path("d"));
        let all = fsx::read_names(&dir, usize::MAX);
        for place in [0, 1, 2, 500, 1001, 1500, 1999] {
            rustix::fs::seek(&dir, SeekFrom::Start(all[place].1)).unwrap();
            // What is made and removed meanwhile does not move the cursor.
            fsx::write(mount.path("d/new"), "");
            std::fs::remove_file(mount.path("d/new")).unwrap();
            let rest = fsx::read_names(&dir, usize::MAX);
            assert!(rest[..] == all[place + 1..], "from {place}: {} entries", rest.len());
        }
        rustix::fs::seek(&dir, SeekFrom::Start(0)).unwrap();
        assert_eq!(fsx::read_names(&dir, usize::MAX).len(), all.len());
    }

    fn removing_while_reading_reaches_all(scratch) {
        fsx::mkdir(scratch.lower().join("d"));
        fill(fsx::open_dir(scratch.lower().join("d")), "lower", 3000);
        let mount = Spec::of(scratch).mount();
        fill(fsx::open_dir(mount.path("d")), "upper", 3000);
        for entry in std::fs::read_dir(mount.path("d")).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        std::fs::remove_dir(mount.path("d")).unwrap();
    }

    fn an_open_directory_sees_new_entries_after_a_rewind(scratch) {
        let mount = Spec::of(scratch).mount();
        let dir = fsx::open_dir(mount.root());
        assert!(names(&dir).is_empty());
        fsx::write(mount.path("f"), "");
        rustix::fs::seek(&dir, SeekFrom::Start(0)).unwrap();
        assert_eq!(names(&dir), [c"f".to_owned()]);
    }
}
