//! stat, statx and statfs.

use std::collections::HashSet;

use overcoat_tests::{Manifest, Spec, fsx, mount_tests, overcoat_only};
use rustix::fs::StatxFlags;

mount_tests! {
    fn birth_times(scratch) {
        fsx::write(scratch.lower().join("f"), "x");
        let mount = Spec::of(scratch).mount();
        let start = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        fsx::write(mount.path("g"), "x");
        for name in ["f", "g"] {
            let stat = fsx::statx(mount.path(name));
            assert!(stat.stx_mask & StatxFlags::BTIME.bits() != 0, "{name} has no birth time");
            let born = stat.stx_btime.tv_sec as u64;
            assert!(born.abs_diff(start) < 60, "{name}: {born}, now {start}");
        }
        let born = fsx::statx(mount.path("g")).stx_btime;
        fsx::set_times(mount.path("g"), (1, 1), (1, 1)).unwrap();
        fsx::write(mount.path("g"), "y");
        let now = fsx::statx(mount.path("g")).stx_btime;
        assert_eq!((born.tv_sec, born.tv_nsec), (now.tv_sec, now.tv_nsec));
    }

    fn one_device_and_distinct_inodes(scratch) {
        let (top, bottom) = (scratch.dir("top"), scratch.dir("bottom"));
        for layer in [&top, &bottom] {
            for number in 0..20 {
                let name = format!("{}-{number}", layer.file_name().unwrap().to_str().unwrap());
                fsx::write(layer.join(name), "x");
            }
            fsx::mkdir(layer.join("both"));
        }
        let mount = Spec::of(scratch).lowers(&[top, bottom]).mount();
        for number in 0..20 {
            fsx::write(mount.path(format!("upper-{number}")), "x");
        }
        let device = rustix::fs::stat(mount.root()).unwrap().st_dev;
        let mut seen = HashSet::new();
        for name in fsx::names(mount.root()) {
            let stat = rustix::fs::lstat(mount.path(&name)).unwrap();
            assert_eq!(stat.st_dev, device, "{name}");
            assert!(seen.insert(stat.st_ino), "{name}: its inode number is another's");
        }
        // readdir tells the same numbers.
        for entry in std::fs::read_dir(mount.root()).unwrap() {
            let entry = entry.unwrap();
            let ino = std::os::unix::fs::DirEntryExt::ino(&entry);
            assert_eq!(ino, fsx::ino(entry.path()), "{}", entry.path().display());
        }
    }

    fn blocks_tell_what_a_file_takes(scratch) {
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("f"), vec![1; 1 << 20]);
        std::fs::File::open(mount.path("f")).unwrap().sync_all().unwrap();
        let blocks = fsx::statx(mount.path("f")).stx_blocks * 512;
        assert!((1 << 20..(1 << 20) + 65536).contains(&blocks), "{blocks}");
    }

    fn statfs_of_the_host_without_limits(scratch) {
        let mount = Spec::of(scratch).mount();
        let (view, host) = (
            rustix::fs::statvfs(mount.root()).unwrap(),
            rustix::fs::statvfs(scratch.upper()).unwrap(),
        );
        assert_eq!(view.f_namemax, 255);
        let (view_free, host_free) = (view.f_bavail * view.f_frsize, host.f_bavail * host.f_frsize);
        assert!(view_free.abs_diff(host_free) < 1 << 30, "{view_free} free, the host has {host_free}");
        assert!(view.f_blocks >= view.f_bfree && view.f_bfree >= view.f_bavail);
    }

    fn statfs_of_a_view_in_memory(scratch) {
        overcoat_only!();
        let spec = Spec::of(scratch).option("medium=memory");
        let mount = spec.mount();
        let view = rustix::fs::statvfs(mount.root()).unwrap();
        assert!(view.f_blocks > view.f_bavail && view.f_bavail > 0);
        assert!(view.f_ffree > 1000);
        mount.unmount();
        let mount = spec.option("size=16m").mount();
        let view = rustix::fs::statvfs(mount.root()).unwrap();
        assert_eq!(view.f_blocks * view.f_frsize, 16 << 20);
        assert!(view.f_bavail * view.f_frsize > 15 << 20);
    }

    fn limits_show_in_statfs_and_bite(scratch) {
        overcoat_only!();
        let spec = Spec::of(scratch).option("size=16m").option("nr_inodes=100");
        let mount = spec.mount();
        let view = rustix::fs::statvfs(mount.root()).unwrap();
        assert_eq!(view.f_blocks * view.f_frsize, 16 << 20);
        assert_eq!(view.f_files, 100);
        let error = std::fs::write(mount.path("big"), vec![1; 20 << 20]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(28));
        std::fs::remove_file(mount.path("big")).unwrap();
        fsx::write(mount.path("fits"), vec![1; 8 << 20]);
        let made = (0..200).take_while(|number| {
            std::fs::File::create(mount.path(format!("f{number}"))).is_ok()
        }).count();
        assert!((80..=100).contains(&made), "{made} files made");
        std::fs::remove_file(mount.path("f0")).unwrap();
        fsx::write(mount.path("again"), "");
    }

    fn everything_seen_is_seen_again(scratch) {
        fsx::mkdir(scratch.lower().join("a/b"));
        fsx::write(scratch.lower().join("a/b/f"), "x");
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("a/g"), "y");
        let first = Manifest::of(mount.root());
        std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        Manifest::of(mount.root()).assert_same(&first, "the same tree looked at twice");
    }

    fn what_holds_a_changed_file_looks_as_before(scratch) {
        overcoat_only!();
        let lower = scratch.lower();
        for directory in ["d/e/1", "d/e/2", "d/f"] {
            fsx::mkdir(lower.join(directory));
        }
        fsx::write(lower.join("d/e/file"), "x");
        let spec = Spec::of(scratch);
        let mount = spec.mount();
        let look = |root: &std::path::Path| ["d", "d/e"].map(|path| {
            let stat = rustix::fs::stat(root.join(path)).unwrap();
            (stat.st_nlink, stat.st_blocks, stat.st_size)
        });
        let before = look(mount.root());
        fsx::chmod(mount.path("d/e/file"), 0o600);
        std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        assert_eq!(look(mount.root()), before, "after the copy-up");
        mount.unmount();
        let mount = spec.mount();
        assert_eq!(look(mount.root()), before, "at the next mount");
    }
}
