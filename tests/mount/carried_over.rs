//! An upper is decided by names: it may be mounted over other layers than it was made over.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use overcoat_tests::rng::bytes;
use overcoat_tests::{Scratch, Spec, fsx, mount_tests, overcoat_only, store, tool};
use rustix::io::Errno;

const BLOCK: usize = 4096;

/// `cp` with these options of a directory to a new one.
fn copy(options: &str, from: &Path, to: &Path) {
    tool::run("cp", &[options.as_ref(), from.as_os_str(), to.as_os_str()]);
}

/// What the errors of std::io say.
fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Replaces a file as a package manager does: by a new one, renamed over it.
fn replace(path: &Path, data: impl AsRef<[u8]>) {
    let new = path.with_extension("new");
    fsx::write(&new, data);
    std::fs::rename(new, path).unwrap();
}

/// Names and inode numbers, as the directory's entries and as stat have them.
fn assert_numbers_agree(dir: &Path) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let stat = std::fs::symlink_metadata(entry.path()).unwrap();
        let listed = std::os::unix::fs::DirEntryExt::ino(&entry);
        assert_eq!(listed, stat.ino(), "{:?}", entry.path());
        all.push((entry.file_name().into_string().unwrap(), stat.ino()));
    }
    all
}

/// A lower, and an upper with changes of each kind.
fn changed(scratch: &Scratch) -> Spec {
    let lower = scratch.lower();
    fsx::mkdir(lower.join("d/e"));
    fsx::write(lower.join("d/e/part"), bytes(1, 5 * BLOCK));
    fsx::write(lower.join("d/mode"), "of the layer");
    fsx::write(lower.join("whole"), "of the layer");
    fsx::write(lower.join("link1"), "linked");
    std::fs::hard_link(lower.join("link1"), lower.join("d/link2")).unwrap();
    fsx::write(lower.join("gone"), "x");
    fsx::mkdir(lower.join("from"));
    fsx::write(lower.join("from/inside"), "moved");
    let spec = Spec::of(scratch);
    let mount = spec.mount();
    fsx::write_at(&fsx::open_rw(mount.path("d/e/part")), BLOCK as u64, b"changed");
    fsx::chmod(mount.path("d/mode"), 0o600);
    fsx::write(mount.path("whole"), "of the upper");
    fsx::chmod(mount.path("link1"), 0o604);
    std::fs::remove_file(mount.path("gone")).unwrap();
    std::fs::rename(mount.path("from"), mount.path("to")).unwrap();
    fsx::write(mount.path("to/new"), "made here");
    mount.unmount();
    spec
}

fn assert_all_there(root: &Path) {
    let mut part = bytes(1, 5 * BLOCK);
    part[BLOCK..BLOCK + 7].copy_from_slice(b"changed");
    assert_eq!(fsx::read(root.join("d/e/part")), part);
    assert_eq!(fsx::statx(root.join("d/mode")).stx_mode & 0o777, 0o600);
    assert_eq!(fsx::read(root.join("d/mode")), b"of the layer");
    assert_eq!(fsx::read(root.join("whole")), b"of the upper");
    for link in ["link1", "d/link2"] {
        let stat = fsx::statx(root.join(link));
        assert_eq!((stat.stx_mode & 0o777, stat.stx_nlink), (0o604, 2), "{link}");
    }
    assert_eq!(fsx::ino(root.join("link1")), fsx::ino(root.join("d/link2")));
    assert_eq!(fsx::names(root), ["d", "link1", "to", "whole"]);
    assert_eq!(fsx::names(root.join("to")), ["inside", "new"]);
}

