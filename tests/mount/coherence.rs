//! What descriptors and mappings see through a copy-up, and what many at once may do to files of layers.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memmap2::{Mmap, MmapMut, MmapOptions};
use overcoat_tests::rng::{Rng, bytes};
use overcoat_tests::{
    Mount, Scratch, SetOnDrop, Spec, fsx, manifest, mount_tests, overcoat_only, store,
};
use rustix::fs::{self, AtFlags, CWD, FallocateFlags, OFlags, RenameFlags};
use rustix::io::Errno;

const SIZE: usize = 20_000;

/// Everything that can be held of a file while others change it.
struct Held {
    reader: File,
    writer: Option<File>,
    appender: Option<File>,
    path_only: File,
    map: Mmap,
    map_mut: Option<MmapMut>,
}

impl Held {
    /// With `writers`, the file is open for writing, too: that alone copies up on overlayfs.
    fn open(path: &Path, writers: bool) -> Self {
        let reader = fsx::open_ro(path);
        let writer = writers.then(|| fsx::open_rw(path));
        // SAFETY: nobody looks past the end of a file that was cut.
        let map = unsafe { MmapOptions::new().len(SIZE).map(&reader) }.unwrap();
        // SAFETY: as above.
        let map_mut = writer
            .as_ref()
            .map(|file| unsafe { MmapOptions::new().len(SIZE).map_mut(file) }.unwrap());
        // The pages are there before the change.
        assert_eq!(map.iter().map(|byte| usize::from(*byte)).max(), Some(255));
        Self {
            reader,
            writer,
            appender: writers
                .then(|| fsx::open(path, OFlags::RDWR | OFlags::APPEND))
                .transpose()
                .unwrap(),
            path_only: fsx::open(path, OFlags::PATH).unwrap(),
            map,
            map_mut,
        }
    }

    /// All of them show `want`, and the attributes of `path` if it still has one.
    fn check(&self, want: &[u8], path: Option<&Path>, what: &str) {
        let descriptors = [
            Some(&self.reader),
            self.writer.as_ref(),
            self.appender.as_ref(),
            Some(&self.path_only),
        ];
        let fresh = path.map(|path| fs::lstat(path).unwrap());
        for (number, file) in descriptors.into_iter().flatten().enumerate() {
            let stat = fs::fstat(file).unwrap();
            assert_eq!(stat.st_size as usize, want.len(), "{what}: descriptor {number}, size");
            if let Some(fresh) = &fresh {
                let shown = |stat: &fs::Stat| {
                    (stat.st_ino, stat.st_mode, stat.st_uid, stat.st_nlink, stat.st_mtime)
                };
                assert_eq!(shown(&stat), shown(fresh), "{what}: descriptor {number}");
            }
        }
        for file in [Some(&self.reader), self.writer.as_ref(), self.appender.as_ref()] {
            let Some(file) = file else { continue };
            assert!(fsx::read_at(file, 0, 1 << 20) == want, "{what}: bytes of {file:?}");
        }
        let reopened =
            format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.path_only));
        assert!(fsx::read(reopened) == want, "{what}: opened again");
        let mapped = want.len().min(SIZE);
        assert!(self.map[..mapped] == want[..mapped], "{what}: the mapping");
        if let Some(map) = &self.map_mut {
            assert!(map[..mapped] == want[..mapped], "{what}: the writable mapping");
        }
        if let Some(path) = path {
            assert!(fsx::read(path) == want, "{what}: a new descriptor");
        }
    }
}

/// A change of the file at a path and of the bytes that are expected; where the file is then.
type Change = (&'static str, fn(&Path, &mut Vec<u8>) -> Option<&'static str>);

fn put(want: &mut Vec<u8>, at: usize, data: &[u8]) {
    want.resize(want.len().max(at + data.len()), 0);
    want[at..at + data.len()].copy_from_slice(data);
}

