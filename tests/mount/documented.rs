//! What `doc/SEMANTICS.md` says and no other family tests.

use memmap2::MmapOptions;
use overcoat_tests::{Driver, Spec, fsx, mount_tests, overcoat_only, tool};
use rustix::io::Errno;

mount_tests! {
    fn links_of_directories(scratch) {
        overcoat_only!();
        let (top, bottom) = (scratch.dir("top"), scratch.dir("bottom"));
        for lower in [&top, &bottom] {
            fsx::mkdir(lower.join("merged"));
            fsx::mkdir(lower.join("merged/sub"));
        }
        fsx::mkdir(top.join("single"));
        fsx::mkdir(top.join("single/sub"));
        let mount = Spec::of(scratch).lowers(&[top, bottom]).mount();
        fsx::mkdir(mount.path("new"));
        fsx::mkdir(mount.path("new/sub"));
        for (name, links) in [("merged", 1), ("single", 3), ("new", 3)] {
            assert_eq!(fsx::statx(mount.path(name)).stx_nlink, links, "{name}");
        }
    }

    fn a_read_moves_no_access_time(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("f"), "x");
        let mount = Spec::of(scratch).option("strictatime").mount();
        fsx::set_times(mount.path("f"), (1, 0), (2, 0)).unwrap();
        fsx::read(mount.path("f"));
        fsx::names(mount.root());
        let atime = fsx::statx(mount.path("f")).stx_atime;
        assert_eq!((atime.tv_sec, atime.tv_nsec), (1, 0));
    }

    fn a_shared_mapping_sees_the_first_write_to_a_lower_file(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("f"), "old");
        let mount = Spec::of(scratch).mount();
        let reader = fsx::open_ro(mount.path("f"));
        // SAFETY: the file keeps its length while it is mapped.
        let map = unsafe { MmapOptions::new().map(&reader) }.unwrap();
        assert_eq!(&map[..], b"old");
        fsx::write_at(&fsx::open_rw(mount.path("f")), 0, b"new");
        assert_eq!(&map[..], b"new");
    }

    fn what_overlayfs_shows_to_who_opened_before_a_change(scratch) {
        fsx::write(scratch.lower().join("f"), "old");
        let upper = scratch.dir("overlayfs-upper");
        let spec = Spec { driver: Driver::Overlayfs, upper: Some(upper), ..Spec::of(scratch) };
        let mount = spec.mount();
        let reader = fsx::open_ro(mount.path("f"));
        fsx::write_at(&fsx::open_rw(mount.path("f")), 0, b"new");
        assert_eq!(fsx::read_at(&reader, 0, 3), b"new");
        // SAFETY: the file keeps its length while it is mapped.
        let map = unsafe { MmapOptions::new().map(&reader) }.unwrap();
        assert_eq!(&map[..], b"old");
    }

    fn no_fiemap(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("f"), "x");
        let mut xfs_io = std::process::Command::new("xfs_io");
        let said = xfs_io.args(["-r", "-c", "fiemap"]).arg(mount.path("f")).output().unwrap();
        let text = String::from_utf8_lossy(&said.stderr);
        assert!(text.contains("Operation not supported"), "{said:?}");
    }

    fn replacing_one_of_several_names_leaves_the_others(scratch) {
        let lower = scratch.lower();
        fsx::write(lower.join("a"), "shared");
        std::fs::hard_link(lower.join("a"), lower.join("b")).unwrap();
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("new"), "own");
        std::fs::rename(mount.path("new"), mount.path("a")).unwrap();
        assert_eq!(fsx::read(mount.path("a")), b"own");
        assert_eq!(fsx::read(mount.path("b")), b"shared");
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::read(mount.path("b")), b"shared");
    }

    fn no_reflinks(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("a"), "x");
        fsx::write(mount.path("b"), "");
        let (from, to) = (fsx::open_ro(mount.path("a")), fsx::open_rw(mount.path("b")));
        assert_eq!(rustix::fs::ioctl_ficlone(&to, &from), Err(Errno::OPNOTSUPP));
    }

    fn marks_set_in_the_view_are_names_and_attributes_like_any_other(scratch) {
        overcoat_only!();
        fsx::mkdir(scratch.lower().join("d"));
        fsx::write(scratch.lower().join("d/f"), "x");
        let mount = Spec::of(scratch).mount();
        fsx::set_xattr(mount.path("d"), "trusted.overlay.opaque", b"y").unwrap();
        fsx::write(mount.path("d/.wh.f"), "");
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::names(mount.path("d")), [".wh.f", "f"]);
        assert_eq!(fsx::list_xattrs(mount.path("d")).unwrap(), [b"trusted.overlay.opaque"]);
    }

    /// Containers in containers: what the kernel's overlayfs asks of its upper's file system is there.
    fn an_upper_of_overlayfs_may_lie_in_a_mount(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("f"), "x");
        let mount = Spec::of(scratch).mount();
        for name in ["lower", "upper", "work", "merged"] {
            fsx::mkdir(mount.path(name));
        }
        fsx::write(mount.path("lower/gone"), "x");
        fsx::write(mount.path("lower/changed"), "x");
        let [lower, upper, work, merged] =
            ["lower", "upper", "work", "merged"].map(|name| mount.path(name).display().to_string());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        tool::run("mount", &["-t", "overlay", "inner", "-o", &options, &merged]);
        std::fs::remove_file(mount.path("merged/gone")).unwrap();
        fsx::write(mount.path("merged/changed"), "y");
        let inner = fsx::names(mount.path("merged"));
        tool::run("umount", &[&merged]);
        assert_eq!(inner, ["changed"]);
        assert_eq!(fsx::read(mount.path("upper/changed")), b"y");
    }

    fn a_layer_changed_under_a_mount_breaks_nothing(scratch) {
        overcoat_only!();
        let lower = scratch.lower();
        for name in ["kept", "rewritten", "removed"] {
            fsx::write(lower.join(name), "before");
        }
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::read(mount.path("removed")), b"before");
        fsx::write(lower.join("rewritten"), "now longer than before");
        std::fs::remove_file(lower.join("removed")).unwrap();
        fsx::write(lower.join("added"), "x");
        for name in ["rewritten", "removed", "added"] {
            // Either is allowed: what it was, what it is, or that it is not there.
            std::fs::read(mount.path(name)).ok();
        }
        assert_eq!(fsx::read(mount.path("kept")), b"before");
        fsx::write(mount.path("kept"), "after");
        mount.unmount();
        assert_eq!(fsx::read(Spec::of(scratch).mount().path("kept")), b"after");
    }

    fn a_filestore_may_be_mounted_over_other_layers(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("f"), "x");
        let mount = Spec::of(scratch).mount();
        fsx::chmod(mount.path("f"), 0o600);
        mount.unmount();
        let top = scratch.dir("top");
        let more = Spec::of(scratch).lowers(&[top, scratch.lower()]).mount();
        assert_eq!(fsx::statx(more.path("f")).stx_mode & 0o777, 0o600, "a layer more on top");
        more.unmount();
        let none = Spec::of(scratch).lowers(&[scratch.dir("other")]).mount();
        assert_eq!(fsx::statx(none.path("f")).stx_mode & 0o777, 0o600, "another layer");
        let lost = std::fs::read(none.path("f")).unwrap_err();
        assert_eq!(lost.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    }
}
