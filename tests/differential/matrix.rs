//! Every operation on every kind of object, over 1, 2 and 8 layers: what it comes to, and the trees right after
//! and after a new mount, as on kernel overlayfs.
//!
//! Each pair has a directory of its own, `OPERATION.OBJECT`, with the object `o` and beside it, from the lowest
//! layer: a file `f`, an empty directory `d`, a directory `D` that is not empty. What is made is called `n`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use overcoat_tests::fsx::{self, acl, acl_tag};
use overcoat_tests::mount::OVERLAYFS;
use overcoat_tests::rng::bytes;
use overcoat_tests::{Disk, Driver, Scratch, Spec, manifest, store};
use rustix::fs::FileType;

use crate::compare::{Verdict, Writeback, become_user, describe, verdict};
use crate::lowers;
use crate::op::Op::{self, *};
use crate::op::{Falloc, Node, Open, Path, Rename as How};
use crate::view::View;

/// The layers, topmost first, and the directory of the pair that is being made.
struct Layers<'a> {
    roots: &'a [PathBuf],
    pair: &'a str,
}

impl Layers<'_> {
    /// A path in a layer; the directories above are made.
    fn at(&self, layer: usize, name: &str) -> PathBuf {
        let path = self.roots[layer].join(self.pair).join(name);
        fsx::mkdir(path.parent().unwrap());
        path
    }

    fn top(&self, name: &str) -> PathBuf {
        self.at(0, name)
    }

    fn middle(&self, name: &str) -> PathBuf {
        self.at(self.roots.len() / 2, name)
    }

    fn bottom(&self, name: &str) -> PathBuf {
        self.at(self.roots.len() - 1, name)
    }

    /// Whether something of the bottom can be covered.
    fn several(&self) -> bool {
        self.roots.len() > 1
    }

    /// A whiteout in the topmost layer, if there are several: in a directory that is not merged overlayfs lists
    /// it, but does not find it.
    fn whiteout(&self, name: &str) {
        if self.several() {
            fsx::whiteout(self.top(name));
        }
    }
}

const SIZE: usize = 9000;

/// Who owns everything in `two_layers_of_a_user`.
const USER: u32 = 1000;

fn file(path: PathBuf) {
    fsx::write(path, bytes(1, SIZE));
}

fn directory(path: PathBuf) {
    fsx::mkdir(path.join("e"));
    file(path.join("a"));
    file(path.join("e/a"));
}

fn access_list() -> Vec<u8> {
    acl(&[
        (acl_tag::USER_OBJ, 7, acl_tag::NO_ID),
        (acl_tag::USER, 7, 1000),
        (acl_tag::GROUP_OBJ, 5, acl_tag::NO_ID),
        (acl_tag::MASK, 7, acl_tag::NO_ID),
        (acl_tag::OTHER, 5, acl_tag::NO_ID),
    ])
}