const CHANGES: &[Change] = &[
    ("write", |path, want| {
        fsx::write_at(&fsx::open_rw(path), 4090, b"across a page");
        put(want, 4090, b"across a page");
        Some("f")
    }),
    ("append", |path, want| {
        let mut file = fsx::open(path, OFlags::WRONLY | OFlags::APPEND).unwrap();
        fsx::append(&mut file, b"appended");
        want.extend(b"appended");
        Some("f")
    }),
    ("cut", |path, want| {
        fsx::open_rw(path).set_len(5000).unwrap();
        want.truncate(5000);
        Some("f")
    }),
    ("cut and grown", |path, want| {
        let file = fsx::open_rw(path);
        file.set_len(5000).unwrap();
        file.set_len(30_000).unwrap();
        want.truncate(5000);
        want.resize(30_000, 0);
        Some("f")
    }),
    ("emptied by open", |path, want| {
        fsx::open(path, OFlags::WRONLY | OFlags::TRUNC).unwrap();
        want.clear();
        Some("f")
    }),
    ("punched", |path, want| {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fsx::fallocate(&fsx::open_rw(path), mode, 1000, 9000).unwrap();
        want[1000..10_000].fill(0);
        Some("f")
    }),
    ("zeroed past its end", |path, want| {
        fsx::fallocate(&fsx::open_rw(path), FallocateFlags::ZERO_RANGE, 15_000, 9000).unwrap();
        want.truncate(15_000);
        want.resize(24_000, 0);
        Some("f")
    }),
    ("copied into", |path, want| {
        let file = fsx::open_rw(path);
        let (mut from, mut to) = (0, 8192);
        let count =
            fs::copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 4096).unwrap();
        assert_eq!(count, 4096);
        want.copy_within(0..4096, 8192);
        Some("f")
    }),
    ("stored to", |path, want| {
        // SAFETY: nobody cuts the file while this mapping lives.
        let mut map = unsafe { MmapMut::map_mut(&fsx::open_rw(path)) }.unwrap();
        map[12_000..12_006].copy_from_slice(b"stored");
        put(want, 12_000, b"stored");
        Some("f")
    }),
    ("attributes only", |path, _| {
        fsx::chmod(path, 0o4711);
        fsx::chown(path, 1000, 1000);
        fsx::set_times(path, (5, 5), (6, 6)).unwrap();
        Some("f")
    }),
    ("renamed and written", |path, want| {
        std::fs::rename(path, path.with_file_name("moved")).unwrap();
        fsx::write_at(&fsx::open_rw(path.with_file_name("moved")), 0, b"moved");
        put(want, 0, b"moved");
        Some("moved")
    }),
    ("linked and written", |path, want| {
        std::fs::hard_link(path, path.with_file_name("link")).unwrap();
        fsx::write_at(&fsx::open_rw(path.with_file_name("link")), 0, b"linked");
        put(want, 0, b"linked");
        Some("f")
    }),
    ("unlinked, written by who has it open", |path, want| {
        let file = fsx::open_rw(path);
        std::fs::remove_file(path).unwrap();
        fsx::write_at(&file, 100, b"nameless");
        put(want, 100, b"nameless");
        None
    }),
    ("replaced, written by who has it open", |path, want| {
        let file = fsx::open_rw(path);
        fsx::write(path.with_file_name("new"), "another file");
        std::fs::rename(path.with_file_name("new"), path).unwrap();
        fsx::write_at(&file, 100, b"replaced");
        put(want, 100, b"replaced");
        None
    }),
];

/// The file `f` of a directory in a layer: plain, of two names, or the topmost of several.
fn make_file(layers: &[std::path::PathBuf; 2], kind: &str, directory: &str) {
    for layer in layers {
        fsx::mkdir(layer.join(directory));
    }
    let [top, bottom] = layers.each_ref().map(|layer| layer.join(directory));
    fsx::write(bottom.join("f"), bytes(7, SIZE));
    match kind {
        "linked" => std::fs::hard_link(bottom.join("f"), bottom.join("other")).unwrap(),
        "covering" => {
            fsx::write(bottom.join("f"), "covered");
            fsx::write(top.join("f"), bytes(7, SIZE));
        }
        _ => {}
    }
}

