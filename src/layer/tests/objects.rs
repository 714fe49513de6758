//! Attributes, numbers, data and extended attributes of single objects.

use super::*;
use crate::attr::{InodeNo, LayerId, Time};
use crate::config::IdRange;
use crate::errno::Errno;
use crate::layer::OpenFile;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;

#[test]
fn attributes_are_the_hosts() {
    let l = Layers::new(1);
    l.file(0, "f");
    let path = l.path(0, "f");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4751)).expect("set");
    let old = rustix::fs::Timespec { tv_sec: -5, tv_nsec: 7 };
    let times = rustix::fs::Timestamps { last_access: old, last_modification: old };
    rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).expect("set");
    let host = std::fs::metadata(&path).expect("attributes");
    l.each_way(|s| {
        let f = s.find("f").expect("there");
        assert_eq!(s.stat(&f.at), Ok(f.attr));
        assert_eq!((f.attr.mode, f.attr.size, f.attr.nlink), (0o104751, 1, 1));
        assert_eq!((f.attr.blocks, f.attr.uid), (host.blocks(), host.uid()));
        assert_eq!(
            (f.attr.atime, f.attr.mtime),
            (Time { sec: -5, nsec: 7 }, Time { sec: -5, nsec: 7 })
        );
        assert_eq!({ f.attr.ctime.sec }, host.ctime());
        assert!(f.attr.btime.sec > 0);
        assert_eq!(f.attr.ino, InodeNo(host.ino()));
    });
}

#[test]
fn owners_go_through_the_mapping() {
    if !is_root("chown") {
        return;
    }
    let l = Layers::new(1);
    l.file(0, "f").file(0, "g");
    std::os::unix::fs::chown(l.path(0, "f"), Some(100_005), Some(50)).expect("owned");
    let uid = vec![IdRange { inside: 0, outside: 100_000, count: 10 }];
    let open = |map: &IdMap| Stack::open(None, &l.lowers(), map).expect("a stack");
    let map = IdMap { uid, squash_gid: Some(9), ..IdMap::default() };
    let s = open(&map);
    let owner = |name| s.find(name).map(|n| (n.attr.uid, n.attr.gid)).expect("there");
    assert_eq!((owner("f"), owner("g")), ((5, 9), (65534, 9)));
}

#[test]
fn hard_links_share_a_number_across_layers_too() {
    let l = Layers::new(2);
    l.file(0, "a").file(1, "c");
    std::fs::hard_link(l.path(0, "a"), l.path(0, "b")).expect("linked");
    std::fs::hard_link(l.path(0, "a"), l.path(1, "d")).expect("linked");
    l.each_way(|s| {
        let ino = |name: &str| s.find(name).expect("there").attr.ino;
        assert_eq!(ino("a"), ino("b"));
        assert_eq!(ino("a"), ino("d"));
        assert_eq!(s.find("a").expect("there").attr.nlink, 3);
        assert_eq!(s.listing("").get(b"b").and_then(|e| e.ino), Some(ino("a")));
    });
}

#[test]
fn a_directory_keeps_its_number_when_layers_come_on_top() {
    let l = Layers::new(3);
    (0..3).for_each(|i| _ = l.dir(i, "d/e"));
    let number = |from: usize| {
        let lowers = &l.lowers()[from..];
        let s = Stack::open(None, lowers, &IdMap::default()).expect("a stack");
        s.find("d/e").expect("there").attr.ino
    };
    assert_eq!(number(0), number(2));
    assert_eq!(number(0), number(1));
    let s = l.stack();
    assert_eq!(s.root().expect("a root").attr.ino, InodeNo::ROOT);
    let root = s.root().expect("a root").dirs;
    let listing = s.list(&root).expect("a listing");
    assert_eq!(listing.get(b"d").map(|e| e.ino), Some(None), "known without a look-up");
    s.find_numbers(&root, &listing, 0..usize::MAX);
    assert_eq!(listing.get(b"d").and_then(|e| e.ino), s.find("d").map(|node| node.attr.ino));
}

#[test]
fn the_host_upper_is_the_topmost_layer_without_its_filestore() {
    let l = Layers::new(3);
    l.file(0, "x").file(0, ".overcoat.filestore").file(0, "d/.overcoat.filestore").file(1, "x");
    l.file(2, "y");
    let open = |lowers: &[PathBuf]| {
        Stack::open(Some(&l.path(0, "")), lowers, &IdMap::default()).expect("a stack")
    };
    let s = open(&l.lowers()[1..]);
    assert_eq!(s.names(""), "d x y");
    assert_eq!(s.names("d"), ".overcoat.filestore");
    assert_eq!(s.find(".overcoat.filestore"), None);
    let x = s.find("x").expect("there");
    assert_eq!(x.at.layer, LayerId::HOST_UPPER);
    assert_eq!(s.find("y").expect("there").at.layer, LayerId(1));
    assert_eq!(open(&[]).names(""), "d x");
}

