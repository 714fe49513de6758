use super::*;
use crate::attr::{LayerId, Time};
use crate::block::StoreBlock;
use crate::journal::record::Stamp;
use crate::journal::record::decode_all;

fn image(mode: u32, nlink: u32) -> InodeImage {
    let t = Time { sec: 5, nsec: 6 };
    InodeImage {
        mode,
        uid: 0,
        gid: 0,
        nlink,
        rdev: 0,
        size: 0,
        atime: t,
        mtime: t,
        ctime: t,
        btime: t,
    }
}

fn origin(len: u64) -> OriginImage {
    let stamp = Stamp { size: len, mtime: Time { sec: 5, nsec: 6 } };
    OriginImage { layer: RecordedLayer(1), len, stamp, blocks: 8, several_names: false }
}

fn sample() -> Tree {
    let (root, d, f) = (InodeNo::ROOT, InodeNo(2), InodeNo(3));
    let mut tree = Tree::default();
    let records = [
        Record::Inode { ino: root, image: image(0o040755, 1) },
        Record::Layer { id: RecordedLayer(1), identity: 99, place: LayerId(1) },
        Record::Below { ino: root, below: BelowImage::SameName, untouched: true },
        Record::Inode { ino: d, image: image(0o040755, 1) },
        Record::Link { parent: root, ino: d, hides_lower: false, name: b"d" },
        Record::Inode { ino: f, image: image(0o100644, 1) },
        Record::Origin { ino: f, origin: origin(100_000), path: b"usr/f" },
        Record::Size { ino: f, size: 100_000, origin_len: Some(100_000) },
        Record::Map { ino: f, at: FileBlock(3), block: StoreBlock(10), len: 4 },
        Record::Hole { ino: f, at: FileBlock(9), len: 2 },
        Record::Link { parent: d, ino: f, hides_lower: false, name: b"f" },
        Record::SetXattr { ino: f, name: b"user.x", value: b"v" },
        Record::Whiteout { parent: root, name: b"gone" },
    ];
    let mut freed = Vec::new();
    for r in &records {
        tree.apply(r, &mut freed).expect("applies");
    }
    assert!(freed.is_empty());
    tree
}

fn encoded(tree: &Tree) -> Vec<String> {
    let mut all = Vec::new();
    tree.snapshot(&mut |bytes| {
        all.extend(decode_all(bytes).map(|r| format!("{:?}", r.expect("well formed"))));
        Ok(())
    })
    .expect("no sink error");
    all.sort();
    all
}

#[test]
fn a_snapshot_makes_the_same_tree() {
    let tree = sample();
    let mut again = Tree::default();
    tree.snapshot(&mut |bytes| {
        for r in decode_all(bytes) {
            again.apply(&r.expect("well formed"), &mut Vec::new()).expect("applies");
        }
        Ok(())
    })
    .expect("no sink error");
    assert_eq!(encoded(&tree), encoded(&again));
    assert_eq!(tree.next_number(), again.next_number());
    assert_eq!(tree.data_blocks(), again.data_blocks());
    assert_eq!(tree.faults(), vec![]);
}

#[test]
fn truncation_frees_blocks_and_cuts_the_origin() {
    let mut tree = sample();
    let f = InodeNo(3);
    let mut freed = Vec::new();
    tree.apply(&Record::Size { ino: f, size: 5 * 4096, origin_len: Some(5 * 4096) }, &mut freed)
        .expect("applies");
    assert_eq!(freed, vec![Extent { start: StoreBlock(12), len: 2 }]);
    tree.apply(&Record::Size { ino: f, size: 1 << 30, origin_len: None }, &mut freed)
        .expect("applies");
    let (map, origin) = tree.get(f).and_then(Inode::file).expect("a file");
    assert_eq!(origin.map(|o| o.image.len), Some(5 * 4096));
    assert_eq!((map.data_blocks(), tree.data_blocks()), (2, 2));
    freed.clear();
    tree.apply(&Record::Drop { ino: f }, &mut freed).expect("applies");
    assert_eq!(freed, vec![Extent { start: StoreBlock(10), len: 2 }]);
    assert_eq!(tree.data_blocks(), 0);
}

#[test]
fn live_bytes_come_back_to_nothing() {
    let mut tree = sample();
    for ino in [3, 2, 1] {
        tree.apply(&Record::Drop { ino: InodeNo(ino) }, &mut Vec::new()).expect("applies");
    }
    assert_eq!(tree.len(), 0);
    assert_eq!(tree.live_bytes(), 0);
}

#[test]
fn an_estimate_of_a_checkpoint_is_near_it() {
    let tree = sample();
    let mut size = 0;
    tree.snapshot(&mut |bytes| {
        size += bytes.len() as u64;
        Ok(())
    })
    .expect("no sink error");
    assert!(size <= tree.live_bytes() && tree.live_bytes() <= 3 * size, "{size} {tree:?}");
}

#[test]
fn a_directory_is_untouched_until_something_changes_it() {
    let root = InodeNo::ROOT;
    let t = Time { sec: 9, nsec: 0 };
    let changes = [
        Record::Times { ino: root, mtime: t, ctime: t },
        Record::Inode { ino: root, image: image(0o040700, 1) },
        Record::SetXattr { ino: root, name: b"user.x", value: b"v" },
    ];
    for change in &changes {
        let mut tree = sample();
        let is_untouched = |tree: &Tree| tree.get(root).and_then(Inode::dir).map(|d| d.untouched);
        assert_eq!(is_untouched(&tree), Some(true));
        tree.apply(change, &mut Vec::new()).expect("applies");
        assert_eq!(is_untouched(&tree), Some(false), "{change:?}");
    }
}