/// Runs every change on every kind of file with everything held, each in a directory of its own.
fn hold_through_changes(scratch: &Scratch, option: &str, writers: bool) {
    let layers = [scratch.dir("top"), scratch.dir("bottom")];
    let kinds = ["plain", "linked", "covering"];
    let cases: Vec<_> = kinds
        .into_iter()
        .flat_map(|kind| CHANGES.iter().enumerate().map(move |(at, change)| (kind, at, change)))
        .collect();
    for (kind, at, _) in &cases {
        make_file(&layers, kind, &format!("{kind}.{at}"));
    }
    let spec = Spec::of(scratch).lowers(&layers).option("passthrough=off").option(option);
    let before = layers.each_ref().map(|layer| manifest::of_layer(layer));
    let mount = spec.mount();
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    for (kind, at, (name, change)) in cases {
        let what = format!("{kind}, {name}, {option}, writers: {writers}");
        let directory = mount.path(format!("{kind}.{at}"));
        let held = Held::open(&directory.join("f"), writers);
        let mut want = bytes(7, SIZE);
        let now = change(&directory.join("f"), &mut want);
        let path = now.map(|now| directory.join(now));
        held.check(&want, path.as_deref(), &what);
        // Once more, by a descriptor that was there before, now that the file is the upper's.
        if let Some(writer) = &held.writer {
            fsx::write_at(writer, 50, b"by who was here before");
            put(&mut want, 50, b"by who was here before");
            held.check(&want, path.as_deref(), &what);
        }
        if kind == "linked" && path.is_some() {
            assert!(fsx::read(directory.join("other")) == want, "{what}: its other name");
        }
        if let Some(now) = now {
            kept.push((format!("{kind}.{at}/{now}"), want));
        }
    }
    mount.unmount();
    let mount = spec.mount();
    for (name, want) in kept {
        assert!(fsx::read(mount.path(&name)) == want, "{name} after a new mount");
    }
    mount.unmount();
    for (layer, before) in layers.iter().zip(before) {
        manifest::of_layer(layer).assert_same(&before, "a layer");
    }
    store::assert_clean(&scratch.upper());
}

/// Runs `work` with its number in `count` threads that start together.
fn together(count: usize, work: impl Fn(usize) + Sync) {
    let barrier = Barrier::new(count);
    std::thread::scope(|scope| {
        for number in 0..count {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                work(number);
            });
        }
    });
}

/// One of eight who are the first to change a file of a layer: each its own bytes, attribute and link.
fn one_of_many(mount: &Mount, file: usize, number: usize) {
    let path = mount.path(file.to_string());
    let range = (number * 4096) as u64;
    match number {
        0 => {
            // SAFETY: nobody cuts the file.
            let mut map = unsafe { MmapMut::map_mut(&fsx::open_rw(&path)) }.unwrap();
            map[..4096].fill(b'0');
        }
        1 => {
            let mut file = fsx::open(&path, OFlags::WRONLY | OFlags::APPEND).unwrap();
            fsx::append(&mut file, &[b'1'; 4096]);
        }
        2 => {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fsx::fallocate(&fsx::open_rw(&path), mode, range, 4096).unwrap();
        }
        _ => fsx::write_at(&fsx::open_rw(&path), range, &[b'0' + number as u8; 4096]),
    }
    fsx::set_xattr(&path, &format!("user.{number}"), &[b'v'; 100]).unwrap();
    std::fs::hard_link(&path, mount.path(format!("{file}.{number}"))).unwrap();
}

