//! Every spelling of a whiteout and of an opaque directory, redirects, metacopy.

use super::*;
use crate::errno::Errno;

#[test]
fn layers_merge_and_the_topmost_wins() {
    let l = Layers::new(3);
    l.file(0, "d/x").file(1, "d/x").file(1, "d/y").file(2, "d/z").file(2, "e/f").file(1, "e");
    l.each_way(|s| {
        assert_eq!(s.names(""), "d e");
        assert_eq!(s.names("d"), "x y z");
        assert_eq!([s.content("d/x"), s.content("d/y"), s.content("d/z")], ["0", "1", "2"]);
        assert_eq!(s.content("e"), "1");
        let d = s.find("d").expect("there");
        assert_eq!((d.dirs.len(), d.attr.nlink), (3, 1));
        assert_eq!(s.find("none"), None);
    });
}

#[test]
fn a_device_is_a_whiteout() {
    if !is_root("mknod") {
        return;
    }
    let l = Layers::new(3);
    l.whiteout(0, "a").file(1, "a").file(1, "b").whiteout(1, "d").file(2, "d/x").file(2, "b");
    l.whiteout(2, "bottom").dir(0, "d");
    l.each_way(|s| {
        assert_eq!(s.names(""), "b d");
        assert_eq!(s.names("d"), "");
        assert_eq!(s.find("a"), None);
        assert_eq!(s.find("bottom"), None);
        assert_eq!(s.find("d").expect("there").dirs.len(), 1);
    });
}

#[test]
fn another_device_is_none() {
    if !is_root("mknod") {
        return;
    }
    let l = Layers::new(1);
    let mode = Mode::from_raw_mode(0o644);
    mknodat(CWD, l.path(0, "null"), FileType::CharacterDevice, mode, makedev(1, 3)).expect("made");
    mknodat(CWD, l.path(0, "far"), FileType::BlockDevice, mode, makedev(259, 70000)).expect("made");
    l.each_way(|s| {
        assert_eq!(s.names(""), "far null");
        assert_eq!(s.find("null").expect("there").attr.rdev, 0x103);
        let rdev = (70000 & 0xff) | 259 << 8 | (70000 & !0xff) << 12;
        assert_eq!(s.find("far").expect("there").attr.rdev, rdev);
    });
}

#[test]
fn opaque_directories() {
    let mut spellings = vec![("user.overlay.opaque", true)];
    if is_root("trusted attributes") {
        spellings.push(("trusted.overlay.opaque", true));
        // Meant for an overlay inside: an ordinary attribute here.
        spellings.push(("trusted.overlay.overlay.opaque", false));
    }
    for (name, hides) in spellings {
        let l = Layers::new(3);
        l.file(0, "d/x").file(1, "d/y").file(2, "d/z").xattr(1, "d", name, b"y");
        l.each_way(|s| {
            assert_eq!(s.names("d"), if hides { "x y" } else { "x y z" }, "{name}");
            let ino = s.find("d").expect("there").attr.ino.0;
            assert_eq!(ino, l.host_ino(if hides { 1 } else { 2 }, "d"));
        });
    }
}

#[test]
fn an_opaque_root_hides_the_layers_below() {
    let l = Layers::new(3);
    l.file(0, "x").file(1, "y").file(2, "z").xattr(1, "", "user.overlay.opaque", b"y");
    assert_eq!(l.stack().names(""), "x y");
}

#[test]
fn whiteouts_of_aufs() {
    let l = Layers::new(3);
    l.empty(0, ".wh.a").file(1, "a").file(2, "a");
    // A whiteout beside the name hides only what lies below.
    l.file(1, "b/new").empty(1, ".wh.b").file(2, "b/old");
    l.file(0, "f").empty(0, ".wh.f").file(1, "f");
    l.empty(1, ".wh..wh.plnk").empty(2, ".wh..wh.aufs").empty(2, ".wh.stray").file(2, "c");
    l.each_way(|s| {
        assert_eq!(s.names(""), "b c f");
        assert_eq!(s.names("b"), "new");
        assert_eq!(s.content("f"), "0");
        for name in ["a", ".wh.a", ".wh..wh.plnk", ".wh..wh..opq", ".wh.none", "stray"] {
            assert_eq!(s.find(name), None, "{name}");
        }
    });
}

#[test]
fn aufs_opaque_directories() {
    let l = Layers::new(3);
    l.file(0, "d/x").file(1, "d/y").empty(1, "d/.wh..wh..opq").file(2, "d/z");
    l.each_way(|s| {
        assert_eq!(s.names("d"), "x y");
        assert_eq!(s.find("d/z"), None);
    });
}

