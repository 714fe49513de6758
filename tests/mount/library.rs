//! The library's front door, as a program uses it that holds several mounts.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use overcoat::{Config, Durability, IdMap, Medium, Mount, Upper, UpperUsage};
use overcoat_tests::{Scratch, fsx, mount_tests, overcoat_only};

fn config(scratch: &Scratch, name: &str) -> Config {
    Config {
        lowers: vec![scratch.lower()],
        upper: Some(scratch.dir(&format!("upper-{name}"))),
        medium: Medium::OwnFile,
        size_limit: None,
        inode_limit: None,
        durability: Durability::Full,
        idmap: IdMap::default(),
    }
}

fn mount(scratch: &Scratch, name: &str) -> Mount {
    let point = scratch.dir(&format!("mnt-{name}"));
    Mount::builder(config(scratch, name), point).start().unwrap()
}

fn assert_whole(upper: &Path) {
    let report = Upper::open(upper).unwrap().check().unwrap();
    assert!(report.faults.is_empty() && report.recovery.was_clean, "{report:?}");
}

mount_tests! {
    fn dropping_a_mount_ends_it_and_no_other(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("file"), "lower");
        let (first, second) = (mount(scratch, "a"), mount(scratch, "b"));
        let upper = scratch.path("upper-a");
        let at = |mount: &Mount| mount.mountpoint().join("file");
        let used = std::fs::File::options().read(true).write(true).open(at(&first)).unwrap();
        used.write_all_at(b"UPPER", 0).unwrap();
        assert!(matches!(Upper::open(&upper).unwrap().usage().unwrap(), UpperUsage::Mounted { .. }));
        drop(first);
        let error = used.metadata().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN), "a user is left without the mount");
        assert!(!fsx::exists(scratch.path("mnt-a").join("file")));
        assert_whole(&upper);
        assert!(matches!(Upper::open(&upper).unwrap().usage().unwrap(), UpperUsage::Unmounted(_)));
        assert_eq!(fsx::read(at(&second)), b"lower");
        let again = mount(scratch, "a");
        assert_eq!(fsx::read(at(&again)), b"UPPER", "written back before the end");
    }

    fn a_stopped_mount_can_still_be_asked(scratch) {
        overcoat_only!();
        let mount = mount(scratch, "a");
        std::fs::File::create(mount.mountpoint().join("new")).unwrap().write_all(b"x").unwrap();
        mount.stop().unwrap();
        mount.wait().unwrap();
        let mut paths = Vec::new();
        mount.changes(&mut |change| paths.push(change.path.to_vec()));
        assert!(paths.iter().any(|path| path.ends_with(b"new")), "{paths:?}");
        assert_eq!(mount.usage().unwrap().inodes, 2, "the root and the new file");
        assert!(mount.metrics().to_string().contains("wrote 1 bytes"), "{}", mount.metrics());
        drop(mount);
        assert_whole(&scratch.path("upper-a"));
    }

    fn what_cannot_be_mounted_leaves_nothing(scratch) {
        overcoat_only!();
        let inside = scratch.dir("lower/inside");
        let config = Config { upper: Some(inside), ..config(scratch, "a") };
        let error = Mount::builder(config.clone(), scratch.dir("mnt-a")).start().err().unwrap();
        assert!(error.to_string().contains("lowerdir"), "{error}");
        let error = Mount::builder(config, scratch.path("missing")).upper_may_lie_in_layer().start();
        assert!(error.err().unwrap().to_string().contains("missing"));
        let mut mounts = String::new();
        std::fs::File::open("/proc/self/mountinfo").unwrap().read_to_string(&mut mounts).unwrap();
        assert!(!mounts.contains(scratch.root().to_str().unwrap()), "{mounts}");
    }
}
