//! Making and removing names, of every type, over lowers and in the upper.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};

use overcoat_tests::{Spec, fsx, mount_tests, overcoat_only};
use rustix::fs::FileType;
use rustix::io::Errno;

mount_tests! {
    fn lower_shows_and_stays(scratch) {
        let lower = scratch.lower();
        fsx::mkdir(lower.join("d/e"));
        fsx::write(lower.join("d/e/f"), "lower");
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::read(mount.path("d/e/f")), b"lower");
        fsx::write(mount.path("d/e/f"), "upper");
        assert_eq!(fsx::read(mount.path("d/e/f")), b"upper");
        assert_eq!(fsx::read(lower.join("d/e/f")), b"lower");
    }

    fn unlink_hides_and_create_brings_back(scratch) {
        fsx::write(scratch.lower().join("f"), "lower");
        let mount = Spec::of(scratch).mount();
        std::fs::remove_file(mount.path("f")).unwrap();
        assert!(!fsx::exists(mount.path("f")));
        assert!(fsx::names(mount.root()).is_empty());
        fsx::write(mount.path("f"), "new");
        assert_eq!(fsx::read(mount.path("f")), b"new");
        assert_eq!(fsx::names(mount.root()), ["f"]);
        std::fs::remove_file(mount.path("f")).unwrap();
        assert!(fsx::names(mount.root()).is_empty());
    }

    fn a_directory_made_again_is_empty(scratch) {
        let lower = scratch.lower();
        fsx::mkdir(lower.join("d/sub"));
        fsx::write(lower.join("d/sub/f"), "lower");
        let mount = Spec::of(scratch).mount();
        std::fs::remove_dir_all(mount.path("d")).unwrap();
        std::fs::create_dir(mount.path("d")).unwrap();
        assert!(fsx::names(mount.path("d")).is_empty());
        std::fs::create_dir(mount.path("d/sub")).unwrap();
        assert!(fsx::names(mount.path("d/sub")).is_empty());
    }

    fn rmdir_of_a_directory_with_lower_entries_is_refused(scratch) {
        let lower = scratch.lower();
        fsx::mkdir(lower.join("d"));
        fsx::write(lower.join("d/f"), "x");
        let mount = Spec::of(scratch).mount();
        assert_eq!(rustix::fs::rmdir(mount.path("d")), Err(Errno::NOTEMPTY));
        std::fs::remove_file(mount.path("d/f")).unwrap();
        rustix::fs::rmdir(mount.path("d")).unwrap();
        assert!(!fsx::exists(mount.path("d")));
    }

    fn errors_of_making_and_removing(scratch) {
        let lower = scratch.lower();
        fsx::mkdir(lower.join("d"));
        fsx::write(lower.join("f"), "x");
        let mount = Spec::of(scratch).mount();
        let mode = rustix::fs::Mode::from_raw_mode(0o755);
        assert_eq!(rustix::fs::mkdir(mount.path("d"), mode), Err(Errno::EXIST));
        assert_eq!(rustix::fs::mkdir(mount.path("f"), mode), Err(Errno::EXIST));
        assert_eq!(rustix::fs::mkdir(mount.path("f/x"), mode), Err(Errno::NOTDIR));
        assert_eq!(rustix::fs::mkdir(mount.path("no/x"), mode), Err(Errno::NOENT));
        assert_eq!(rustix::fs::unlink(mount.path("d")), Err(Errno::ISDIR));
        assert_eq!(rustix::fs::rmdir(mount.path("f")), Err(Errno::NOTDIR));
        assert_eq!(rustix::fs::unlink(mount.path("no")), Err(Errno::NOENT));
        assert_eq!(rustix::fs::link(mount.path("d"), mount.path("l")), Err(Errno::PERM));
        assert_eq!(rustix::fs::symlink("x", mount.path("f")), Err(Errno::EXIST));
        assert_eq!(rustix::fs::readlink(mount.path("f"), Vec::new()), Err(Errno::INVAL));
    }

    fn every_type_of_node(scratch) {
        let lower = scratch.lower();
        fsx::mknod(lower.join("lower-fifo"), FileType::Fifo, 0o640, (0, 0)).unwrap();
        fsx::mknod(lower.join("lower-null"), FileType::CharacterDevice, 0o666, (1, 3)).unwrap();
        let mount = Spec::of(scratch).mount();
        fsx::mknod(mount.path("fifo"), FileType::Fifo, 0o600, (0, 0)).unwrap();
        fsx::mknod(mount.path("null"), FileType::CharacterDevice, 0o666, (1, 3)).unwrap();
        fsx::mknod(mount.path("block"), FileType::BlockDevice, 0o600, (7, 300)).unwrap();
        fsx::mknod(mount.path("socket"), FileType::Socket, 0o600, (0, 0)).unwrap();
        fsx::mknod(mount.path("plain"), FileType::RegularFile, 0o600, (0, 0)).unwrap();
        let kind = |name: &str| std::fs::symlink_metadata(mount.path(name)).unwrap().file_type();
        assert!(kind("fifo").is_fifo() && kind("lower-fifo").is_fifo());
        assert!(kind("null").is_char_device() && kind("lower-null").is_char_device());
        assert!(kind("block").is_block_device());
        assert!(kind("socket").is_socket());
        assert!(kind("plain").is_file());
        let block = fsx::statx(mount.path("block"));
        assert_eq!((block.stx_rdev_major, block.stx_rdev_minor), (7, 300));
        // A device works, whether it lies below or above.
        fsx::write(mount.path("null"), "gone");
        fsx::write(mount.path("lower-null"), "gone");
        assert!(fsx::read(mount.path("lower-null")).is_empty());
    }

    fn a_device_0_0_in_the_upper_is_a_device(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        fsx::mknod(mount.path("zero"), FileType::CharacterDevice, 0o600, (0, 0)).unwrap();
        assert_eq!(fsx::names(mount.root()), ["zero"]);
        assert!(std::fs::symlink_metadata(mount.path("zero")).unwrap().file_type().is_char_device());
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::names(mount.root()), ["zero"]);
    }

    fn a_fifo_and_a_socket_carry_data(scratch) {
        let lower = scratch.lower();
        fsx::mknod(lower.join("fifo"), FileType::Fifo, 0o600, (0, 0)).unwrap();
        let mount = Spec::of(scratch).mount();
        let path = mount.path("fifo");
        let writer = std::thread::spawn(move || std::fs::write(path, "through").unwrap());
        assert_eq!(fsx::read(mount.path("fifo")), b"through");
        writer.join().unwrap();

        // By a short path: a socket's name is limited to 108 bytes.
        let dir = fsx::open_dir(mount.root());
        let short = format!("/proc/self/fd/{}/s", std::os::fd::AsRawFd::as_raw_fd(&dir));
        let listener = UnixListener::bind(&short).unwrap();
        let mut client = UnixStream::connect(&short).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        let mut word = [0; 5];
        server.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"hello");
    }

    fn hard_links_of_upper_and_lower(scratch) {
        let lower = scratch.lower();
        fsx::write(lower.join("a"), "lower");
        std::fs::hard_link(lower.join("a"), lower.join("b")).unwrap();
        let mount = Spec::of(scratch).mount();
        assert_eq!(fsx::ino(mount.path("a")), fsx::ino(mount.path("b")));
        assert_eq!(fsx::statx(mount.path("a")).stx_nlink, 2);
        std::fs::hard_link(mount.path("a"), mount.path("c")).unwrap();
        assert_eq!(fsx::statx(mount.path("b")).stx_nlink, 3);
        fsx::write(mount.path("c"), "changed");
        assert_eq!(fsx::read(mount.path("a")), b"changed");
        assert_eq!(fsx::read(mount.path("b")), b"changed");
        std::fs::remove_file(mount.path("a")).unwrap();
        assert_eq!(fsx::statx(mount.path("b")).stx_nlink, 2);
        assert_eq!(fsx::read(lower.join("a")), b"lower");
        assert_eq!(fsx::statx(lower.join("a")).stx_nlink, 2);
    }

    fn symlinks(scratch) {
        let lower = scratch.lower();
        std::os::unix::fs::symlink("target", lower.join("l")).unwrap();
        let mount = Spec::of(scratch).mount();
        assert_eq!(std::fs::read_link(mount.path("l")).unwrap().to_str(), Some("target"));
        assert_eq!(fsx::statx(mount.path("l")).stx_size, 6);
        let long = "x".repeat(4095);
        std::os::unix::fs::symlink(&long, mount.path("long")).unwrap();
        assert_eq!(std::fs::read_link(mount.path("long")).unwrap().to_str(), Some(long.as_str()));
        fsx::chown(mount.path("l"), 5, 6);
        assert_eq!(fsx::statx(mount.path("l")).stx_uid, 5);
        std::fs::hard_link(mount.path("l"), mount.path("l2")).unwrap();
        assert_eq!(fsx::ino(mount.path("l")), fsx::ino(mount.path("l2")));
    }

    fn umask_and_setgid_directories(scratch) {
        let mount = Spec::of(scratch).mount();
        std::fs::create_dir(mount.path("d")).unwrap();
        fsx::chown(mount.path("d"), 0, 77);
        fsx::chmod(mount.path("d"), 0o2775);
        fsx::write(mount.path("d/f"), "x");
        std::fs::create_dir(mount.path("d/e")).unwrap();
        assert_eq!(fsx::statx(mount.path("d/f")).stx_gid, 77);
        assert_eq!(fsx::statx(mount.path("d/e")).stx_gid, 77);
        assert_eq!(fsx::statx(mount.path("d/e")).stx_mode & 0o7000, 0o2000);
        // The umask of this process is whatever the caller has: 022 nearly everywhere.
        let out = overcoat_tests::tool::run(
            "sh",
            &["-c", &format!("umask 027; >{0}/u; mkdir {0}/v; stat -c %a {0}/u {0}/v", mount.root().display())],
        );
        assert_eq!(out, "640\n750\n");
    }

    fn a_read_only_view(scratch) {
        fsx::write(scratch.lower().join("f"), "x");
        let mut spec = Spec::of(scratch).read_only();
        // Overlayfs wants two lowers then.
        spec.lowers.push(scratch.dir("second"));
        let mount = spec.mount();
        assert_eq!(fsx::read(mount.path("f")), b"x");
        assert_eq!(std::fs::write(mount.path("g"), "x").unwrap_err().raw_os_error(), Some(30));
        assert_eq!(rustix::fs::unlink(mount.path("f")), Err(Errno::ROFS));
        assert_eq!(rustix::fs::rename(mount.path("f"), mount.path("g")), Err(Errno::ROFS));
    }
}