fn check_many(mount: &Mount, file: usize, writers: usize) {
    let path = mount.path(file.to_string());
    let data = fsx::read(&path);
    assert_eq!(data.len(), (writers + 1) * 4096, "{file}");
    for (number, chunk) in data.chunks(4096).enumerate() {
        // The second one appended; the third one punched; the page of the second is the layer's.
        let want = match number {
            1 => b'l',
            2 => 0,
            _ if number == writers => b'1',
            _ => b'0' + number as u8,
        };
        assert!(chunk.iter().all(|byte| *byte == want), "{file}: page {number}");
    }
    for number in 0..writers {
        let value = fsx::get_xattr(&path, &format!("user.{number}"));
        assert!(value == Ok(vec![b'v'; 100]), "{file}: attribute {number}: {value:?}");
        assert_eq!(fsx::ino(mount.path(format!("{file}.{number}"))), fsx::ino(&path), "{file}");
    }
    assert_eq!(fsx::statx(&path).stx_nlink as usize, writers + 1, "{file}");
}

/// All files below `root`: bytes → path. A storm loses none and makes none twice.
fn contents(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
                continue;
            }
            let place = entry.path().strip_prefix(root).unwrap().display().to_string();
            if let Some(other) = found.insert(fsx::read(entry.path()), place.clone()) {
                panic!("one file at {other} and {place}");
            }
        }
    }
    found
}

