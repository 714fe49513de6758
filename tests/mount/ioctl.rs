//! What ioctl(2) reaches.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use overcoat_tests::{Spec, fsx, mount_tests, overcoat_only, store};
use rustix::io::Errno;

/// `FS_IOC_SHUTDOWN`.
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// `FITRIM`.
const TRIM: libc::c_ulong = 0xc018_5879;

/// An ioctl whose argument is of no more than three words.
fn ioctl(path: impl AsRef<Path>, cmd: libc::c_ulong, words: &mut [u64; 3]) -> Result<(), Errno> {
    let file = fsx::open_ro(path);
    // SAFETY: the kernel reads and writes as much of the argument as `cmd` says, at most three words.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), cmd, words.as_mut_ptr()) };
    if done == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap())
    }
}

fn shut_down(path: impl AsRef<Path>) -> Result<(), Errno> {
    ioctl(path, SHUTDOWN, &mut [0; 3])
}

/// Bytes that are free in the range.
fn trim(path: impl AsRef<Path>, start: u64, len: u64, minlen: u64) -> Result<u64, Errno> {
    let mut range = [start, len, minlen];
    ioctl(path, TRIM, &mut range).map(|()| range[1])
}

mount_tests! {
    fn a_shutdown_keeps_what_was_acknowledged_and_ends_all_else(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("lower"), "lower");
        let mount = Spec::of(scratch).option("writeback=on").mount();
        fsx::write(mount.path("kept"), "kept");
        let mut open = File::create(mount.path("open")).unwrap();
        open.write_all(b"synced").unwrap();
        open.sync_all().unwrap();
        open.write_all(b", held back").unwrap();
        shut_down(mount.root()).unwrap();

        let eio = |done: std::io::Result<()>, what| {
            assert_eq!(done.unwrap_err().raw_os_error(), Some(libc::EIO), "{what}");
        };
        eio(open.sync_all(), "fsync");
        eio(File::create(mount.path("new")).map(drop), "create");
        eio(std::fs::create_dir(mount.path("dir")), "mkdir");
        eio(std::fs::rename(mount.path("kept"), mount.path("moved")), "rename");
        eio(std::fs::remove_file(mount.path("kept")), "unlink");
        // Opened without asking, and not listed before.
        eio(std::fs::read_dir(mount.root()).and_then(|mut dir| dir.next().unwrap()).map(drop), "readdir");
        eio(File::open(mount.path("lower")).and_then(|mut f| f.read_to_end(&mut vec![])).map(drop), "read");
        rustix::fs::statvfs(mount.root()).unwrap();
        drop(open);
        mount.unmount();

        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::names(mount.root()), ["kept", "lower", "open"]);
        assert_eq!(fsx::read(mount.path("kept")), b"kept");
        assert_eq!(fsx::read(mount.path("open")), b"synced");
        mount.unmount();
        store::assert_clean(&scratch.upper());
    }

    fn shutting_down_takes_an_administrator(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::as_user(1000, 1000, || shut_down(mount.root())), Err(Errno::PERM));
        fsx::write(mount.path("f"), "still works");
    }

    fn trimming_gives_back_at_once_what_was_deleted(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).option("size=64m").mount();
        fsx::write(mount.path("f"), vec![1; 32 << 20]);
        fsx::open_ro(mount.path("f")).sync_all().unwrap();
        std::fs::remove_file(mount.path("f")).unwrap();
        // The blocks are freed when the kernel has let go of the file.
        overcoat_tests::tool::eventually("the file's end", std::time::Duration::from_secs(10), || {
            trim(mount.root(), 0, u64::MAX, 0).unwrap() > 60 << 20
        });
        let used = store::used(&scratch.upper());
        assert!(used < 1 << 20, "{used} bytes are still taken");
        assert_eq!(trim(mount.root(), 16 << 20, 8 << 20, 0), Ok(8 << 20));
        assert_eq!(trim(mount.root(), 60 << 20, u64::MAX, 0), Ok(4 << 20));
        assert_eq!(trim(mount.root(), 64 << 20, 4096, 0), Err(Errno::INVAL));
        assert_eq!(trim(mount.root(), u64::MAX, u64::MAX, 0), Err(Errno::INVAL));
        assert_eq!(trim(mount.root(), 0, u64::MAX, 65 << 20), Err(Errno::INVAL));
        assert_eq!(trim(mount.root(), 0, 4095, 0), Err(Errno::INVAL));
        let user = fsx::as_user(1000, 1000, || trim(mount.root(), 0, u64::MAX, 0));
        assert_eq!(user, Err(Errno::PERM));
        mount.unmount();
        let mount = Spec::of(scratch).option("ro").mount();
        assert_eq!(trim(mount.root(), 0, u64::MAX, 0), Err(Errno::ROFS));
    }
}
