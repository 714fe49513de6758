use super::*;
use crate::attr::{Caller, FileType};
use crate::config::{Config, Durability, IdMap, Medium};
use crate::upper::Dentry;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

const ROOT: InodeNo = InodeNo::ROOT;
const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0 };

fn open(dir: &Path) -> Arc<Overlay> {
    let (lower, upper) = (dir.join("lower"), dir.join("upper"));
    for dir in [&lower, &upper] {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::write(lower.join("f"), "below").unwrap();
    Overlay::new(&Config {
        lowers: vec![lower],
        upper: Some(upper),
        medium: Medium::OwnFile,
        size_limit: None,
        inode_limit: None,
        durability: Durability::Volatile,
        idmap: IdMap::default(),
    })
    .unwrap()
}

fn mkdir(overlay: &Overlay, name: &str) -> Result<InodeNo> {
    let made = overlay.mkdir(ROOT, OsStr::new(name), 0o755, 0, &CALLER);
    made.map(|entry| entry.attr.ino)
}

#[test]
fn a_transaction_sees_its_own_writes_and_nobody_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = open(dir.path());
    let d = mkdir(&overlay, "d").unwrap();
    let mut tx = overlay.begin().unwrap();
    let old = tx.image(d).unwrap();
    assert!(old.is_dir() && tx.dentry(ROOT, b"new").is_none() && tx.xattr(d, b"user.a").is_none());

    let ino = tx.new_number().unwrap();
    let image = InodeImage { mode: FileType::Regular.mode_bits(), nlink: 1, ..old };
    tx.put(Record::Inode { ino, image });
    tx.put(Record::Link { parent: ROOT, ino, hides_lower: false, name: b"new" });
    assert_eq!(tx.image(ino), Some(image));
    assert_eq!(tx.dentry(ROOT, b"new"), Some(Dentry::Inode { ino, hides_lower: false }));
    assert!(tx.dentry(d, b"new").is_none() && tx.committed(ino).is_none());

    let time = Time { sec: 7, nsec: 8 };
    tx.put(Record::Times { ino, mtime: time, ctime: time });
    tx.put(Record::Size { ino, size: 9, origin_len: None });
    let want = InodeImage { mtime: time, ctime: time, size: 9, ..image };
    assert_eq!((tx.image(ino), tx.image(d)), (Some(want), Some(old)));
    tx.put(Record::SetXattr { ino, name: b"user.a", value: b"1" });
    tx.put(Record::SetXattr { ino, name: b"user.a", value: b"2" });
    assert_eq!(tx.xattr(ino, b"user.a"), Some(&b"2"[..]));
    tx.put(Record::RemoveXattr { ino, name: b"user.a" });
    assert_eq!(tx.xattr(ino, b"user.a"), None);

    tx.put(Record::Whiteout { parent: ROOT, name: b"f" });
    tx.put(Record::Unlink { parent: ROOT, name: b"d" });
    assert_eq!(tx.dentry(ROOT, b"f"), Some(Dentry::Whiteout));
    assert_eq!(tx.dentry(ROOT, b"d"), None);
    tx.put(Record::Drop { ino });
    assert_eq!(tx.image(ino), None);
    drop(tx);
    assert_eq!(overlay.begin().unwrap().image(d), Some(old));
    assert!(overlay.lookup(ROOT, OsStr::new("f")).unwrap().is_some());
    overlay.destroy();
}

#[test]
fn a_record_that_does_not_fit_ends_all_changes_and_the_next_mount_works() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = open(dir.path());
    let before = mkdir(&overlay, "before").unwrap();
    let mut tx = overlay.begin().unwrap();
    tx.put(Record::Link { parent: ROOT, ino: InodeNo(4711), hides_lower: false, name: b"x" });
    assert_eq!(tx.commit(Urgency::Normal).map(drop), Err(Errno::IO));
    assert_eq!(mkdir(&overlay, "after"), Err(Errno::ROFS));
    assert_eq!(overlay.unlink(ROOT, OsStr::new("f")), Err(Errno::ROFS));
    assert_eq!(overlay.getattr(before).unwrap().ino, before);
    overlay.destroy();
    drop(overlay);

    let overlay = open(dir.path());
    let found = overlay.lookup(ROOT, OsStr::new("before")).unwrap();
    assert_eq!(found.map(|entry| entry.attr.ino), Some(before));
    assert!(overlay.lookup(ROOT, OsStr::new("after")).unwrap().is_none());
    mkdir(&overlay, "after").unwrap();
    overlay.destroy();
}