mount_tests! {
    fn over_a_copy_of_its_layer(scratch) {
        overcoat_only!();
        let spec = changed(scratch);
        let copied = scratch.path("copied");
        copy("-a", &scratch.lower(), &copied);
        let mount = spec.clone().lowers(&[copied]).mount();
        assert_all_there(mount.root());
        mount.unmount();
        store::assert_clean(&scratch.upper());
        // And back again.
        let mount = spec.mount();
        assert_all_there(mount.root());
    }

    fn over_a_layer_unpacked_from_tar_that_keeps_seconds(scratch) {
        overcoat_only!();
        let spec = changed(scratch);
        let (archive, unpacked) = (scratch.path("layer.tar"), scratch.dir("unpacked"));
        let tar = |args: &[&std::ffi::OsStr]| tool::run("tar", args);
        let (archive, lower) = (archive.as_os_str(), scratch.lower());
        tar(&["--format=ustar".as_ref(), "-cf".as_ref(), archive, "-C".as_ref(), lower.as_os_str(), ".".as_ref()]);
        tar(&["-xf".as_ref(), archive, "-C".as_ref(), unpacked.as_os_str()]);
        let mount = spec.lowers(&[unpacked]).mount();
        assert_all_there(mount.root());
    }

    fn layers_come_and_go_on_top_and_below(scratch) {
        overcoat_only!();
        let spec = changed(scratch);
        let (top, bottom) = (scratch.dir("top"), scratch.dir("bottom"));
        fsx::write(top.join("whole"), "of the top");
        fsx::write(top.join("gone"), "stays gone");
        fsx::mkdir(bottom.join("from"));
        fsx::write(bottom.join("from/below"), "merged");
        let more = [top, scratch.lower(), bottom];
        let mount = spec.clone().lowers(&more).mount();
        assert_eq!(fsx::read(mount.path("whole")), b"of the upper");
        assert!(!fsx::exists(mount.path("gone")));
        assert_eq!(fsx::names(mount.path("to")), ["below", "inside", "new"]);
        // What the layers have as well must be hidden when the entry goes.
        std::fs::remove_file(mount.path("whole")).unwrap();
        assert!(!fsx::exists(mount.path("whole")));
        mount.unmount();
        let mount = spec.mount();
        assert!(!fsx::exists(mount.path("whole")));
        assert_eq!(fsx::names(mount.path("to")), ["inside", "new"]);
    }

    fn without_its_layer_the_view_has_what_the_upper_has(scratch) {
        overcoat_only!();
        let spec = changed(scratch);
        let mount = spec.clone().lowers(&[scratch.dir("empty")]).mount();
        assert_eq!(fsx::read(mount.path("whole")), b"of the upper");
        assert_eq!(fsx::read(mount.path("to/new")), b"made here");
        assert_eq!(fsx::statx(mount.path("d/mode")).stx_mode & 0o777, 0o600);
        let eio = Some(Errno::IO.raw_os_error());
        assert_eq!(errno(std::fs::read(mount.path("d/mode"))), eio);
        assert_eq!(errno(std::fs::read(mount.path("d/e/part"))), eio);
        mount.unmount();
        let mount = spec.mount();
        assert_all_there(mount.root());
    }

    /// A file with data of its own never shows another file's bytes; one without follows its lower file.
    fn files_that_are_replaced_on_the_host(scratch) {
        overcoat_only!();
        let spec = changed(scratch);
        let lower = scratch.lower();
        let replaced = [("d/e/part", 5 * BLOCK), ("d/mode", 7), ("whole", 9)];
        for (seed, (name, len)) in replaced.into_iter().enumerate() {
            replace(&lower.join(name), bytes(50 + seed as u64, len));
        }
        let mount = spec.mount();
        assert_eq!(fsx::read(mount.path("whole")), b"of the upper");
        let follows = fsx::statx(mount.path("d/mode"));
        assert_eq!((follows.stx_mode & 0o777, follows.stx_size), (0o600, 7));
        assert_eq!(fsx::read(mount.path("d/mode")), bytes(51, 7));
        assert_eq!(fsx::mtime(mount.path("d/mode")), fsx::mtime(lower.join("d/mode")));
        let stat = std::fs::metadata(mount.path("d/e/part")).unwrap();
        assert_eq!(stat.len(), 5 * BLOCK as u64);
        let eio = Some(Errno::IO.raw_os_error());
        assert_eq!(errno(std::fs::read(mount.path("d/e/part"))), eio);
        mount.unmount();
        store::assert_clean(&scratch.upper());
    }

    /// What was written reads, what is lost is an error: at one descriptor from before.
    fn data_of_its_own_read_without_the_rest(scratch) {
        overcoat_only!();
        let spec = changed(scratch);
        let mount = spec.mount();
        fsx::write_at(&fsx::open_rw(mount.path("d/e/part")), 0, &bytes(9, BLOCK));
        mount.unmount();
        replace(&scratch.lower().join("d/e/part"), bytes(3, 5 * BLOCK));
        let log = scratch.path("log");
        let mount = spec.log(log.clone()).mount();
        let eio = Some(Errno::IO.raw_os_error());
        let opened = std::fs::File::open(mount.path("d/e/part"));
        if let Ok(file) = opened {
            let mut block = vec![0; BLOCK];
            file.read_exact_at(&mut block, 0).unwrap();
            assert_eq!(block, bytes(9, BLOCK));
            assert_eq!(errno(file.read_exact_at(&mut block, 3 * BLOCK as u64)), eio);
        }
        assert_eq!(errno(std::fs::read(mount.path("d/e/part"))), eio);
        mount.unmount();
        let log = String::from_utf8(fsx::read(log)).unwrap();
        let lines = log.lines().filter(|line| line.contains("d/e/part"));
        assert_eq!(lines.count(), 1, "{log}");
    }

    fn a_hard_link_outside_the_layer_does_not_keep_what_was_removed(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("f"), "small");
        std::fs::hard_link(scratch.lower().join("f"), scratch.path("outside")).unwrap();
        let spec = Spec::of(scratch);
        let mount = spec.mount();
        fsx::write(mount.path("f"), vec![1; 8 << 20]);
        std::fs::remove_file(mount.path("f")).unwrap();
        mount.unmount();
        let check = tool::overcoat_run(&["check".as_ref(), scratch.upper().as_os_str()], std::time::Duration::from_secs(20));
        assert_eq!(check.code, Some(0), "{check:?}");
        assert!(check.stdout.contains("without a name: f"), "{check:?}");
        spec.mount().unmount();
        assert!(store::used(&scratch.upper()) < 1 << 20);
        store::assert_clean(&scratch.upper());
    }

    fn other_names_of_a_hard_link_find_what_was_changed(scratch) {
        overcoat_only!();
        let lower = scratch.lower();
        fsx::mkdir(lower.join("far/away"));
        for (first, others) in [("a", ["a2", "far/a3"]), ("b", ["far/away/b2", "far/b3"])] {
            fsx::write(lower.join(first), first);
            for other in others {
                std::fs::hard_link(lower.join(first), lower.join(other)).unwrap();
            }
        }
        let spec = Spec::of(scratch);
        let mount = spec.mount();
        for first in ["a", "b"] {
            fsx::write(mount.path(first), [first, " changed"].concat());
            std::fs::remove_file(mount.path(first)).unwrap();
        }
        mount.unmount();
        for _ in 0..2 {
            let mount = spec.mount();
            for (names, want) in [(["a2", "far/a3"], "a changed"), (["far/away/b2", "far/b3"], "b changed")] {
                let [one, two] = names.map(|name| mount.path(name));
                assert_eq!(fsx::read(&one), want.as_bytes());
                assert_eq!(fsx::ino(&one), fsx::ino(&two));
                assert_eq!(fsx::statx(&two).stx_nlink, 2);
            }
            mount.unmount();
            store::assert_clean(&scratch.upper());
        }
    }

    fn whether_a_directory_is_empty_is_decided_by_names(scratch) {
        overcoat_only!();
        let (old, new) = (scratch.lower(), scratch.dir("new"));
        for name in ["d/x", "e/a", "e/b"] {
            fsx::mkdir(old.join(name).parent().unwrap());
            fsx::write(old.join(name), "");
        }
        let spec = Spec::of(scratch);
        let mount = spec.mount();
        std::fs::remove_file(mount.path("d/x")).unwrap();
        std::fs::remove_file(mount.path("e/a")).unwrap();
        mount.unmount();
        fsx::mkdir(new.join("d"));
        fsx::write(new.join("d/y"), "");
        fsx::whiteout(new.join("d/x"));
        std::fs::remove_file(old.join("e/a")).unwrap();
        fsx::write(old.join("e/c"), "");
        let mount = spec.lowers(&[new, old]).mount();
        let not_empty = Some(Errno::NOTEMPTY.raw_os_error());
        assert_eq!(errno(std::fs::remove_dir(mount.path("d"))), not_empty);
        for name in ["e/b", "e/c"] {
            std::fs::remove_file(mount.path(name)).unwrap();
        }
        std::fs::remove_dir(mount.path("e")).unwrap();
        assert_eq!(fsx::names(mount.root()), ["d"]);
    }

    /// Where the host's numbers fit 31 bits, all do; and what a directory lists is what stat says.
    fn numbers_are_small_stay_and_agree(scratch) {
        overcoat_only!();
        let spec = changed(scratch);
        if fsx::ino(scratch.lower()) >= 1 << 30 {
            return;
        }
        let mount = spec.mount();
        let before = assert_numbers_agree(mount.root());
        assert_numbers_agree(&mount.path("d"));
        let inside = assert_numbers_agree(&mount.path("to"));
        assert!(before.iter().chain(&inside).all(|(_, ino)| *ino < 1 << 31), "{before:?} {inside:?}");
        let cookies = fsx::read_names(fsx::open_dir(mount.root()), usize::MAX);
        assert!(cookies.iter().all(|(_, cookie)| *cookie < 1 << 31), "{cookies:?}");
        fsx::chmod(mount.path("d/e"), 0o700);
        mount.unmount();
        let mount = spec.mount();
        assert_eq!(assert_numbers_agree(mount.root()), before);
        assert_eq!(assert_numbers_agree(&mount.path("to")), inside);
    }

    /// A filestore that the first version made, over layers unpacked anew.
    fn an_upper_of_format_1_is_converted(scratch) {
        overcoat_only!();
        let lower = scratch.lower();
        for dir in ["d/e", "from/sub", "kept"] {
            fsx::mkdir(lower.join(dir));
        }
        for (name, text) in [
            ("d/e/f", "f of the layer"),
            ("a", "a of the layer"),
            ("from/sub/x", "x of the layer"),
            ("kept/y", "y of the layer"),
            ("h1", "linked"),
            ("gone", "gone"),
        ] {
            fsx::write(lower.join(name), text);
            fsx::set_times(lower.join(name), (1_000_000_000, 0), (1_000_000_000, 0)).unwrap();
        }
        std::fs::hard_link(lower.join("h1"), lower.join("kept/h2")).unwrap();
        std::os::unix::fs::symlink("a", lower.join("link")).unwrap();
        fsx::write(store::path(&scratch.upper()), include_bytes!("format1.filestore"));
        let spec = Spec::of(scratch);
        for _ in 0..2 {
            let mount = spec.mount();
            let mode = |name: &str| fsx::statx(mount.path(name)).stx_mode & 0o777;
            assert_eq!(fsx::names(mount.root()), ["a", "d", "h1", "kept", "link", "made", "to"]);
            assert_eq!((fsx::read(mount.path("a")), mode("a")), (b"a of the layer".to_vec(), 0o600));
            assert_eq!(fsx::read(mount.path("d/e/f")), b"f of the upper");
            assert_eq!(fsx::names(mount.path("to/sub")), ["new", "x"]);
            assert_eq!(fsx::read(mount.path("to/sub/new")), b"new");
            assert_eq!(fsx::read(mount.path("to/sub/x")), b"x of the layer");
            assert_eq!(mode("to/sub/x"), 0o640);
            assert_eq!(fsx::read(mount.path("made/file")), b"made");
            assert_eq!((fsx::read(mount.path("h1")), mode("h1")), (b"linked".to_vec(), 0o604));
            assert_eq!(fsx::get_xattr(mount.path("kept"), "user.k").unwrap(), b"v");
            let link = std::fs::symlink_metadata(mount.path("link")).unwrap();
            assert_eq!((link.uid(), link.gid()), (7, 8));
            assert_eq!(std::fs::read_link(mount.path("link")).unwrap(), Path::new("a"));
            assert_numbers_agree(mount.root());
            mount.unmount();
            store::assert_clean(&scratch.upper());
        }
    }
}
