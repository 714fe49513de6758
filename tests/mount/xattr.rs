//! Extended attributes of all namespaces.

use overcoat_tests::rng::bytes;
use overcoat_tests::{Spec, fsx, mount_tests, overcoat_only};
use rustix::fs::{FileType, XattrFlags};
use rustix::io::Errno;

mount_tests! {
    fn all_namespaces_on_lower_and_upper(scratch) {
        let lower = scratch.lower();
        fsx::write(lower.join("f"), "x");
        fsx::mkdir(lower.join("d"));
        fsx::set_xattr(lower.join("f"), "user.below", b"1").unwrap();
        fsx::set_xattr(lower.join("f"), "trusted.below", b"2").unwrap();
        let mount = Spec::of(scratch).mount();
        for name in ["f", "d"] {
            for key in ["user.a", "trusted.a", "security.a"] {
                fsx::set_xattr(mount.path(name), key, b"value").unwrap();
                assert_eq!(fsx::get_xattr(mount.path(name), key).unwrap(), b"value");
            }
        }
        let names = fsx::list_xattrs(mount.path("f")).unwrap();
        let want: [&[u8]; 5] = [b"security.a", b"trusted.a", b"trusted.below", b"user.a", b"user.below"];
        assert_eq!(names, want);
        rustix::fs::removexattr(mount.path("f"), "user.below").unwrap();
        assert_eq!(fsx::get_xattr(mount.path("f"), "user.below"), Err(Errno::NODATA));
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::list_xattrs(mount.path("f")).unwrap().len(), 4);
        assert_eq!(fsx::get_xattr(mount.path("f"), "trusted.below").unwrap(), b"2");
        assert_eq!(fsx::get_xattr(lower.join("f"), "user.below").unwrap(), b"1");
    }

    fn a_lower_is_asked_again_when_it_has_some(scratch) {
        let lower = scratch.lower();
        for name in ["bare", "with"] {
            fsx::write(lower.join(name), "x");
        }
        fsx::set_xattr(lower.join("with"), "user.below", b"1").unwrap();
        let mount = Spec::of(scratch).mount();
        for _ in 0..3 {
            for (name, value) in [("bare", Err(Errno::NODATA)), ("with", Ok(b"1".to_vec()))] {
                assert_eq!(fsx::get_xattr(mount.path(name), "user.below"), value);
                assert_eq!(fsx::get_xattr(mount.path(name), "user.other"), Err(Errno::NODATA));
                assert_eq!(fsx::read(mount.path(name)), b"x");
            }
            assert!(fsx::list_xattrs(mount.path("bare")).unwrap().is_empty());
            assert_eq!(fsx::list_xattrs(mount.path("with")).unwrap(), [b"user.below"]);
        }
        for name in ["bare", "with"] {
            fsx::set_xattr(mount.path(name), "user.above", b"2").unwrap();
            assert_eq!(fsx::get_xattr(mount.path(name), "user.above").unwrap(), b"2");
        }
        assert_eq!(fsx::list_xattrs(mount.path("bare")).unwrap().len(), 1);
        assert_eq!(fsx::list_xattrs(mount.path("with")).unwrap().len(), 2);
    }

    fn sizes_and_flags(scratch) {
        overcoat_only!(); // the host's file system limits overlayfs to a block
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("f"), "x");
        let path = mount.path("f");
        for len in [0, 1, 255, 4096, 65536] {
            let value = bytes(len as u64, len);
            fsx::set_xattr(&path, "user.v", &value).unwrap();
            assert!(fsx::get_xattr(&path, "user.v").unwrap() == value, "{len}");
        }
        let mut small = [0_u8; 10];
        assert_eq!(rustix::fs::lgetxattr(&path, "user.v", &mut small[..]), Err(Errno::RANGE));
        let set = |name: &str, flags| rustix::fs::lsetxattr(&path, name, b"x", flags);
        assert_eq!(set("user.v", XattrFlags::CREATE), Err(Errno::EXIST));
        assert_eq!(set("user.w", XattrFlags::REPLACE), Err(Errno::NODATA));
        assert_eq!(set("user.w", XattrFlags::CREATE), Ok(()));
        assert_eq!(set("user.w", XattrFlags::REPLACE), Ok(()));
        let long = format!("user.{}", "n".repeat(250));
        assert_eq!(set(&long, XattrFlags::empty()), Ok(()));
        assert_eq!(rustix::fs::removexattr(&path, "user.none"), Err(Errno::NODATA));
        assert_eq!(set("nonsense.x", XattrFlags::empty()), Err(Errno::OPNOTSUPP));
    }

    fn user_attributes_only_on_files_and_directories(scratch) {
        let mount = Spec::of(scratch).mount();
        fsx::mknod(mount.path("fifo"), FileType::Fifo, 0o666, (0, 0)).unwrap();
        std::os::unix::fs::symlink("x", mount.path("l")).unwrap();
        for name in ["fifo", "l"] {
            assert_eq!(fsx::set_xattr(mount.path(name), "user.x", b"1"), Err(Errno::PERM), "{name}");
            fsx::set_xattr(mount.path(name), "trusted.x", b"1").unwrap();
        }
    }

    fn who_may(scratch) {
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("f"), "x");
        fsx::chmod(mount.path("f"), 0o644);
        fsx::set_xattr(mount.path("f"), "user.x", b"1").unwrap();
        fsx::set_xattr(mount.path("f"), "trusted.x", b"1").unwrap();
        let path = mount.path("f");
        fsx::as_user(fsx::NOBODY, fsx::NOBODY, || {
            assert_eq!(fsx::get_xattr(&path, "user.x").unwrap(), b"1");
            assert_eq!(fsx::set_xattr(&path, "user.x", b"2"), Err(Errno::ACCESS));
            assert_eq!(fsx::get_xattr(&path, "trusted.x"), Err(Errno::NODATA));
            assert_eq!(fsx::set_xattr(&path, "trusted.x", b"2"), Err(Errno::PERM));
            assert_eq!(fsx::list_xattrs(&path).unwrap(), [b"user.x"]);
        });
    }

    fn markers_of_layers_do_not_show(scratch) {
        let lower = scratch.lower();
        fsx::mkdir(lower.join("d"));
        fsx::set_xattr(lower.join("d"), "trusted.overlay.opaque", b"y").unwrap();
        let mount = Spec::of(scratch).mount();
        assert!(fsx::list_xattrs(mount.path("d")).unwrap().is_empty());
        assert!(fsx::get_xattr(mount.path("d"), "trusted.overlay.opaque").is_err());
        // Copied up, it must still not show.
        fsx::write(mount.path("d/new"), "x");
        fsx::chmod(mount.path("d"), 0o700);
        assert!(fsx::list_xattrs(mount.path("d")).unwrap().is_empty());
    }

    fn ctime_moves(scratch) {
        fsx::write(scratch.lower().join("f"), "x");
        let mount = Spec::of(scratch).mount();
        let before = fsx::statx(mount.path("f")).stx_ctime;
        fsx::set_xattr(mount.path("f"), "user.x", b"1").unwrap();
        let after = fsx::statx(mount.path("f")).stx_ctime;
        assert!((after.tv_sec, after.tv_nsec) > (before.tv_sec, before.tv_nsec));
    }
}