/// `CAP_NET_RAW`, permitted and effective, as file capabilities of revision 2.
fn capability() -> Vec<u8> {
    [0x0200_0001_u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

type Object = (&'static str, fn(&Layers));

const OBJECTS: &[Object] = &[
    ("missing", |_| ()),
    ("file", |layers| file(layers.bottom("o"))),
    ("empty_file", |layers| fsx::write(layers.bottom("o"), "")),
    ("file_in_all", |layers| {
        for layer in 0..layers.roots.len() {
            fsx::write(layers.at(layer, "o"), bytes(layer as u64, SIZE + layer));
        }
    }),
    ("file_over_directory", |layers| {
        if layers.several() {
            directory(layers.bottom("o"));
        }
        file(layers.top("o"));
    }),
    ("hard_link", |layers| {
        file(layers.bottom("o"));
        std::fs::hard_link(layers.bottom("o"), layers.bottom("h")).unwrap();
        std::fs::hard_link(layers.bottom("o"), layers.bottom("D/h")).unwrap();
    }),
    ("hard_link_covered", |layers| {
        // Of its two names below, one is covered by another file.
        file(layers.bottom("o"));
        std::fs::hard_link(layers.bottom("o"), layers.bottom("h")).unwrap();
        if layers.several() {
            fsx::write(layers.top("h"), "covers");
        }
    }),
    ("sparse", |layers| fsx::sparse_file(layers.bottom("o"), 1 << 20)),
    ("xattrs", |layers| {
        file(layers.middle("o"));
        for name in ["user.a", "trusted.a", "security.a"] {
            fsx::set_xattr(layers.middle("o"), name, name.as_bytes()).unwrap();
        }
    }),
    ("acl", |layers| {
        file(layers.bottom("o"));
        fsx::set_xattr(layers.bottom("o"), "system.posix_acl_access", &access_list()).unwrap();
    }),
    ("capability", |layers| {
        file(layers.bottom("o"));
        fsx::chown(layers.bottom("o"), 1000, 1001);
        fsx::chmod(layers.bottom("o"), 0o6755);
        fsx::set_xattr(layers.bottom("o"), "security.capability", &capability()).unwrap();
    }),
    ("symlink", |layers| std::os::unix::fs::symlink("f", layers.bottom("o")).unwrap()),
    ("symlink_to_directory", |layers| std::os::unix::fs::symlink("D", layers.bottom("o")).unwrap()),
    ("dangling_symlink", |layers| std::os::unix::fs::symlink("n", layers.bottom("o")).unwrap()),
    ("fifo", |layers| fsx::mknod(layers.bottom("o"), FileType::Fifo, 0o644, (0, 0)).unwrap()),
    ("device", |layers| {
        fsx::mknod(layers.bottom("o"), FileType::CharacterDevice, 0o644, (1, 3)).unwrap();
    }),
    ("whiteout", |layers| {
        if layers.several() {
            file(layers.bottom("o"));
        }
        layers.whiteout("o");
    }),
    ("whiteout_of_directory", |layers| {
        if layers.several() {
            directory(layers.bottom("o"));
        }
        layers.whiteout("o");
    }),
    ("file_over_whiteout", |layers| {
        directory(layers.bottom("o"));
        if layers.roots.len() > 2 {
            fsx::whiteout(layers.middle("o"));
            file(layers.top("o"));
        }
    }),
    ("empty_directory", |layers| fsx::mkdir(layers.bottom("o"))),
    ("directory", |layers| directory(layers.bottom("o"))),
    ("merged", |layers| {
        for layer in 0..layers.roots.len() {
            directory(layers.at(layer, "o"));
            fsx::write(layers.at(layer, &format!("o/of_{layer}")), "x");
        }
    }),
    ("opaque", |layers| {
        directory(layers.bottom("o"));
        fsx::mkdir(layers.top("o"));
        if layers.several() {
            fsx::write(layers.top("o/e"), "a file over a directory that is not merged");
        }
        fsx::set_xattr(layers.top("o"), "trusted.overlay.opaque", b"y").unwrap();
    }),
    ("emptied", |layers| {
        fsx::mkdir(layers.bottom("o"));
        fsx::mkdir(layers.top("o"));
        if layers.several() {
            directory(layers.bottom("o"));
        }
        layers.whiteout("o/a");
        layers.whiteout("o/e");
    }),
    ("directory_over_file", |layers| {
        if layers.several() {
            file(layers.bottom("o"));
        }
        directory(layers.top("o"));
    }),
    ("directory_over_whiteout", |layers| {
        if layers.roots.len() > 2 {
            directory(layers.bottom("o"));
            fsx::whiteout(layers.middle("o"));
        }
        fsx::mkdir(layers.top("o"));
        file(layers.top("o/a"));
    }),
    ("directory_with_all", |layers| {
        directory(layers.bottom("o"));
        fsx::mkdir(layers.top("o"));
        for path in [layers.bottom("o"), layers.top("o")] {
            fsx::chown(&path, 1000, 1001);
            fsx::chmod(&path, 0o3775);
            fsx::set_xattr(&path, "user.a", b"value").unwrap();
            fsx::set_xattr(&path, "system.posix_acl_access", &access_list()).unwrap();
            fsx::set_xattr(&path, "system.posix_acl_default", &access_list()).unwrap();
        }
    }),
];

/// The paths of one pair.
struct Names {
    o: Path,
    f: Path,
    d: Path,
    full: Path,
    n: Path,
    /// Below `o`.
    a: Path,
    /// Below `o`.
    new: Path,
    /// Below `d`.
    moved: Path,
    here: Path,
}

impl Names {
    fn of(pair: &str) -> Self {
        let path = |name: &str| -> Path { format!("{pair}/{name}").leak() };
        Self {
            o: path("o"),
            f: path("f"),
            d: path("d"),
            full: path("D"),
            n: path("n"),
            a: path("o/a"),
            new: path("o/new"),
            moved: path("d/moved"),
            here: pair.to_owned().leak(),
        }
    }
}

type Operation = (&'static str, fn(&Names) -> Vec<Op>);

const OPERATIONS: &[Operation] = &[
    ("write", |p| vec![Write(p.o, 10, 100, 1), Read(p.o), Stat(p.o)]),
    ("write_far", |p| vec![Write(p.o, 70_000, 10, 1), Read(p.o)]),
    ("append", |p| vec![Append(p.o, 5000, 2), Read(p.o)]),
    ("map_write", |p| vec![MapWrite(p.o, 4000, 200, 3), Read(p.o)]),
    ("truncate_to_0", |p| vec![Truncate(p.o, 0), Stat(p.o)]),
    ("truncate_down_up", |p| vec![Truncate(p.o, 100), Truncate(p.o, 8192), Read(p.o)]),
    ("truncate_up", |p| vec![Truncate(p.o, 1 << 21), Read(p.o)]),
    ("open_truncate", |p| vec![Open(0, p.o, Open::ReadWriteTruncate), FdStat(0), Close(0)]),
    ("open_create", |p| vec![Open(0, p.o, Open::CreateReadWrite), FdWrite(0, 5, 10, 1), Close(0)]),
    ("open_only", |p| vec![Open(0, p.o, Open::ReadWrite), FdStat(0), Close(0)]),
    ("allocate", |p| vec![Fallocate(p.o, Falloc::Allocate, 5000, 9000), Read(p.o)]),
    ("keep_size", |p| vec![Fallocate(p.o, Falloc::KeepSize, 5000, 9000), Read(p.o)]),
    ("punch", |p| vec![Fallocate(p.o, Falloc::Punch, 1000, 4000), Read(p.o)]),
    ("zero", |p| vec![Fallocate(p.o, Falloc::Zero, 8000, 4000), Read(p.o)]),
    ("copy_range_to", |p| vec![CopyRange(p.f, p.o, 100, 5000, 8000), Read(p.o)]),
    ("copy_range_from", |p| vec![CopyRange(p.o, p.f, 100, 5000, 8000), Read(p.f)]),
    ("copy_range_within", |p| vec![CopyRange(p.o, p.o, 0, 5000, 3000), Read(p.o)]),
    ("chmod", |p| vec![Chmod(p.o, 0o4751), Stat(p.o)]),
    ("chown", |p| vec![Chown(p.o, Some(1000), Some(1000)), Stat(p.o)]),
    ("chgrp", |p| vec![Chown(p.o, None, Some(5)), Stat(p.o)]),
    ("utimens", |p| vec![Utimens(p.o, -1, 1 << 33), Stat(p.o)]),
    ("set_xattr", |p| vec![SetXattr(p.o, "user.a", 50), ListXattr(p.o)]),
    ("set_trusted", |p| vec![SetXattr(p.o, "trusted.b", 50), ListXattr(p.o)]),
    ("remove_xattr", |p| vec![RemoveXattr(p.o, "user.a"), GetXattr(p.o, "user.a")]),
    ("remove_capability", |p| vec![RemoveXattr(p.o, "security.capability")]),
    ("set_acl", |p| vec![SetAcl(p.o, false, 5), Stat(p.o)]),
    ("remove_acl", |p| vec![RemoveXattr(p.o, "system.posix_acl_access"), Stat(p.o)]),
    ("set_default_acl", |p| vec![SetAcl(p.o, true, 5), Create(p.new, 0o666), Mkdir(p.a, 0o777)]),
    ("link", |p| vec![Link(p.o, p.n), Write(p.n, 0, 10, 1), Stat(p.o), Read(p.o)]),
    ("link_onto", |p| vec![Link(p.f, p.o), Stat(p.f)]),
    ("rename", |p| vec![Rename(p.o, p.n, How::Replace), Readdir(p.n), Stat(p.n)]),
    ("rename_and_back", |p| {
        vec![Rename(p.o, p.n, How::Replace), Rename(p.n, p.o, How::Replace), Readdir(p.o)]
    }),
    ("rename_and_again", |p| {
        vec![Rename(p.o, p.n, How::Replace), Mkdir(p.o, 0o700), Readdir(p.o), Readdir(p.n)]
    }),
    ("rename_into", |p| vec![Rename(p.o, p.moved, How::NoReplace), Readdir(p.moved)]),
    ("rename_within", |p| vec![Rename(p.a, p.new, How::NoReplace), Readdir(p.o)]),
    ("rename_onto_file", |p| vec![Rename(p.o, p.f, How::Replace), Stat(p.f)]),
    ("rename_onto_empty", |p| vec![Rename(p.o, p.d, How::Replace), Readdir(p.d)]),
    ("rename_onto_full", |p| vec![Rename(p.o, p.full, How::Replace), Readdir(p.full)]),
    ("file_onto", |p| vec![Rename(p.f, p.o, How::Replace), Stat(p.o)]),
    ("directory_onto", |p| vec![Rename(p.d, p.o, How::Replace), Readdir(p.o)]),
    ("full_onto", |p| vec![Rename(p.full, p.o, How::Replace), Readdir(p.o)]),
    ("noreplace_onto", |p| vec![Rename(p.f, p.o, How::NoReplace)]),
    ("exchange_file", |p| vec![Rename(p.o, p.f, How::Exchange), Stat(p.o), Stat(p.f)]),
    ("exchange_full", |p| vec![Rename(p.o, p.full, How::Exchange), Readdir(p.o), Readdir(p.full)]),
    ("unlink", |p| vec![Unlink(p.o), Stat(p.o), Readdir(p.here)]),
    ("rmdir", |p| vec![Rmdir(p.o), Stat(p.o), Readdir(p.here)]),
    ("unlink_create", |p| vec![Unlink(p.o), Create(p.o, 0o600), Stat(p.o)]),
    ("unlink_mkdir", |p| vec![Unlink(p.o), Mkdir(p.o, 0o700), Readdir(p.o)]),
    ("rmdir_mkdir", |p| vec![Rmdir(p.o), Mkdir(p.o, 0o700), Readdir(p.o)]),
    ("mkdir", |p| vec![Mkdir(p.o, 0o1777), Readdir(p.o)]),
    ("create", |p| vec![Create(p.o, 0o640), Stat(p.o)]),
    ("symlink", |p| vec![Symlink("f", p.o), Readlink(p.o)]),
    ("mknod", |p| vec![Mknod(p.o, Node::Char(1, 3), 0o600), Stat(p.o)]),
    ("tmpfile", |p| vec![Tmpfile(0, p.here), FdWrite(0, 0, 10, 1), LinkTmpfile(0, p.o), Close(0)]),
    ("tmpfile_below", |p| vec![Tmpfile(0, p.o), LinkTmpfile(0, p.new), FdStat(0), Close(0)]),
    ("create_below", |p| vec![Create(p.new, 0o666), Mkdir(p.a, 0o700), Readdir(p.o)]),
    ("empty_below", |p| vec![Unlink(p.a), Readdir(p.o), Create(p.a, 0o644), Readdir(p.o)]),
    ("write_below", |p| vec![Write(p.a, 10, 100, 4), Link(p.a, p.new), Readdir(p.o)]),
    ("unlink_held", |p| {
        let held = [FdWrite(0, 100, 100, 1), FdTruncate(0, 300), FdRead(0, 0, 9999), FdStat(0)];
        let mut ops = vec![Open(0, p.o, Open::ReadWrite), Unlink(p.o)];
        ops.extend(held);
        ops.extend([LinkTmpfile(0, p.n), Close(0)]);
        ops
    }),
    ("rename_held", |p| {
        let mut ops = vec![Open(0, p.o, Open::ReadWrite), Rename(p.o, p.n, How::Replace)];
        ops.extend([FdWrite(0, 100, 100, 1), FdChmod(0, 0o600), Read(p.n), Close(0)]);
        ops
    }),
    ("replace_held", |p| {
        let mut ops = vec![Open(0, p.o, Open::ReadWrite), Rename(p.f, p.o, How::Replace)];
        ops.extend([FdWrite(0, 100, 100, 1), FdRead(0, 0, 9999), Read(p.o), Close(0)]);
        ops
    }),
    ("directory_held", |p| {
        let mut ops = vec![Open(0, p.o, Open::Directory), Create(p.new, 0o644), Unlink(p.a)];
        ops.extend([FdReaddir(0), Rename(p.o, p.n, How::Replace), FdReaddir(0), Close(0)]);
        ops
    }),
];

/// What has happened to the objects before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    /// They have been copied up, and mounted anew.
    CopyUp,
}

fn make_layers(roots: &[PathBuf]) {
    for (operation, _) in OPERATIONS {
        for (object, make) in OBJECTS {
            let layers = Layers { roots, pair: &format!("{operation}.{object}") };
            file(layers.bottom("f"));
            fsx::mkdir(layers.bottom("d"));
            fsx::mkdir(layers.bottom("D"));
            fsx::write(layers.bottom("D/x"), "x");
            make(&layers);
        }
    }
    for root in roots {
        fsx::mkdir(root);
        lowers::make_old(root);
    }
}

/// Runs all pairs; a line for each difference.
fn run_pairs(user: u32, ours: &mut View, theirs: &mut View, faults: &mut Vec<String>) {
    for (pair, ops) in pairs(user) {
        for op in ops(&Names::of(&pair)) {
            let (our_result, their_result) = (ours.run(&op), theirs.run(&op));
            if our_result == their_result
                || !matches!(verdict(&op, &our_result, &their_result), Verdict::Fault)
            {
                continue;
            }
            let (ours, theirs) = (describe(&our_result), describe(&their_result));
            faults.push(format!("{op:?}: ours {ours}, overlayfs {theirs}"));
        }
        ours.close(0);
        theirs.close(0);
    }
}

fn copy_up(view: &mut View) {
    for (pair, _) in pairs(0) {
        let names = Names::of(&pair);
        for op in [Chmod(names.o, 0o750), Write(names.o, 4096, 10, 9), Chmod(names.a, 0o604)] {
            // Not all objects take this; whether they do is compared elsewhere.
            view.run(&op).ok();
        }
    }
}

/// Left out when a user runs them: operation, object, why overlayfs is not to be followed.
const DEVIATIONS: &[(&str, &str, &str)] = &[
    (
        "remove_acl",
        "capability",
        "setgid goes with a group that is not the owner's; on ext4 it stays",
    ),
    ("remove_acl", "directory_with_all", "the same"),
];

/// The pairs that `user` runs, and the names of their directories.
fn pairs(user: u32) -> impl Iterator<Item = (String, fn(&Names) -> Vec<Op>)> {
    let all = OPERATIONS
        .iter()
        .flat_map(|operation| OBJECTS.iter().map(move |(object, _)| (operation, *object)));
    all.filter(move |((operation, _), object)| {
        let deviates = DEVIATIONS
            .iter()
            .any(|(an_operation, an_object, _)| (an_operation, an_object) == (operation, object));
        user == 0 || !deviates
    })
    .map(|((operation, ops), object)| (format!("{operation}.{object}"), *ops))
}

/// Gives the user all that does not lose something by it.
fn give_away(path: &std::path::Path) {
    let stat = fsx::statx(path);
    if stat.stx_mode & 0o6000 == 0 {
        fsx::chown(path, USER, USER);
    }
    if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
        for entry in std::fs::read_dir(path).unwrap() {
            give_away(&entry.unwrap().path());
        }
    }
}

fn check(count: usize, before: Before, writeback: Writeback) {
    check_as(0, count, before, writeback);
}

fn check_as(user: u32, count: usize, before: Before, writeback: Writeback) {
    if !overcoat_tests::can_mount() {
        return;
    }
    let scratch = Scratch::new("matrix");
    let disk = Disk::in_memory(&scratch, 256);
    let lowers: Vec<_> = (0..count).map(|layer| disk.dir(&format!("layers/{layer}"))).collect();
    make_layers(&lowers);
    if user != 0 {
        lowers.iter().for_each(|lower| give_away(lower));
    }
    let as_made: Vec<_> = lowers.iter().map(|lower| manifest::of_layer(lower)).collect();
    let spec = |name: &str, driver| Spec {
        driver,
        lowers: lowers.clone(),
        upper: Some(disk.dir(&format!("{name}-upper"))),
        point: scratch.dir(&format!("{name}-mnt")),
        options: vec!["noatime".to_owned(), format!("writeback={}", writeback.option())],
        log: None,
        descriptors: None,
        overlayfs: OVERLAYFS,
    };
    let mut ours = View::new(spec("ours", Driver::from_env()));
    let mut theirs = View::new(spec("theirs", Driver::Overlayfs));
    if before == Before::CopyUp {
        for view in [&mut ours, &mut theirs] {
            copy_up(view);
            view.remount(false);
        }
    }
    let mut faults = Vec::new();
    become_user(user);
    run_pairs(user, &mut ours, &mut theirs, &mut faults);
    become_user(0);
    let mut seen = BTreeSet::new();
    for when in ["right after", "after a new mount"] {
        let difference = ours.manifest().difference(&theirs.manifest());
        for line in difference.lines() {
            if seen.insert(line.to_owned()) {
                faults.push(format!("{when}: {line}"));
            }
        }
        ours.remount(before == Before::CopyUp);
        theirs.remount(false);
    }
    ours.end();
    theirs.end();
    for (lower, as_made) in lowers.iter().zip(as_made) {
        manifest::of_layer(lower).assert_same(&as_made, "a layer has been changed");
    }
    if Driver::from_env() == Driver::Overcoat {
        store::assert_clean(&disk.dir("ours-upper"));
    }
    let count = faults.len();
    assert!(faults.is_empty(), "{count} differences (ours | overlayfs):\n{}", faults.join("\n"));
}

#[test]
fn one_layer() {
    check(1, Before::Nothing, Writeback::On);
    check(1, Before::CopyUp, Writeback::Off);
}

#[test]
fn two_layers() {
    check(2, Before::Nothing, Writeback::Off);
    check(2, Before::CopyUp, Writeback::On);
}

/// An unprivileged writer loses setuid, setgid and capabilities of what it writes, and may not do all.
#[test]
fn two_layers_of_a_user() {
    check_as(USER, 2, Before::Nothing, Writeback::On);
    check_as(USER, 2, Before::CopyUp, Writeback::Off);
}

#[test]
fn eight_layers() {
    check(8, Before::Nothing, Writeback::On);
    check(8, Before::CopyUp, Writeback::Off);
}