#[test]
fn many_questions_to_one_directory_give_the_same_answers() {
    for mark in [false, true] {
        let l = Layers::new(2);
        l.file(0, "d/x");
        (0..200).for_each(|i| _ = l.file(1, &format!("d/{i}")));
        if mark {
            l.empty(0, "d/.wh.7").empty(0, "d/.wh.150");
        }
        l.each_way(|s| {
            for i in 0..200 {
                let hidden = mark && (i == 7 || i == 150);
                assert_eq!(s.find(&format!("d/{i}")).is_none(), hidden, "{i}");
            }
        });
    }
}

#[test]
fn whiteouts_by_attribute() {
    let mut spaces = vec!["user.overlay"];
    if is_root("trusted attributes") {
        spaces.push("trusted.overlay");
    }
    for space in spaces {
        let (opaque, whiteout) = (format!("{space}.opaque"), format!("{space}.whiteout"));
        let l = Layers::new(2);
        for name in ["d/gone", "d/full", "e/kept"] {
            l.file(1, name).empty(0, name).xattr(0, name, &whiteout, b"");
        }
        l.file(0, "d/full").empty(0, "d/plain").file(1, "d/below").xattr(0, "d", &opaque, b"x");
        l.each_way(|s| {
            assert_eq!(s.names("d"), "below full plain");
            assert_eq!(s.find("d/gone"), None);
            // Without the mark on the directory the attribute means nothing.
            assert_eq!(s.names("e"), "kept");
            assert_eq!(s.content("e/kept"), "");
        });
    }
}

const REDIRECT: &str = "user.overlay.redirect";

#[test]
fn a_redirect_to_a_sibling() {
    if !is_root("mknod") {
        return;
    }
    let l = Layers::new(3);
    l.file(0, "new/x").xattr(0, "new", REDIRECT, b"old").whiteout(0, "old");
    l.file(1, "old/y").file(2, "old/z").file(2, "new/hidden");
    l.each_way(|s| {
        assert_eq!(s.names(""), "new");
        assert_eq!(s.names("new"), "x y z");
        let new = s.find("new").expect("there");
        let places: Vec<&[u8]> = new.dirs.iter().map(|d| &*d.path).collect();
        assert_eq!(places, [b"new", b"old", b"old"]);
        // Its number is that of the lowest, which the entry does not tell; `names` compares it once looked up.
        let root = s.list(&s.root().expect("a root").dirs).expect("a listing");
        assert_eq!(root.get(b"new").map(|e| e.ino), Some(None));
    });
}

#[test]
fn an_absolute_redirect_also_from_a_directory_that_is_not_merged() {
    let l = Layers::new(4);
    l.file(0, "a/b/c/x").xattr(0, "a/b/c", REDIRECT, b"/p/q");
    l.file(1, "p/q/y").file(2, "p/q/z").file(3, "p/q/w");
    // In layer 2 the way there has another name below.
    l.xattr(2, "p", REDIRECT, b"r").file(3, "r/q/v");
    l.each_way(|s| {
        assert_eq!(s.names("a/b/c"), "v x y z");
        assert_eq!(s.names("a/b"), "c");
        assert_eq!(s.names("p/q"), "v y z");
        assert_eq!(s.find("a/b/c").expect("there").attr.ino.0, l.host_ino(3, "r/q"));
    });
}

#[test]
fn an_absolute_redirect_stops_at_whiteouts_and_opaque_directories() {
    for (mark, want) in [(".wh.q", "x y"), (".wh..wh..opq", "x y"), ("other", "x y z")] {
        let l = Layers::new(4);
        l.file(0, "a/x").xattr(0, "a", REDIRECT, b"/p/q").file(1, "p/q/y");
        l.empty(2, &format!("p/{mark}")).file(3, "p/q/z");
        l.each_way(|s| assert_eq!(s.names("a"), want, "{mark}"));
    }
}

#[test]
fn a_malformed_redirect_is_an_error_and_leads_nowhere() {
    for value in ["../../etc", "/../etc", "", "a/b", "/"] {
        let l = Layers::new(2);
        l.dir(0, "d").xattr(0, "d", REDIRECT, value.as_bytes()).dir(1, "d");
        let s = l.stack();
        let root = s.root().expect("a root");
        assert_eq!(s.lookup(&root.dirs, b"d"), Err(Errno::IO), "{value:?}");
        assert_eq!(s.list(&root.dirs).map(|l| l.len()), Ok(1));
    }
}

#[test]
fn a_file_without_its_data_is_not_misread() {
    let mut names = vec!["user.overlay.metacopy"];
    if is_root("trusted attributes") {
        names.push("trusted.overlay.metacopy");
    }
    for name in names {
        let l = Layers::new(2);
        l.file(0, "f").xattr(0, "f", name, b"").file(1, "f").file(0, "g");
        l.each_way(|s| {
            let f = s.find("f").expect("there");
            assert_eq!(s.open_file(&f.at).map(|_| ()), Err(Errno::IO));
            assert_eq!(s.content("g"), "0");
        });
    }
}
