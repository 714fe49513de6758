//! What changing a lower file costs, and what stays the same through it.

use std::time::Instant;

use overcoat_tests::rng::bytes;
use overcoat_tests::{Scratch, Spec, fsx, mount_tests, overcoat_only, store};
use rustix::fs::OFlags;

/// A lower file of 1 GiB, of data or sparse, and the space that the filestore took for `change` on it.
fn cost(scratch: &Scratch, sparse: bool, change: impl FnOnce(&std::path::Path)) -> u64 {
    let path = scratch.lower().join("big");
    if sparse {
        fsx::sparse_file(&path, 1 << 30);
    } else {
        let file = std::fs::File::create(&path).unwrap();
        let chunk = bytes(1, 1 << 20);
        for number in 0..1024 {
            fsx::write_at(&file, number << 20, &chunk);
        }
    }
    let mount = Spec::of(scratch).mount();
    let before = store::used(&scratch.upper());
    let start = Instant::now();
    change(&mount.path("big"));
    eprintln!("change of a 1 GiB lower file: {:?}", start.elapsed());
    mount.unmount();
    let after = store::used(&scratch.upper());
    store::assert_clean(&scratch.upper());
    after.saturating_sub(before)
}

fn write_a_byte(path: &std::path::Path) {
    let file = fsx::open_rw(path);
    fsx::write_at(&file, 123_456_789, b"!");
    assert_eq!(file.metadata().unwrap().len(), 1 << 30);
    file.sync_all().unwrap();
}

mount_tests! {
    fn a_byte_into_a_gibibyte(scratch) {
        overcoat_only!();
        let cost = cost(scratch, false, write_a_byte);
        assert!(cost < 100 << 10, "{cost} bytes");
        let mount = Spec::of(scratch).mount();
        let (above, below) =
            (fsx::open_ro(mount.path("big")), fsx::open_ro(scratch.lower().join("big")));
        let around = |file| fsx::read_at(file, 123_456_000, 2000);
        let mut want = around(&below);
        want[789] = b'!';
        assert!(around(&above) == want);
        assert!(fsx::read_at(&above, (1 << 30) - 9, 99) == fsx::read_at(&below, (1 << 30) - 9, 99));
    }

    fn a_byte_into_a_sparse_gibibyte(scratch) {
        overcoat_only!();
        let cost = cost(scratch, true, write_a_byte);
        assert!(cost < 100 << 10, "{cost} bytes");
        let mount = Spec::of(scratch).mount();
        assert!(fsx::statx(mount.path("big")).stx_blocks * 512 < 100 << 10, "its holes are gone");
    }

    fn metadata_copies_no_data(scratch) {
        overcoat_only!();
        let cost = cost(scratch, true, |path| {
            let beside = |name: &str| path.with_file_name(name);
            fsx::chmod(path, 0o600);
            fsx::chown(path, 1, 2);
            fsx::set_times(path, (1, 1), (2, 2)).unwrap();
            fsx::set_xattr(path, "user.x", b"y").unwrap();
            std::fs::hard_link(path, beside("link")).unwrap();
            std::fs::rename(path, beside("moved")).unwrap();
            assert!(fsx::read_at(&fsx::open_ro(beside("link")), 0, 4096) == bytes(1, 4096));
            std::fs::remove_file(beside("moved")).unwrap();
            fsx::open(beside("link"), OFlags::WRONLY | OFlags::TRUNC).unwrap();
        });
        assert!(cost < 100 << 10, "{cost} bytes");
    }

    fn inode_numbers_stay(scratch) {
        let lower = scratch.lower();
        fsx::mkdir(lower.join("d"));
        for name in ["f", "d/g"] {
            fsx::write(lower.join(name), "x");
        }
        std::os::unix::fs::symlink("f", lower.join("l")).unwrap();
        let mount = Spec::of(scratch).mount();
        let names = ["f", "d", "d/g", "l"];
        let before = names.map(|name| fsx::ino(mount.path(name)));
        fsx::write_at(&fsx::open_rw(mount.path("f")), 0, b"y");
        fsx::chmod(mount.path("d"), 0o700);
        fsx::open(mount.path("d/g"), OFlags::WRONLY | OFlags::TRUNC).unwrap();
        fsx::chown(mount.path("l"), 1, 1);
        assert_eq!(names.map(|name| fsx::ino(mount.path(name))), before);
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert_eq!(names.map(|name| fsx::ino(mount.path(name))), before, "after a remount");
    }

    fn a_reader_opened_before_sees_what_is_written_after(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("f"), "old old old");
        // Not so with passthrough: `passthrough::a_writer_beside_a_reader_works_on_the_upper`.
        let mount = Spec::of(scratch).option("passthrough=off").mount();
        let reader = fsx::open_ro(mount.path("f"));
        assert_eq!(fsx::read_at(&reader, 0, 99), b"old old old");
        fsx::write_at(&fsx::open_rw(mount.path("f")), 4, b"new");
        assert_eq!(fsx::read_at(&reader, 0, 99), b"old new old");
        let mut appender = fsx::open(mount.path("f"), OFlags::WRONLY | OFlags::APPEND).unwrap();
        fsx::append(&mut appender, b" more");
        assert_eq!(fsx::read_at(&reader, 0, 99), b"old new old more");
        fsx::open(mount.path("f"), OFlags::WRONLY | OFlags::TRUNC).unwrap();
        assert_eq!(fsx::read_at(&reader, 0, 99), b"");
        assert_eq!(reader.metadata().unwrap().len(), 0);
    }

    fn hard_links_in_a_lower_stay_one_file(scratch) {
        let lower = scratch.lower();
        fsx::mkdir(lower.join("d"));
        fsx::write(lower.join("a"), "x");
        std::fs::hard_link(lower.join("a"), lower.join("d/b")).unwrap();
        let mount = Spec::of(scratch).mount();
        // Through a name that has not been looked up before the change.
        fsx::write(mount.path("a"), "written by a");
        assert_eq!(fsx::read(mount.path("d/b")), b"written by a");
        assert_eq!(fsx::ino(mount.path("a")), fsx::ino(mount.path("d/b")));
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::read(mount.path("d/b")), b"written by a");
        fsx::chmod(mount.path("d/b"), 0o600);
        assert_eq!(fsx::statx(mount.path("a")).stx_mode & 0o777, 0o600);
        std::fs::remove_file(mount.path("a")).unwrap();
        assert_eq!(fsx::statx(mount.path("d/b")).stx_nlink, 1);
    }

    fn a_lower_cut_and_grown_again_shows_zeros(scratch) {
        let data = bytes(4, 100_000);
        fsx::write(scratch.lower().join("f"), &data);
        let mount = Spec::of(scratch).mount();
        let file = fsx::open_rw(mount.path("f"));
        file.set_len(10_000).unwrap();
        fsx::write_at(&file, 50_000, b"far");
        mount_check(&fsx::read(mount.path("f")), &data);
        drop(file);
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        mount_check(&fsx::read(mount.path("f")), &data);
    }
}

fn mount_check(now: &[u8], data: &[u8]) {
    assert_eq!(now.len(), 50_003);
    assert!(now[..10_000] == data[..10_000]);
    assert!(now[10_000..50_000].iter().all(|byte| *byte == 0), "the lower shines through");
    assert_eq!(&now[50_000..], b"far");
}
