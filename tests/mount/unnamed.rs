//! Files without a name: O_TMPFILE, and descriptors that outlive their name.

use std::os::fd::AsRawFd as _;

use overcoat_tests::{Spec, fsx, mount_tests, overcoat_only, store};
use rustix::fs::OFlags;
use rustix::io::Errno;

mount_tests! {
    fn tmpfile_gets_a_name(scratch) {
        fsx::mkdir(scratch.lower().join("d"));
        let mount = Spec::of(scratch).mount();
        let file = fsx::tmpfile(mount.path("d"), OFlags::empty()).unwrap();
        fsx::write_at(&file, 0, b"unnamed");
        assert!(fsx::names(mount.path("d")).is_empty());
        assert_eq!(rustix::fs::fstat(&file).unwrap().st_nlink, 0);
        fsx::link_tmpfile(&file, mount.path("d/named")).unwrap();
        assert_eq!(rustix::fs::fstat(&file).unwrap().st_nlink, 1);
        assert_eq!(fsx::read(mount.path("d/named")), b"unnamed");
        drop(file);
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::read(mount.path("d/named")), b"unnamed");
    }

    fn tmpfile_by_proc_and_exclusive(scratch) {
        let mount = Spec::of(scratch).mount();
        let file = fsx::tmpfile(mount.root(), OFlags::empty()).unwrap();
        let by_proc = format!("/proc/self/fd/{}", file.as_raw_fd());
        let follow = rustix::fs::AtFlags::SYMLINK_FOLLOW;
        let cwd = rustix::fs::CWD;
        rustix::fs::linkat(cwd, by_proc.as_str(), cwd, mount.path("f"), follow).unwrap();
        assert!(fsx::exists(mount.path("f")));
        let exclusive = fsx::tmpfile(mount.root(), OFlags::EXCL).unwrap();
        assert_eq!(fsx::link_tmpfile(&exclusive, mount.path("g")), Err(Errno::NOENT));
    }

    fn a_tmpfile_leaves_nothing(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        for _ in 0..50 {
            let file = fsx::tmpfile(mount.root(), OFlags::empty()).unwrap();
            fsx::write_at(&file, 0, &overcoat_tests::rng::bytes(1, 1 << 20));
        }
        mount.unmount();
        assert!(store::used(&scratch.upper()) < 2 << 20, "{}", store::used(&scratch.upper()));
        store::assert_clean(&scratch.upper());
    }

    fn descriptors_outlive_the_name(scratch) {
        let lower = scratch.lower();
        fsx::write(lower.join("lower"), "from below");
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("upper"), "from above");
        for name in ["lower", "upper"] {
            let file = fsx::open_rw(mount.path(name));
            std::fs::remove_file(mount.path(name)).unwrap();
            assert!(!fsx::exists(mount.path(name)));
            assert!(fsx::read_at(&file, 0, 99).starts_with(b"from "));
            fsx::write_at(&file, 5, b"nowhere");
            assert_eq!(fsx::read_at(&file, 0, 99), b"from nowhere");
            file.set_len(4).unwrap();
            let stat = rustix::fs::fstat(&file).unwrap();
            assert_eq!((stat.st_nlink, stat.st_size), (0, 4));
            rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
            assert_eq!(rustix::fs::fstat(&file).unwrap().st_mode & 0o777, 0o600);
            rustix::fs::fsync(&file).unwrap();
        }
    }

    fn a_name_made_again_is_another_file(scratch) {
        fsx::write(scratch.lower().join("f"), "old");
        let mount = Spec::of(scratch).mount();
        let old = fsx::open_rw(mount.path("f"));
        std::fs::remove_file(mount.path("f")).unwrap();
        fsx::write(mount.path("f"), "new");
        fsx::write_at(&old, 0, b"OLD");
        assert_eq!(fsx::read(mount.path("f")), b"new");
        assert_eq!(fsx::read_at(&old, 0, 9), b"OLD");
        assert_ne!(rustix::fs::fstat(&old).unwrap().st_ino, fsx::ino(mount.path("f")));
    }

    fn a_removed_directory_stays_open(scratch) {
        fsx::mkdir(scratch.lower().join("d"));
        let mount = Spec::of(scratch).mount();
        let dir = fsx::open_dir(mount.path("d"));
        std::fs::remove_dir(mount.path("d")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o755);
        assert_eq!(rustix::fs::mkdirat(&dir, "x", mode), Err(Errno::NOENT));
        if overcoat_tests::Driver::from_env() == overcoat_tests::Driver::Overcoat {
            assert_eq!(rustix::fs::fstat(&dir).unwrap().st_nlink, 0);
        }
        let mut buffer = Vec::with_capacity(4096);
        let mut entries = rustix::fs::RawDir::new(&dir, buffer.spare_capacity_mut());
        let first = entries.next().map(|entry| entry.map(drop));
        assert_eq!(first, Some(Err(Errno::NOENT)), "the VFS does not list a dead directory");
    }

    fn the_space_of_an_unlinked_file_comes_back_with_the_last_descriptor(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        let data = overcoat_tests::rng::bytes(7, 8 << 20);
        fsx::write(mount.path("f"), &data);
        let file = fsx::open_ro(mount.path("f"));
        std::fs::remove_file(mount.path("f")).unwrap();
        assert_eq!(fsx::read_at(&file, 0, data.len()), data);
        assert!(store::used(&scratch.upper()) >= 8 << 20);
        drop(file);
        let limit = std::time::Duration::from_secs(3);
        overcoat_tests::tool::eventually("the blocks of the file are punched out", limit, || {
            store::used(&scratch.upper()) < 1 << 20
        });
    }
}
