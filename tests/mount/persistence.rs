//! Unmount and mount again gives the same; so does a killed daemon.

use std::path::Path;

use overcoat_tests::rng::bytes;
use overcoat_tests::{
    Manifest, Mount, Scratch, Spec, fsx, mount_tests, overcoat_only, store, tool,
};
use rustix::fs::FileType;

/// A lower with a bit of everything.
fn fill_lower(lower: &Path) {
    fsx::mkdir(lower.join("d/e"));
    fsx::write(lower.join("d/e/f"), bytes(1, 10_000));
    fsx::write(lower.join("a"), bytes(2, 300_000));
    std::fs::hard_link(lower.join("a"), lower.join("d/b")).unwrap();
    std::os::unix::fs::symlink("d/e/f", lower.join("l")).unwrap();
    fsx::write(lower.join("gone"), "x");
    fsx::sparse_file(lower.join("sparse"), 5 << 20);
}

/// Changes a bit of everything.
fn change(mount: &Mount) {
    fsx::write_at(&fsx::open_rw(mount.path("a")), 100_000, &bytes(3, 5000));
    std::fs::remove_file(mount.path("gone")).unwrap();
    std::fs::rename(mount.path("d"), mount.path("moved")).unwrap();
    fsx::mkdir(mount.path("d/new"));
    fsx::write(mount.path("d/new/file"), bytes(4, 70_000));
    fsx::mknod(mount.path("fifo"), FileType::Fifo, 0o604, (0, 0)).unwrap();
    fsx::mknod(mount.path("null"), FileType::CharacterDevice, 0o666, (1, 3)).unwrap();
    fsx::chown(mount.path("moved/e/f"), 11, 12);
    fsx::chmod(mount.path("moved/e/f"), 0o4750);
    fsx::set_times(mount.path("l"), (-5, 5), (1 << 33, 7)).unwrap();
    fsx::set_xattr(mount.path("moved"), "user.x", b"y").unwrap();
    std::fs::hard_link(mount.path("d/new/file"), mount.path("linked")).unwrap();
    fsx::write_at(&fsx::open_rw(mount.path("sparse")), 1 << 20, b"middle");
    let long = "n".repeat(255);
    fsx::write(mount.path(long), "long name");
}

fn same_after(scratch: &Scratch, end: impl Fn(Mount)) {
    fill_lower(&scratch.lower());
    let spec = Spec::of(scratch);
    let mount = spec.mount();
    change(&mount);
    rustix::fs::syncfs(fsx::open_dir(mount.root())).unwrap();
    let before = Manifest::of(mount.root());
    end(mount);
    let mount = spec.mount();
    Manifest::of(mount.root()).assert_same(&before, "after the first remount");
    end(mount);
    if spec.driver == overcoat_tests::Driver::Overcoat {
        store::assert_clean(&scratch.upper());
    }
    let mount = spec.mount();
    Manifest::of(mount.root()).assert_same(&before, "after the second remount");
}

mount_tests! {
    fn unmount_and_mount(scratch) {
        same_after(scratch, Mount::unmount);
    }

    fn sigterm_and_mount(scratch) {
        overcoat_only!();
        same_after(scratch, Mount::terminate);
    }

    fn kill_and_mount(scratch) {
        overcoat_only!();
        same_after(scratch, Mount::kill);
    }

    fn closed_files_survive_a_kill_without_sync(scratch) {
        overcoat_only!();
        fill_lower(&scratch.lower());
        let mount = Spec::of(scratch).mount();
        change(&mount);
        for number in 0..200 {
            fsx::write(mount.path(number.to_string()), bytes(number, 5000));
        }
        let before = Manifest::of(mount.root());
        mount.kill();
        let mount = Spec::of(scratch).mount();
        Manifest::of(mount.root()).assert_same(&before, "after a kill");
    }

    fn a_filestore_can_be_copied(scratch) {
        overcoat_only!();
        fill_lower(&scratch.lower());
        let mount = Spec::of(scratch).mount();
        change(&mount);
        let before = Manifest::of(mount.root());
        mount.unmount();
        let copy = scratch.path("copy");
        tool::run("cp", &["-a".as_ref(), scratch.upper().as_os_str(), copy.as_os_str()]);
        let mut spec = Spec::of(scratch);
        spec.upper = Some(copy);
        Manifest::of(spec.mount().root()).assert_same(&before, "the copy");
    }

    fn an_upperdir_can_be_renamed(scratch) {
        overcoat_only!();
        fill_lower(&scratch.lower());
        let mount = Spec::of(scratch).mount();
        change(&mount);
        let before = Manifest::of(mount.root());
        mount.unmount();
        std::fs::rename(scratch.upper(), scratch.path("elsewhere")).unwrap();
        let mut spec = Spec::of(scratch);
        spec.upper = Some(scratch.path("elsewhere"));
        Manifest::of(spec.mount().root()).assert_same(&before, "the renamed upperdir");
    }

    fn many_remounts(scratch) {
        let spec = Spec::of(scratch);
        for round in 0..30 {
            let mount = spec.mount();
            assert_eq!(fsx::names(mount.root()).len(), round);
            fsx::write(mount.path(round.to_string()), bytes(round as u64, 10_000));
            if round > 0 {
                assert!(fsx::read(mount.path((round - 1).to_string())) == bytes(round as u64 - 1, 10_000));
            }
        }
    }

    fn unlinked_but_open_files_are_gone_after_a_kill(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("f"), bytes(1, 8 << 20));
        let file = fsx::open_rw(mount.path("f"));
        std::fs::remove_file(mount.path("f")).unwrap();
        let unnamed = fsx::tmpfile(mount.root(), rustix::fs::OFlags::empty()).unwrap();
        fsx::write_at(&unnamed, 0, &bytes(2, 8 << 20));
        unnamed.sync_all().unwrap();
        mount.kill();
        drop((file, unnamed));
        Spec::of(scratch).mount().unmount();
        store::assert_clean(&scratch.upper());
        assert!(store::used(&scratch.upper()) < 1 << 20, "{}", store::used(&scratch.upper()));
    }

    fn one_writer_for_an_upperdir(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("f"), "x");
        let second = Spec::of(scratch).at(scratch.dir("mnt2"));
        let outcome = tool::overcoat_run(&second.arguments(), std::time::Duration::from_secs(20));
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert!(overcoat_tests::mount::mounts_below(&second.point).is_empty());
        assert_eq!(fsx::read(mount.path("f")), b"x");
        mount.unmount();
        second.mount().unmount();
    }
}
