//! The filestore tells the truth in `st_blocks`, and soon.

use std::time::Duration;

use overcoat_tests::rng::{Rng, bytes};
use overcoat_tests::{Mount, Scratch, Spec, fsx, mount_tests, overcoat_only, store, tool};

/// Within about a second; on a loaded machine the host's flush alone takes longer.
const SOON: Duration = Duration::from_secs(5);

const MIB: u64 = 1 << 20;

fn sync(mount: &Mount) {
    rustix::fs::syncfs(fsx::open_dir(mount.root())).unwrap();
}

/// Asserts that what the filestore takes comes within 1 % + 1 MiB of `live`.
fn assert_honest(scratch: &Scratch, live: u64, what: &str) {
    let allowed = live / 100 + MIB;
    let upper = scratch.upper();
    let text = format!("{what}: st_blocks within 1 % + 1 MiB of {live}");
    tool::eventually(&text, SOON, || {
        let used = store::used(&upper);
        if used.abs_diff(live) > allowed {
            eprintln!("{what}: {used} used, {live} live");
        }
        used.abs_diff(live) <= allowed
    });
}

mount_tests! {
    fn written_data_count_once(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        for number in 0..64 {
            fsx::write(mount.path(number.to_string()), bytes(number, 1 << 20));
        }
        sync(&mount);
        assert_honest(scratch, 64 * MIB, "64 files of 1 MiB");
        for number in 0..64 {
            fsx::write(mount.path(number.to_string()), bytes(number + 100, 1 << 20));
        }
        sync(&mount);
        assert_honest(scratch, 64 * MIB, "written again");
    }

    fn deleting_gives_back(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        for number in 0..2000 {
            fsx::write(mount.path(number.to_string()), bytes(number, 40_960));
        }
        sync(&mount);
        assert_honest(scratch, 2000 * 40_960, "2000 files");
        for number in (0..2000).filter(|number| number % 10 != 0) {
            std::fs::remove_file(mount.path(number.to_string())).unwrap();
        }
        assert_honest(scratch, 200 * 40_960, "nine in ten removed");
        mount.unmount();
        assert_honest(scratch, 200 * 40_960, "after an unmount");
        let mount = Spec::of(scratch).mount();
        for number in (0..2000).step_by(10) {
            assert!(fsx::read(mount.path(number.to_string())) == bytes(number, 40_960));
            std::fs::remove_file(mount.path(number.to_string())).unwrap();
        }
        assert_honest(scratch, 0, "all removed");
        let upper = scratch.upper();
        tool::eventually("a short file", SOON, || store::length(&upper) < 2 * MIB);
        mount.unmount();
        store::assert_clean(&scratch.upper());
    }

    fn truncate_and_punch_give_back(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("f"), bytes(1, 32 << 20));
        let file = fsx::open_rw(mount.path("f"));
        file.sync_all().unwrap();
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        fsx::fallocate(&file, punch, 4 * MIB, 8 * MIB).unwrap();
        assert_honest(scratch, 24 * MIB, "8 MiB punched");
        file.set_len(2 * MIB).unwrap();
        assert_honest(scratch, 2 * MIB, "truncated to 2 MiB");
    }

    fn the_length_follows_the_last_block(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("early"), bytes(1, 1 << 20));
        fsx::write(mount.path("late"), bytes(2, 64 << 20));
        sync(&mount);
        assert!(store::length(&scratch.upper()) >= 65 * MIB);
        std::fs::remove_file(mount.path("late")).unwrap();
        let upper = scratch.upper();
        tool::eventually("the file is cut after its last block", SOON, || {
            store::length(&upper) < 4 * MIB
        });
        // Low free space is preferred: a hole in front is filled before the file grows.
        for round in 0..50 {
            fsx::write(mount.path("x"), bytes(round, 4 << 20));
            sync(&mount);
            std::fs::remove_file(mount.path("x")).unwrap();
        }
        tool::eventually("the file stays short", SOON, || store::length(&upper) < 16 * MIB);
    }

    fn journals_do_not_grow_for_ever(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("f"), "x");
        for round in 0..100_000_i64 {
            fsx::set_times(mount.path("f"), (round, 0), (round, 1)).unwrap();
        }
        assert_honest(scratch, 0, "100,000 changes of one file");
        mount.unmount();
        store::assert_clean(&scratch.upper());
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::mtime(mount.path("f")), (99_999, 1));
    }

    fn random_sizes_after_heavy_churn(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        let mut rng = Rng::from_env("churn");
        let mut sizes = vec![0_u64; 300];
        for _ in 0..3000 {
            let number = usize::try_from(rng.below(300)).unwrap();
            let path = mount.path(number.to_string());
            let size = rng.below(40) * 4096;
            if size == 0 {
                if sizes[number] > 0 {
                    std::fs::remove_file(path).unwrap();
                }
            } else {
                fsx::write(path, bytes(rng.next(), usize::try_from(size).unwrap()));
            }
            sizes[number] = size;
        }
        sync(&mount);
        assert_honest(scratch, sizes.iter().sum(), "after churn");
        mount.unmount();
        assert_honest(scratch, sizes.iter().sum(), "after churn and an unmount");
        store::assert_clean(&scratch.upper());
    }

    fn other_mediums_leave_nothing_in_the_upperdir(scratch) {
        overcoat_only!();
        let elsewhere = scratch.dir("elsewhere");
        for medium in ["memory".to_owned(), format!("dir={}", elsewhere.display())] {
            let spec = Spec::of(scratch).option(&format!("medium={medium}"));
            let mount = spec.mount();
            fsx::write(mount.path("f"), bytes(1, 1 << 20));
            sync(&mount);
            std::fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
            assert!(fsx::read(mount.path("f")) == bytes(1, 1 << 20));
            assert!(fsx::names(scratch.upper()).is_empty(), "{medium}");
            assert!(fsx::names(&elsewhere).is_empty(), "{medium}: the file has no name");
            mount.unmount();
            let mount = spec.mount();
            assert!(fsx::names(mount.root()).is_empty(), "{medium} is gone with the mount");
        }
    }
}