mount_tests! {
    fn all_who_hold_a_file_see_every_change(scratch) {
        overcoat_only!();
        hold_through_changes(scratch, "writeback=on", false);
    }

    fn all_who_hold_a_file_see_every_change_written_through(scratch) {
        overcoat_only!();
        hold_through_changes(scratch, "writeback=off", false);
    }

    fn writers_that_hold_a_file_see_every_change(scratch) {
        overcoat_only!();
        hold_through_changes(scratch, "writeback=on", true);
    }

    fn writers_that_hold_a_file_see_every_change_written_through(scratch) {
        overcoat_only!();
        hold_through_changes(scratch, "writeback=off", true);
    }

    fn many_are_the_first_to_change_a_file(scratch) {
        const FILES: usize = 40;
        const WRITERS: usize = 8;
        for file in 0..FILES {
            fsx::write(scratch.lower().join(file.to_string()), vec![b'l'; WRITERS * 4096]);
        }
        let before = manifest::of_layer(&scratch.lower());
        let mount = Spec::of(scratch).mount();
        for file in 0..FILES {
            together(WRITERS, |number| one_of_many(&mount, file, number));
            check_many(&mount, file, WRITERS);
        }
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        (0..FILES).for_each(|file| check_many(&mount, file, WRITERS));
        mount.unmount();
        manifest::of_layer(&scratch.lower()).assert_same(&before, "the layer");
    }

    fn many_raise_one_directory_at_once(scratch) {
        for round in 0..20 {
            fsx::mkdir(scratch.lower().join(format!("{round}/a/b/c/d")));
        }
        let mount = Spec::of(scratch).mount();
        for round in 0..20 {
            let deepest = mount.path(format!("{round}/a/b/c/d"));
            together(8, |number| match number % 2 {
                0 => fsx::write(deepest.join(number.to_string()), "x"),
                _ => fsx::mkdir(deepest.join(number.to_string())),
            });
            assert_eq!(fsx::names(&deepest).len(), 8);
        }
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        for round in 0..20 {
            assert_eq!(fsx::names(mount.path(format!("{round}/a/b/c/d"))).len(), 8);
        }
    }

    fn a_storm_of_renames_loses_nothing(scratch) {
        const THREADS: usize = 6;
        const MOVES: usize = 400;
        let layers: Vec<_> = (0..4).map(|layer| scratch.dir(&format!("layer{layer}"))).collect();
        let directories = ["a", "b", "a/s", "b/s", "c"];
        let mut made = BTreeSet::new();
        for (number, layer) in layers.iter().enumerate() {
            for directory in directories {
                fsx::mkdir(layer.join(directory));
                for file in 0..10 {
                    let data = format!("{number} {directory} {file}");
                    fsx::write(layer.join(directory).join(format!("{number}-{file}")), &data);
                    made.insert(data.into_bytes());
                }
                // Names that never move.
                fsx::mkdir(layer.join(directory).join(format!("steady{number}")));
            }
        }
        let spec = Spec::of(scratch).lowers(&layers);
        let before: Vec<_> = layers.iter().map(|layer| manifest::of_layer(layer)).collect();
        let mount = spec.mount();
        let seeds = Rng::from_env("renames").next();
        let moved = AtomicUsize::new(0);
        together(THREADS, |thread| {
            let rng = &mut Rng::new(seeds + thread as u64);
            for _ in 0..MOVES {
                let place = |rng: &mut Rng| {
                    let directory = mount.path(rng.pick(&directories));
                    directory.join(format!("{}-{}", rng.below(4), rng.below(10)))
                };
                // Directories, too, exchange their places with all that is below.
                let (from, to, flags) = match rng.below(10) {
                    0 => (mount.path("a/s"), mount.path("b/s"), RenameFlags::EXCHANGE),
                    1 => (mount.path("a"), mount.path("b"), RenameFlags::EXCHANGE),
                    2 => (mount.path("c"), mount.path("b/s"), RenameFlags::EXCHANGE),
                    3..6 => (place(rng), place(rng), RenameFlags::EXCHANGE),
                    _ => (place(rng), place(rng), RenameFlags::NOREPLACE),
                };
                match fsx::rename_with(from, to, flags) {
                    Ok(()) => _ = moved.fetch_add(1, Ordering::Relaxed),
                    Err(Errno::NOENT | Errno::EXIST) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        assert!(moved.into_inner() > MOVES, "hardly anything moved");
        let now = contents(mount.root());
        assert!(now.keys().eq(&made), "{} of {} files", now.len(), made.len());
        for directory in directories {
            let names = fsx::names(mount.path(directory));
            assert_eq!(names.iter().filter(|name| name.starts_with("steady")).count(), 4);
        }
        mount.unmount();
        let mount = spec.mount();
        assert_eq!(contents(mount.root()), now, "after a new mount");
        mount.unmount();
        for (layer, before) in layers.iter().zip(before) {
            manifest::of_layer(layer).assert_same(&before, "a layer");
        }
    }

    fn a_listing_of_many_layers_holds_while_their_entries_come_and_go(scratch) {
        let layers: Vec<_> = (0..8).map(|layer| scratch.dir(&format!("layer{layer}"))).collect();
        for (number, layer) in layers.iter().enumerate() {
            fsx::mkdir(layer.join("d"));
            for file in 0..100 {
                fsx::write(layer.join("d").join(format!("steady-{number}-{file}")), "");
                // In all layers: the names that go are found below again.
                fsx::write(layer.join("d").join(format!("passing-{file}")), "");
            }
        }
        let mount = Spec::of(scratch).lowers(&layers).mount();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = SetOnDrop(&stop);
            for part in 0..2 {
                let (mount, stop) = (&mount, &stop);
                scope.spawn(move || {
                    let mut round = part;
                    while !stop.load(Ordering::Relaxed) {
                        let path = mount.path(format!("d/passing-{}", round % 100));
                        std::fs::remove_file(&path).unwrap();
                        let made = fsx::open(&path, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY);
                        made.unwrap();
                        let moved = mount.path(format!("moved-{part}"));
                        std::fs::rename(&path, &moved).unwrap();
                        fs::linkat(CWD, &moved, CWD, &path, AtFlags::empty()).unwrap();
                        std::fs::remove_file(moved).unwrap();
                        round += 2;
                    }
                });
            }
            for _ in 0..40 {
                let listed = fsx::read_names(fsx::open_dir(mount.path("d")), usize::MAX);
                let steady: Vec<_> =
                    listed.iter().filter(|(name, _)| name.as_bytes().starts_with(b"s")).collect();
                let distinct: HashSet<_> = steady.iter().map(|(name, _)| name).collect();
                assert_eq!((steady.len(), distinct.len()), (800, 800), "twice or missed");
            }
        });
        assert_eq!(fsx::names(mount.path("d")).len(), 900);
    }
}