#[test]
fn what_has_several_names_may_be_without_an_entry() {
    let mut tree = sample();
    let f = InodeNo(3);
    let apply = |tree: &mut Tree, record| tree.apply(&record, &mut Vec::new()).expect("applies");
    assert_eq!(tree.nameless(), vec![]);
    apply(&mut tree, Record::Whiteout { parent: InodeNo(2), name: b"f" });
    assert_eq!(tree.faults().len(), 1);
    let origin = OriginImage { several_names: true, ..origin(100_000) };
    apply(&mut tree, Record::Origin { ino: f, origin, path: b"usr/f" });
    assert_eq!((tree.nameless(), tree.faults()), (vec![f], vec![]));
    apply(&mut tree, Record::Link { parent: InodeNo(2), ino: f, hides_lower: true, name: b"f" });
    assert_eq!((tree.nameless(), tree.faults()), (vec![], vec![]));
}

#[test]
fn numbers_of_new_inodes_come_round() {
    let mut tree = Tree::default();
    assert_eq!(tree.next_number().0, InodeNo::MADE_HERE.start);
    let mut put = |number: u64| {
        let image = image(0o100644, 1);
        tree.apply(&Record::Inode { ino: InodeNo(number), image }, &mut Vec::new()).expect("fits");
        tree.next_number().0
    };
    assert_eq!(put(77), InodeNo::MADE_HERE.start, "a number of a layer");
    assert_eq!(put((1 << 30) + 5), (1 << 30) + 6);
    assert_eq!(put(1 << 30), (1 << 30) + 1);
}

#[test]
fn hostile_records_are_refused() {
    let mut tree = sample();
    let root = InodeNo::ROOT;
    let bad = [
        Record::Link { parent: root, ino: InodeNo(99), hides_lower: false, name: b"x" },
        Record::Link { parent: InodeNo(3), ino: root, hides_lower: false, name: b"x" },
        Record::Link { parent: root, ino: root, hides_lower: false, name: b"a/b" },
        Record::Inode { ino: root, image: image(0o100644, 1) },
        Record::Map { ino: InodeNo(3), at: FileBlock(u64::MAX), block: StoreBlock(1), len: 2 },
        Record::Map { ino: InodeNo(3), at: FileBlock(0), block: StoreBlock(u64::MAX), len: 2 },
        Record::Origin { ino: InodeNo(3), origin: origin(1), path: b"../etc" },
        Record::Origin { ino: root, origin: origin(1), path: b"etc" },
        Record::Below { ino: root, below: BelowImage::Path(b"a//b"), untouched: false },
        Record::Below { ino: InodeNo(3), below: BelowImage::SameName, untouched: false },
        Record::Times { ino: InodeNo(99), mtime: Time::default(), ctime: Time::default() },
        // A seek adds to it.
        Record::Origin { ino: InodeNo(3), origin: origin(u64::MAX), path: b"usr/f" },
    ];
    for r in &bad {
        assert!(tree.apply(r, &mut Vec::new()).is_err(), "{r:?}");
    }
}

/// A checksum that fits does not make a record an honest one.
#[test]
fn hostile_records_are_refused_or_do_no_harm() {
    use crate::filestore::faulty::Rng;
    const NAMES: [&[u8]; 5] = [b"a", b"b", b"", b"..", b"x/y"];
    for seed in 0..3000 {
        let mut rng = Rng::new(seed);
        let (mut tree, mut freed) = (sample(), Vec::new());
        for _ in 0..rng.below(60) {
            let ino = InodeNo([0, 1, 2, 3, 4, 5, 1 << 48, u64::MAX][rng.below(8) as usize]);
            let parent = InodeNo(rng.below(6));
            let name = NAMES[rng.below(5) as usize];
            let mut number = || {
                let n = rng.draw();
                [n % 8, 1 << (n % 64), u64::MAX - n % 3, i64::MAX as u64 + n % 3, (1 << 51) - n % 9]
                    [(n / 64 % 5) as usize]
            };
            let (at, block, len) = (number(), number(), number());
            let mode = [0o100644, 0o040755, 0o120777, 0o020000, 0][(number() % 5) as usize];
            let image = InodeImage { size: len, ..image(mode, at as u32) };
            let record = match rng.below(13) {
                0 | 1 => Record::Inode { ino, image },
                2 => Record::Drop { ino },
                3 | 4 => Record::Link { parent, ino, hides_lower: at % 2 == 0, name },
                5 => Record::Whiteout { parent, name },
                6 => Record::Unlink { parent, name },
                7 => Record::Map { ino, at: FileBlock(at), block: StoreBlock(block), len },
                8 => Record::Hole { ino, at: FileBlock(at), len },
                9 => Record::Size { ino, size: at, origin_len: Some(len) },
                10 => Record::Origin { ino, origin: origin(len), path: name },
                11 => Record::Below { ino, below: BelowImage::Path(name), untouched: true },
                _ => Record::NextInode { next: at },
            };
            // Refused or not: what follows must hold either way.
            drop(tree.apply(&record, &mut freed));
        }
        for (ino, inode) in tree.inodes() {
            let attr = inode.attr(ino);
            assert!(attr.size <= i64::MAX as u64, "seed {seed}");
        }
        let mut again = Tree::default();
        let copied = tree.snapshot(&mut |group| {
            for record in decode_all(group) {
                // An entry whose inode was dropped does not replay, and is told as a fault.
                drop(again.apply(&record.expect("a record"), &mut Vec::new()));
            }
            Ok(())
        });
        assert!(copied.is_ok() && again.len() == tree.len(), "seed {seed}");
        let whole = tree.faults().is_empty();
        assert!(!whole || again.faults().is_empty(), "seed {seed}");
    }
}