#[test]
fn a_lower_that_has_been_an_upper_shows_no_filestore() {
    let l = Layers::new(2);
    l.file(0, "x").file(1, ".overcoat.filestore").file(1, "d/.overcoat.filestore");
    let s = l.stack();
    assert_eq!(s.names(""), "d x");
    assert_eq!(s.find(".overcoat.filestore"), None);
    assert_eq!(s.names("d"), ".overcoat.filestore");
}

#[test]
fn places_that_the_stack_does_not_have() {
    let l = Layers::new(2);
    l.file(0, "d/f");
    let s = l.stack();
    for layer in [0, 3, 0x7fff, 0x8000, 0xffff] {
        let at = LowerPath { layer: LayerId(layer), path: Arc::from(&b"d"[..]) };
        assert_eq!(s.stat(&at), Err(Errno::STALE), "{layer}");
        assert_eq!(s.list(&[at]).map(|_| ()), Err(Errno::STALE));
    }
    for path in ["/etc", "d/../d", "..", "d//f", "./d", "d/", "d/f/x"] {
        let at = LowerPath { layer: LayerId(2), path: path.as_bytes().into() };
        assert!(s.stat(&at).is_err() && s.open_file(&at).is_err(), "{path}");
        assert!(s.list(&[at]).is_err(), "{path}");
    }
}

