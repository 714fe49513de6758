//! rename and its flags.

use overcoat_tests::{Spec, fsx, mount_tests, overcoat_only, store};
use rustix::fs::RenameFlags;
use rustix::io::Errno;

mount_tests! {
    fn lower_file_onto_nothing_and_onto_another(scratch) {
        let lower = scratch.lower();
        fsx::write(lower.join("a"), "a");
        fsx::write(lower.join("b"), "b");
        let mount = Spec::of(scratch).mount();
        let ino = fsx::ino(mount.path("a"));
        std::fs::rename(mount.path("a"), mount.path("c")).unwrap();
        assert_eq!(fsx::names(mount.root()), ["b", "c"]);
        assert_eq!(fsx::ino(mount.path("c")), ino);
        std::fs::rename(mount.path("c"), mount.path("b")).unwrap();
        assert_eq!(fsx::names(mount.root()), ["b"]);
        assert_eq!(fsx::read(mount.path("b")), b"a");
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::names(mount.root()), ["b"]);
        assert_eq!(fsx::read(mount.path("b")), b"a");
    }

    fn a_merged_directory_moves_with_all_below(scratch) {
        let (top, bottom) = (scratch.dir("top"), scratch.dir("bottom"));
        fsx::mkdir(top.join("d/x"));
        fsx::mkdir(bottom.join("d/y"));
        fsx::write(top.join("d/x/f"), "top");
        fsx::write(bottom.join("d/y/f"), "bottom");
        let spec = Spec::of(scratch).lowers(&[top, bottom]);
        let mount = spec.mount();
        fsx::write(mount.path("d/new"), "upper");
        let ino = fsx::ino(mount.path("d"));
        std::fs::rename(mount.path("d"), mount.path("e")).unwrap();
        assert_eq!(fsx::ino(mount.path("e")), ino);
        assert!(!fsx::exists(mount.path("d")));
        // The old name comes back empty, and what moved does not shine through.
        std::fs::create_dir(mount.path("d")).unwrap();
        assert!(fsx::names(mount.path("d")).is_empty());
        mount.unmount();
        let mount = spec.mount();
        assert_eq!(fsx::names(mount.path("e")), ["new", "x", "y"]);
        assert_eq!(fsx::read(mount.path("e/x/f")), b"top");
        assert_eq!(fsx::read(mount.path("e/y/f")), b"bottom");
        assert!(fsx::names(mount.path("d")).is_empty());
    }

    fn a_merged_directory_moves_into_another_merged_one(scratch) {
        let lower = scratch.lower();
        fsx::mkdir(lower.join("a/b"));
        fsx::write(lower.join("a/b/f"), "x");
        fsx::mkdir(lower.join("c/b"));
        let mount = Spec::of(scratch).mount();
        assert_eq!(rustix::fs::rename(mount.path("a"), mount.path("a/b/a")), Err(Errno::INVAL));
        std::fs::rename(mount.path("a/b"), mount.path("c/b")).unwrap();
        assert_eq!(fsx::read(mount.path("c/b/f")), b"x");
        assert!(fsx::names(mount.path("a")).is_empty());
        assert_eq!(rustix::fs::rename(mount.path("a"), mount.path("c")), Err(Errno::NOTEMPTY));
    }

    fn errors(scratch) {
        let lower = scratch.lower();
        fsx::mkdir(lower.join("d"));
        fsx::write(lower.join("f"), "x");
        let mount = Spec::of(scratch).mount();
        assert_eq!(rustix::fs::rename(mount.path("no"), mount.path("x")), Err(Errno::NOENT));
        assert_eq!(rustix::fs::rename(mount.path("f"), mount.path("d")), Err(Errno::ISDIR));
        assert_eq!(rustix::fs::rename(mount.path("d"), mount.path("f")), Err(Errno::NOTDIR));
        // Onto a link of itself: nothing happens.
        std::fs::hard_link(mount.path("f"), mount.path("g")).unwrap();
        std::fs::rename(mount.path("f"), mount.path("g")).unwrap();
        assert_eq!(fsx::names(mount.root()), ["d", "f", "g"]);
    }

    fn noreplace(scratch) {
        let lower = scratch.lower();
        fsx::write(lower.join("a"), "a");
        fsx::write(lower.join("b"), "b");
        let mount = Spec::of(scratch).mount();
        let rename = |from: &str, to: &str| {
            fsx::rename_with(mount.path(from), mount.path(to), RenameFlags::NOREPLACE)
        };
        assert_eq!(rename("a", "b"), Err(Errno::EXIST));
        rename("a", "c").unwrap();
        assert_eq!(fsx::names(mount.root()), ["b", "c"]);
        // A whited-out name is free.
        std::fs::remove_file(mount.path("b")).unwrap();
        rename("c", "b").unwrap();
        assert_eq!(fsx::read(mount.path("b")), b"a");
    }

    fn exchange(scratch) {
        let lower = scratch.lower();
        fsx::write(lower.join("a"), "a");
        fsx::mkdir(lower.join("d"));
        fsx::write(lower.join("d/in"), "in");
        let mount = Spec::of(scratch).mount();
        let (a, d) = (fsx::ino(mount.path("a")), fsx::ino(mount.path("d")));
        let exchange = |one: &str, two: &str| {
            fsx::rename_with(mount.path(one), mount.path(two), RenameFlags::EXCHANGE)
        };
        assert_eq!(exchange("a", "no"), Err(Errno::NOENT));
        exchange("a", "d").unwrap();
        assert_eq!(fsx::read(mount.path("d")), b"a");
        assert_eq!(fsx::read(mount.path("a/in")), b"in");
        assert_eq!((fsx::ino(mount.path("a")), fsx::ino(mount.path("d"))), (d, a));
        assert_eq!(exchange("a", "a/in"), Err(Errno::INVAL));
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::read(mount.path("d")), b"a");
        assert_eq!(fsx::names(mount.path("a")), ["in"]);
    }

    fn whiteout(scratch) {
        overcoat_only!();
        let lower = scratch.lower();
        fsx::write(lower.join("a"), "a");
        let mount = Spec::of(scratch).mount();
        fsx::rename_with(mount.path("a"), mount.path("b"), RenameFlags::WHITEOUT).unwrap();
        assert_eq!(fsx::read(mount.path("b")), b"a");
        // RENAME_WHITEOUT leaves a device 0:0 in the view of its caller.
        let left = fsx::statx(mount.path("a"));
        assert_eq!(left.stx_mode & 0o170_000, 0o020_000);
        assert_eq!((left.stx_rdev_major, left.stx_rdev_minor), (0, 0));
        let both = RenameFlags::WHITEOUT | RenameFlags::EXCHANGE;
        assert_eq!(fsx::rename_with(mount.path("b"), mount.path("a"), both), Err(Errno::INVAL));
    }

    fn an_upper_only_source_leaves_no_trace(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        let before = store::used(&scratch.upper());
        for round in 0..2000 {
            fsx::write(mount.path("temporary"), b"x");
            std::fs::rename(mount.path("temporary"), mount.path("final")).unwrap();
            assert_eq!(fsx::names(mount.root()).len(), 1, "round {round}");
        }
        mount.unmount();
        let after = store::used(&scratch.upper());
        assert!(after < before + (1 << 20), "{before} → {after}");
    }

    fn sticky_directories_protect(scratch) {
        let lower = scratch.lower();
        fsx::mkdir(lower.join("t"));
        fsx::chmod(lower.join("t"), 0o1777);
        fsx::write(lower.join("t/mine"), "x");
        let mount = Spec::of(scratch).mount();
        let result = fsx::as_user(fsx::NOBODY, fsx::NOBODY, || {
            rustix::fs::rename(mount.path("t/mine"), mount.path("t/yours"))
        });
        assert!(matches!(result, Err(Errno::PERM | Errno::ACCESS)), "{result:?}");
    }
}
