//! The two lowers that every run starts from: a bit of everything.

use std::path::{Path, PathBuf};

use overcoat_tests::fsx::{self, acl, acl_tag};
use overcoat_tests::rng::bytes;
use rustix::fs::FileType;

/// Makes them below `root`; topmost first.
pub fn make(root: &Path) -> Vec<PathBuf> {
    let (top, bottom) = (root.join("top"), root.join("bottom"));
    fill_bottom(&bottom);
    fill_top(&top);
    for layer in [&top, &bottom] {
        make_old(layer);
    }
    vec![top, bottom]
}

fn fill_bottom(root: &Path) {
    for directory in ["d0", "d0/e", "d1", "d1/e", "d2", "d3", "t", "u", "m/e"] {
        fsx::mkdir(root.join(directory));
        for (number, name) in ["a", "b", "c", "x"].into_iter().enumerate() {
            let seed = directory.len() * 10 + number;
            fsx::write(root.join(directory).join(name), bytes(seed as u64, seed * 500));
        }
    }
    for name in ["a", "b", "c", "d0/h", "d1/h"] {
        fsx::write(root.join(name), bytes(name.len() as u64, 5000));
    }
    fsx::write(root.join("big"), bytes(1, 300_000));
    fsx::sparse_file(root.join("sparse"), 2 << 20);
    fsx::write(root.join("hard0"), bytes(2, 9000));
    for link in ["hard1", "d1/hard2"] {
        std::fs::hard_link(root.join("hard0"), root.join(link)).unwrap();
    }
    for (target, link) in [("a", "s"), ("d0/e", "d0/s"), ("nowhere", "d1/s"), ("../d1", "d2/s")] {
        std::os::unix::fs::symlink(target, root.join(link)).unwrap();
    }
    fsx::mknod(root.join("null"), FileType::CharacterDevice, 0o666, (1, 3)).unwrap();
    fsx::mknod(root.join("fifo"), FileType::Fifo, 0o644, (0, 0)).unwrap();
    attributes(root);
}

fn attributes(root: &Path) {
    fsx::write(root.join("suid"), bytes(3, 100));
    fsx::chmod(root.join("suid"), 0o6777);
    fsx::chmod(root.join("t"), 0o1777);
    for name in ["u", "u/a", "u/b", "t/a", "d0/a", "d0"] {
        fsx::chown(root.join(name), 1000, 1000);
    }
    fsx::chmod(root.join("d1"), 0o2777);
    fsx::chown(root.join("d1"), 0, 1001);
    for (name, key) in
        [("x", "user.a"), ("d0/x", "trusted.a"), ("d1/x", "user.b"), ("d0", "user.a")]
    {
        if !fsx::exists(root.join(name)) {
            fsx::write(root.join(name), "x");
        }
        fsx::set_xattr(root.join(name), key, b"from below").unwrap();
    }
    let list = acl(&[
        (acl_tag::USER_OBJ, 7, acl_tag::NO_ID),
        (acl_tag::USER, 7, 1000),
        (acl_tag::GROUP_OBJ, 5, acl_tag::NO_ID),
        (acl_tag::MASK, 7, acl_tag::NO_ID),
        (acl_tag::OTHER, 5, acl_tag::NO_ID),
    ]);
    fsx::write(root.join("acl"), bytes(4, 100));
    fsx::set_xattr(root.join("acl"), "system.posix_acl_access", &list).unwrap();
    fsx::set_xattr(root.join("d3"), "system.posix_acl_access", &list).unwrap();
    fsx::set_xattr(root.join("d3"), "system.posix_acl_default", &list).unwrap();
}

fn fill_top(root: &Path) {
    for directory in ["d0/e", "d1", "d2"] {
        fsx::mkdir(root.join(directory));
    }
    fsx::write(root.join("d0/a"), bytes(50, 7000));
    fsx::write(root.join("d0/e/n"), bytes(51, 100));
    fsx::write(root.join("d2/a"), bytes(52, 4096));
    fsx::whiteout(root.join("d0/b"));
    fsx::whiteout(root.join("b"));
    fsx::whiteout(root.join("d1/e"));
    fsx::set_xattr(root.join("d2"), "trusted.overlay.opaque", b"y").unwrap();
    // A file where there is a directory below.
    fsx::write(root.join("m"), bytes(53, 10));
    fsx::chmod(root.join("d0"), 0o775);
    fsx::chown(root.join("d0"), 1000, 1000);
}

/// Gives everything a time of long ago, so that a forgotten update shows.
pub fn make_old(root: &Path) {
    for entry in std::fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            make_old(&entry.path());
        }
        fsx::set_times(entry.path(), (1_111_111_111, 1), (1_222_222_222, 2)).unwrap();
    }
    fsx::set_times(root, (1_111_111_111, 1), (1_222_222_222, 2)).unwrap();
}
