//! Names: any bytes but `/` and NUL, up to 255 of them.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use overcoat_tests::{Spec, fsx, mount_tests, overcoat_only};
use rustix::io::Errno;

mount_tests! {
    fn any_byte(scratch) {
        let lower = scratch.lower();
        let mut all: Vec<OsString> = Vec::new();
        for byte in 1..=255_u8 {
            if byte != b'/' && byte != b'.' {
                all.push(OsString::from_vec(vec![byte]));
                all.push(OsString::from_vec(vec![byte; 255]));
            }
        }
        for name in &all {
            fsx::write(lower.join(name), name.as_bytes());
        }
        let mount = Spec::of(scratch).mount();
        fsx::mkdir(mount.path("dir"));
        for name in &all {
            assert_eq!(fsx::read(mount.path(name)), name.as_bytes());
            std::fs::rename(mount.path(name), mount.path("dir").join(name)).unwrap();
        }
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        let mut found: Vec<OsString> = std::fs::read_dir(mount.path("dir"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        found.sort();
        all.sort();
        assert!(found == all, "{} of {} names", found.len(), all.len());
        assert_eq!(fsx::names(mount.root()), ["dir"]);
    }

    fn names_of_256_bytes_are_too_long(scratch) {
        let mount = Spec::of(scratch).mount();
        let long = "n".repeat(256);
        let error = std::fs::write(mount.path(&long), "x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NAMETOOLONG.raw_os_error()));
        fsx::write(mount.path("f"), "x");
        assert_eq!(rustix::fs::rename(mount.path("f"), mount.path(&long)), Err(Errno::NAMETOOLONG));
        assert_eq!(rustix::fs::lstat(mount.path(&long)).map(drop), Err(Errno::NAMETOOLONG));
        // Whiteouts take no room in the name, whatever their spelling on disk.
        let full = "m".repeat(255);
        fsx::write(mount.path(&full), "x");
        std::fs::remove_file(mount.path(&full)).unwrap();
    }

    fn names_that_mean_something_elsewhere(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        // In the view these are ordinary names.
        for name in [".wh.x", ".wh..wh..opq", ".overcoat.filestore", ".fuse_hidden0001"] {
            assert!(!fsx::exists(mount.path(name)), "{name} shows");
            fsx::write(mount.path(name), name);
            fsx::write(mount.path("x"), "x");
        }
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        for name in [".wh.x", ".wh..wh..opq", ".overcoat.filestore", ".fuse_hidden0001"] {
            assert_eq!(fsx::read(mount.path(name)), name.as_bytes());
        }
        assert_eq!(fsx::read(mount.path("x")), b"x");
    }

    fn deep_paths(scratch) {
        let mount = Spec::of(scratch).mount();
        let mut dir = fsx::open_dir(mount.root());
        let name = "d".repeat(200);
        let mode = rustix::fs::Mode::from_raw_mode(0o755);
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        for _ in 0..200 {
            rustix::fs::mkdirat(&dir, &name, mode).unwrap();
            dir = rustix::fs::openat(&dir, &name, flags, mode).unwrap();
        }
        drop(dir);
        overcoat_tests::tool::run("rm", &["-rf".into(), mount.path(&name)]);
        assert!(fsx::names(mount.root()).is_empty());
    }
}
