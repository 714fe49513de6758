//! Bugs seen in other union file systems, each as a case that must not happen here.

use overcoat_tests::rng::bytes;
use overcoat_tests::{Manifest, Spec, fsx, manifest, mount_tests, overcoat_only, store, tool};
use rustix::fs::{FallocateFlags, FileType, IFlags, OFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;

mount_tests! {
    fn a_write_after_a_read_only_open_stays_out_of_the_layer(scratch) {
        let lower = scratch.lower();
        fsx::write(lower.join("f"), bytes(1, 10_000));
        let before = manifest::of_layer(&lower);
        let mount = Spec::of(scratch).mount();
        let reader = fsx::open_ro(mount.path("f"));
        fsx::read_at(&reader, 0, 100);
        let writer = fsx::open_rw(mount.path("f"));
        fsx::write_at(&writer, 0, b"into the upper");
        writer.sync_all().unwrap();
        drop((reader, writer));
        mount.unmount();
        manifest::of_layer(&lower).assert_same(&before, "the layer");
    }

    fn a_leftover_of_a_crash_does_not_show_in_the_next_copy_up(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("a"), bytes(1, 50_000));
        fsx::write(scratch.lower().join("b"), bytes(2, 10_000));
        let mount = Spec::of(scratch).mount();
        fsx::write_at(&fsx::open_rw(mount.path("a")), 0, b"x");
        mount.kill();
        let mount = Spec::of(scratch).mount();
        fsx::write_at(&fsx::open_rw(mount.path("b")), 0, &bytes(2, 1));
        assert!(fsx::read(mount.path("b")) == bytes(2, 10_000));
    }

    fn removing_a_lower_file_copies_nothing(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("f"), bytes(1, 16 << 20));
        let mount = Spec::of(scratch).mount();
        std::fs::remove_file(mount.path("f")).unwrap();
        mount.unmount();
        assert!(store::used(&scratch.upper()) < 100 << 10, "{}", store::used(&scratch.upper()));
    }

    fn fchmod_on_an_unlinked_descriptor(scratch) {
        overcoat_only!(); // overlayfs with an index: EEXIST
        fsx::write(scratch.lower().join("f"), "x");
        let mount = Spec::of(scratch).mount();
        let file = fsx::open_ro(mount.path("f"));
        std::fs::remove_file(mount.path("f")).unwrap();
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        rustix::fs::futimens(&file, &rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 6 },
            last_modification: rustix::fs::Timespec { tv_sec: 7, tv_nsec: 8 },
        }).unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        assert_eq!((stat.st_mode & 0o777, stat.st_mtime), (0o600, 7));
    }

    fn an_unlinked_fifo_keeps_no_name(scratch) {
        overcoat_only!(); // overlayfs gives it one
        fsx::mknod(scratch.lower().join("p"), FileType::Fifo, 0o644, (0, 0)).unwrap();
        let mount = Spec::of(scratch).mount();
        let fifo = fsx::open(mount.path("p"), OFlags::PATH).unwrap();
        std::fs::remove_file(mount.path("p")).unwrap();
        assert_eq!(rustix::fs::fstat(&fifo).unwrap().st_nlink, 0);
        assert_eq!(fsx::link_tmpfile(&fifo, mount.path("q")), Err(Errno::NOENT));
        assert!(!fsx::exists(mount.path("q")));
    }

    fn flags_can_be_asked_for(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("f"), "x");
        let mount = Spec::of(scratch).mount();
        for path in [mount.path("f"), mount.root().to_owned()] {
            let file = fsx::open_ro(path);
            assert_eq!(rustix::fs::ioctl_getflags(&file), Ok(IFlags::empty()));
            let set = rustix::fs::ioctl_setflags(&file, IFlags::IMMUTABLE);
            assert!(matches!(set, Err(Errno::NOTTY | Errno::OPNOTSUPP)), "{set:?}");
        }
    }

    fn a_directory_made_again_stays_empty_over_remounts(scratch) {
        fsx::mkdir(scratch.lower().join("d"));
        fsx::write(scratch.lower().join("d/p"), "lower");
        fsx::write(scratch.lower().join("d/q"), "lower");
        let mount = Spec::of(scratch).mount();
        std::fs::remove_dir_all(mount.path("d")).unwrap();
        std::fs::create_dir(mount.path("d")).unwrap();
        fsx::write(mount.path("d/q"), "q");
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::names(mount.path("d")), ["q"], "a deleted entry came back");
    }

    fn exchange_and_tmpfile_and_holes_exist_at_all(scratch) {
        fsx::write(scratch.lower().join("a"), "a");
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("b"), "b");
        fsx::rename_with(mount.path("a"), mount.path("b"), RenameFlags::EXCHANGE).unwrap();
        assert_eq!((fsx::read(mount.path("a")), fsx::read(mount.path("b"))), (b"b".to_vec(), b"a".to_vec()));
        let file = fsx::tmpfile(mount.root(), OFlags::empty()).unwrap();
        fsx::write_at(&file, 0, &[1; 12_288]);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, hole, 4096, 4096).unwrap();
        assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(0)), Ok(4096));
        assert_eq!(fsx::names(mount.root()), ["a", "b"], "the unnamed file has no name");
    }

    fn memory_does_not_grow_with_what_is_forgotten(scratch) {
        overcoat_only!();
        let lower = scratch.lower();
        for directory in 0..50 {
            fsx::mkdir(lower.join(directory.to_string()));
            for file in 0..200 {
                fsx::write(lower.join(format!("{directory}/{file}")), "");
            }
        }
        let mount = Spec::of(scratch).mount();
        let look = || {
            tool::run("find", &[mount.root().as_os_str(), "-ls".as_ref()]);
            std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        };
        let resident = || resident_kib(mount.pid());
        look();
        look();
        let first = resident();
        for _ in 0..10 {
            look();
        }
        let last = resident();
        assert!(last < first + 4096, "{first} → {last} KiB");
    }

    fn a_failed_create_leaves_no_trace(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).option("nr_inodes=10").mount();
        let mut made = 0;
        while std::fs::create_dir(mount.path(made.to_string())).is_ok() {
            made += 1;
        }
        let before = Manifest::of(mount.root());
        for _ in 0..10 {
            assert!(std::fs::create_dir(mount.path("more")).is_err());
            assert!(std::os::unix::fs::symlink("x", mount.path("more")).is_err());
        }
        Manifest::of(mount.root()).assert_same(&before, "after failures");
        mount.unmount();
        store::assert_clean(&scratch.upper());
    }

    fn the_free_space_shown_is_no_fantasy(scratch) {
        let mount = Spec::of(scratch).mount();
        let view = rustix::fs::statvfs(mount.root()).unwrap();
        assert!(view.f_blocks.saturating_mul(view.f_frsize) < 1 << 60, "8 EiB are not there");
    }

    fn stop_and_start_keep_all_writes(scratch) {
        let spec = Spec::of(scratch);
        let mount = spec.mount();
        fsx::write(mount.path("state"), "kept");
        mount.unmount();
        assert_eq!(fsx::read(spec.mount().path("state")), b"kept");
    }
}

fn resident_kib(pid: rustix::process::Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