#[test]
fn only_regular_files_are_opened_and_only_for_reading() {
    let l = Layers::new(1);
    l.file(0, "f").dir(0, "d");
    symlink("f", l.path(0, "l")).expect("linked");
    mknodat(CWD, l.path(0, "p"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("made");
    let device = is_root("mknod");
    if device {
        let mode = Mode::from_raw_mode(0o666);
        let null = makedev(1, 3);
        mknodat(CWD, l.path(0, "null"), FileType::CharacterDevice, mode, null).expect("made");
    }
    l.each_way(|s| {
        let open = |name: &str| s.open_file(&s.find(name).expect("there").at);
        let OpenFile { file, no_xattrs, attr, key } = open("f").expect("opened");
        let node = s.find("f").expect("there");
        assert!(no_xattrs && attr == node.attr && key == node.key);
        let fd = file.passthrough_fd();
        assert_eq!(fd.is_some(), s.keeps_atime(LayerId(1)));
        assert!(fd.is_none_or(|fd| rustix::io::write(fd, b"x") == Err(Errno::BADF)));
        assert_eq!(open("d").map(|_| ()), Err(Errno::ISDIR));
        assert_eq!(open("l").map(|_| ()), Err(Errno::LOOP));
        assert_eq!(open("p").map(|_| ()), Err(Errno::NXIO));
        if device {
            assert_eq!(open("null").map(|_| ()), Err(Errno::NXIO));
        }
        assert_eq!(s.readlink(&s.find("l").expect("there").at), Ok(b"f".to_vec()));
        assert_eq!(s.readlink(&s.find("f").expect("there").at), Err(Errno::INVAL));
    });
}

#[test]
fn extended_attributes_without_marks() {
    let l = Layers::new(1);
    let large = vec![7; 3000];
    l.file(0, "f").file(0, "bare").xattr(0, "f", "user.a", b"1").xattr(0, "f", "user.b", &large);
    l.xattr(0, "f", "user.overlay.origin", b"z").xattr(0, "f", "user.overlay.overlay.in", b"i");
    symlink("nowhere", l.path(0, "l")).expect("linked");
    l.each_way(|s| {
        let at = s.find("f").expect("there").at;
        let mut all = s.xattrs(&at).expect("attributes");
        all.sort();
        let want = [(&b"user.a"[..], &b"1"[..]), (b"user.b", &large), (b"user.overlay.in", b"i")];
        assert!(all.iter().map(|(n, v)| (&n[..], &v[..])).eq(want));
        let names = s.listxattr(&at).expect("names").expect("some");
        assert_eq!(names.split(|&b| b == 0).filter(|n| !n.is_empty()).count(), 3);
        assert_eq!(s.getxattr(&at, b"user.b"), Ok(large.clone()));
        assert_eq!(s.getxattr(&at, b"user.overlay.in"), Ok(b"i".to_vec()));
        assert_eq!(s.getxattr(&at, b"user.overlay.origin"), Err(Errno::NODATA));
        assert_eq!(s.getxattr(&at, b"user.none"), Err(Errno::NODATA));
        assert_eq!(s.getxattr(&at, b"a\0b"), Err(Errno::INVAL));
        for name in ["bare", "l"] {
            assert_eq!(s.listxattr(&s.find(name).expect("there").at), Ok(None));
        }
    });
}

#[test]
fn wrong_directories_give_one_clear_line() {
    let l = Layers::new(1);
    l.file(0, "f");
    let complain = |upper: Option<&Path>, lowers: &[PathBuf]| {
        Stack::open(upper, lowers, &IdMap::default()).expect_err("wrong").to_string()
    };
    let (none, file) = (l.path(0, "none"), l.path(0, "f"));
    let base = l.path(0, "");
    let text = |p: &Path| p.display().to_string();
    assert_eq!(
        complain(None, &[base.clone(), none.clone()]),
        format!("lowerdir {}: no such directory", text(&none))
    );
    assert_eq!(
        complain(None, std::slice::from_ref(&file)),
        format!("lowerdir {}: not a directory", text(&file))
    );
    assert_eq!(
        complain(Some(&none), &[base]),
        format!("upperdir {}: no such directory", text(&none))
    );
    assert_eq!(complain(None, &[]), "lowerdir: none given");
    let many = vec![none; 40_000];
    assert_eq!(complain(None, &many), "lowerdir: 40000 directories given, 32766 is the limit");
}

#[test]
fn hard_links_have_one_key_and_other_files_another() {
    let l = Layers::new(2);
    l.file(0, "a").file(0, "c").file(1, "low");
    std::fs::hard_link(l.path(0, "a"), l.path(0, "b")).expect("linked");
    // Also across layers: the key is the host's, not the layer's.
    std::fs::hard_link(l.path(1, "low"), l.path(0, "high")).expect("linked");
    let s = l.stack();
    let key = |path: &str| s.find(path).expect("there").key;
    assert_eq!(key("a"), key("b"));
    assert_eq!(key("low"), key("high"));
    assert_ne!(key("a"), key("c"));
    let at = s.find("a").expect("there").at;
    assert_eq!(s.stat_with_key(&at).map(|(_, key)| key), Ok(key("a")));
}

#[test]
fn a_number_given_to_another_file_has_another_key() {
    let l = Layers::new(1);
    l.file(0, "f");
    let s = l.stack();
    let old = s.find("f").expect("there").key;
    std::fs::remove_file(l.path(0, "f")).expect("removed");
    l.file(0, "f");
    let new = s.find("f").expect("there").key;
    // The host may or may not have given the number out again.
    assert_ne!(new, old);
}

#[test]
fn layers_are_known_by_what_they_are() {
    let l = Layers::new(3);
    let of = |lowers: &[PathBuf]| {
        let s = Stack::open(None, lowers, &IdMap::default()).expect("a stack");
        s.identities().map(|(_, identity)| identity).collect::<Vec<_>>()
    };
    let all = of(&l.lowers());
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    assert_eq!(of(&[l.path(2, ""), l.path(0, "")]), [all[2], all[0]]);
    // The name of a layer is no part of it.
    std::fs::rename(l.path(1, ""), l.path(7, "")).expect("renamed");
    assert_eq!(of(&[l.path(7, "")]), [all[1]]);
}

#[test]
fn paths_are_resolved_in_the_merged_view_of_the_layers() {
    let l = Layers::new(2);
    l.file(0, "d/top").file(1, "d/low").file(1, "d/sub/f").file(0, "file");
    symlink("d", l.path(0, "link")).expect("linked");
    let s = l.stack();
    for path in ["", "d", "d/top", "d/low", "d/sub", "d/sub/f", "file", "link"] {
        assert_eq!(s.resolve(path.as_bytes()).expect("resolved"), s.find(path), "{path}");
        assert!(s.find(path).is_some());
    }
    for path in ["none", "d/none", "file/x", "link/top", "none/x"] {
        assert_eq!(s.resolve(path.as_bytes()), Ok(None), "{path}");
    }
    assert_eq!(s.resolve(b"d//top"), Err(Errno::INVAL));
    assert_eq!(s.resolve(b"../x"), Err(Errno::INVAL));
}
