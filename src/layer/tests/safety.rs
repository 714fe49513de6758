//! What a hostile layer, or a strange one, cannot do; and that nothing in a layer changes.

use super::*;
use crate::attr::{LayerId, LowerPath};
use crate::errno::Errno;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::{Duration, SystemTime};

#[test]
fn symbolic_links_are_never_followed() {
    let l = Layers::new(2);
    symlink("/etc", l.path(0, "etc")).expect("linked");
    symlink("..", l.path(0, "up")).expect("linked");
    symlink("/etc/passwd", l.path(0, "passwd")).expect("linked");
    l.file(1, "etc/below").file(1, "secret");
    l.each_way(|s| {
        let place = |path: &str| LowerPath { layer: LayerId(2), path: path.as_bytes().into() };
        for dir in ["etc", "up"] {
            let node = s.find(dir).expect("there");
            assert!(node.dirs.is_empty());
            assert_eq!(s.list(std::slice::from_ref(&node.at)).map(|_| ()), Err(Errno::STALE));
            assert_eq!(s.lookup(&[node.at], b"passwd"), Err(Errno::STALE));
        }
        for path in ["etc/passwd", "up/1/secret", "etc/ssl/certs"] {
            assert_eq!(s.stat(&place(path)), Err(Errno::STALE), "{path}");
            assert_eq!(s.open_file(&place(path)).map(|_| ()), Err(Errno::STALE));
            assert_eq!(s.listxattr(&place(path)), Err(Errno::STALE));
        }
        assert_eq!(s.open_file(&place("passwd")).map(|_| ()), Err(Errno::LOOP));
        assert_eq!(s.readlink(&place("passwd")), Ok(b"/etc/passwd".to_vec()));
    });
}

#[test]
fn names_that_are_none() {
    let l = Layers::new(1);
    l.file(0, "d/f");
    l.each_way(|s| {
        let root = s.root().expect("a root").dirs;
        for name in [&b""[..], b".", b"..", b"/", b"d/f", b"../x", b"d\0"] {
            assert_eq!(s.lookup(&root, name), Err(Errno::INVAL), "{name:?}");
        }
        assert_eq!(s.lookup(&root, &[b'x'; 256]), Err(Errno::NAMETOOLONG));
        assert_eq!(s.lookup(&root, &[b'x'; 255]), Ok(None));
    });
}

#[test]
fn names_of_any_bytes() {
    let l = Layers::new(2);
    let all: Vec<u8> = (1..=255).filter(|&b| b != b'/').collect();
    let long = [0xff; 255];
    let mut want: Vec<&[u8]> = vec![&all[..200], &all[200..], &long, b"\n", b" ", b"-rf"];
    for (i, name) in want.iter().enumerate() {
        std::fs::write(l.path(i % 2, "").join(os(name)), name).expect("written");
    }
    want.sort_unstable();
    l.each_way(|s| {
        let listing = s.listing("");
        assert!(listing.iter().map(|e| e.name).eq(want.iter().copied()));
        assert_eq!(listing.get(&long).map(|e| e.name), Some(&long[..]));
        assert_eq!(listing.get(b"none"), None);
    });
}

#[test]
fn access_times_stay() {
    let l = Layers::new(2);
    l.file(0, "d/f").file(1, "d/g");
    symlink("f", l.path(0, "d/l")).expect("linked");
    // Far enough back that a relatime mount would move it.
    let old = SystemTime::now() - Duration::from_secs(100 * 24 * 3600);
    let places = [(0, "d"), (1, "d"), (0, "d/f"), (1, "d/g"), (0, ""), (0, "d/l")];
    let times = || {
        places.map(|(layer, path)| {
            let m = std::fs::symlink_metadata(l.path(layer, path)).expect("attributes");
            (m.atime(), m.atime_nsec(), m.ctime(), m.ctime_nsec(), m.mtime())
        })
    };
    for (layer, path) in places {
        let secs = old.duration_since(SystemTime::UNIX_EPOCH).expect("later").as_secs() as i64;
        let at = rustix::fs::Timespec { tv_sec: secs, tv_nsec: 0 };
        let both = rustix::fs::Timestamps { last_access: at, last_modification: at };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(CWD, l.path(layer, path), &both, flags).expect("set");
    }
    let before = times();
    l.each_way(|s| {
        assert_eq!(s.names("d"), "f g l");
        assert_eq!(s.content("d/f") + &s.content("d/g"), "01");
        s.xattrs(&s.find("d/f").expect("there").at).expect("attributes");
        if s.keeps_atime(LayerId(2)) {
            s.readlink(&s.find("d/l").expect("there").at).expect("a target");
        }
    });
    assert_eq!(times(), before);
}

#[test]
fn paths_longer_than_a_system_call_takes() {
    let l = Layers::new(2);
    let name = "n".repeat(200);
    let depth = 60;
    for layer in 0..2 {
        let mut dir = std::fs::File::open(l.path(layer, "")).expect("opened");
        for _ in 0..depth {
            rustix::fs::mkdirat(&dir, &*name, Mode::from_raw_mode(0o755)).expect("made");
            let flags = rustix::fs::OFlags::RDONLY;
            dir = rustix::fs::openat(&dir, &*name, flags, Mode::empty()).expect("opened").into();
        }
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE;
        let file = format!("f{layer}");
        let fd = rustix::fs::openat(&dir, file, flags, Mode::from_raw_mode(0o644)).expect("made");
        rustix::io::write(&fd, b"deep").expect("written");
    }
    l.each_way(|s| {
        let path = vec![name.as_str(); depth].join("/");
        assert_eq!(s.names(&path), "f0 f1");
        assert_eq!(s.content(&format!("{path}/f1")), "deep");
        s.shrink();
        let at = s.find(&format!("{path}/f0")).expect("there").at;
        s.shrink();
        assert!(at.path.len() > 12_000);
        assert_eq!(s.stat(&at).map(|a| a.size), Ok(4));
        assert_eq!(s.content_at(&at), "deep");
    });
}

#[test]
fn five_hundred_layers() {
    const COUNT: usize = 500;
    let l = Layers::new(COUNT);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("raised");
    for i in 0..COUNT {
        l.file(i, &format!("usr/f{i:03}")).file(i, "usr/same");
    }
    l.empty(250, "usr/.wh.f400");
    let s = l.stack();
    assert_eq!(s.listing("usr").len(), COUNT);
    assert_eq!(s.content("usr/same"), "0");
    assert_eq!(s.content("usr/f499"), "499");
    assert_eq!(s.find("usr/f400"), None);
    assert_eq!(s.find("usr").expect("there").dirs.len(), COUNT);
}

#[test]
fn what_is_mounted_inside_a_layer_stays_outside() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    if !is_root("mount") {
        return;
    }
    let l = Layers::new(2);
    l.file(0, "proc/under").file(0, "x").file(1, "proc/below");
    let point = l.path(0, "proc");
    mount("overcoat-test", &point, "tmpfs", MountFlags::empty(), None).expect("mounted");
    let run = || {
        std::fs::write(point.join("mounted"), "").expect("written");
        // The best way sees the layer as if nothing were mounted.
        assert_eq!(l.stack().names("proc"), "below under");
        for way in [Way::Openat2, Way::NameByName] {
            let s = l.stack_by(way);
            assert_eq!(s.find("proc").map(|n| n.attr.is_dir()), Some(true));
            assert_eq!(s.names("proc"), "");
            assert_eq!(s.find("proc/mounted"), None);
            let at = LowerPath { layer: LayerId(2), path: b"proc/mounted"[..].into() };
            assert_eq!(s.stat(&at), Err(Errno::STALE));
        }
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    unmount(&point, UnmountFlags::DETACH).expect("unmounted");
    assert!(result.is_ok());
}

#[test]
fn descriptors_that_run_out_are_found_in_the_cache() {
    let l = Layers::new(1);
    (0..64).for_each(|i| _ = l.file(0, &format!("d{i}/f")));
    let s = l.stack();
    let failures = std::cell::Cell::new(1);
    let opened = s.with_descriptors(|| {
        if failures.replace(failures.get() - 1) > 0 { Err(Errno::MFILE) } else { Ok(()) }
    });
    assert_eq!(opened, Ok(()));
}
