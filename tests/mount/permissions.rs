//! Who may do what: modes, POSIX ACLs, file capabilities, and the bits that writing clears.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use overcoat_tests::fsx::{NOBODY, acl, acl_tag};
use overcoat_tests::{Spec, fsx, mount_tests, overcoat_only, tool};
use rustix::fs::OFlags;
use rustix::io::Errno;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// rwx for the owner, nothing for group and others, and `permissions` for user 1234.
fn acl_for_1234(permissions: u16) -> Vec<u8> {
    acl(&[
        (acl_tag::USER_OBJ, 7, acl_tag::NO_ID),
        (acl_tag::USER, permissions, 1234),
        (acl_tag::GROUP_OBJ, 0, acl_tag::NO_ID),
        (acl_tag::MASK, 7, acl_tag::NO_ID),
        (acl_tag::OTHER, 0, acl_tag::NO_ID),
    ])
}

fn can_read(path: &Path, uid: u32) -> Result<(), Errno> {
    fsx::as_user(uid, uid, || fsx::open(path, OFlags::RDONLY).map(drop))
}

/// `security.capability`, revision 2, with this capability permitted and effective.
fn file_capability(number: u32) -> Vec<u8> {
    let mut value = 0x0200_0001_u32.to_le_bytes().to_vec();
    for word in [1_u32 << number, 0, 0, 0] {
        value.extend(word.to_le_bytes());
    }
    value
}

fn mode(path: impl AsRef<Path>) -> u16 {
    fsx::statx(path).stx_mode & 0o7777
}

mount_tests! {
    fn modes_are_enforced(scratch) {
        let lower = scratch.lower();
        fsx::write(lower.join("secret"), "x");
        fsx::chmod(lower.join("secret"), 0o600);
        fsx::mkdir(lower.join("closed"));
        fsx::write(lower.join("closed/f"), "x");
        fsx::chmod(lower.join("closed"), 0o700);
        let mount = Spec::of(scratch).mount();
        assert_eq!(can_read(&mount.path("secret"), NOBODY), Err(Errno::ACCESS));
        assert_eq!(can_read(&mount.path("closed/f"), NOBODY), Err(Errno::ACCESS));
        fsx::as_user(NOBODY, NOBODY, || {
            assert_eq!(rustix::fs::unlink(mount.path("secret")), Err(Errno::ACCESS));
            let create = fsx::open(mount.path("new"), OFlags::CREATE | OFlags::WRONLY);
            assert_eq!(create.map(drop), Err(Errno::ACCESS));
        });
        fsx::chmod(mount.path("secret"), 0o604);
        assert_eq!(can_read(&mount.path("secret"), NOBODY), Ok(()));
        // A file its maker may not write stays writable through the descriptor it was made with.
        fsx::chmod(mount.root(), 0o777);
        fsx::as_user(NOBODY, NOBODY, || {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let mode = rustix::fs::Mode::from_raw_mode(0o400);
            let file = std::fs::File::from(rustix::fs::open(mount.path("mine"), flags, mode).unwrap());
            fsx::write_at(&file, 0, b"mine");
        });
        assert_eq!(fsx::statx(mount.path("mine")).stx_uid, NOBODY);
        assert_eq!(fsx::read(mount.path("mine")), b"mine");
    }

    fn acls_are_enforced(scratch) {
        let lower = scratch.lower();
        fsx::write(lower.join("below"), "x");
        fsx::set_xattr(lower.join("below"), ACCESS, &acl_for_1234(4)).unwrap();
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("above"), "x");
        fsx::set_xattr(mount.path("above"), ACCESS, &acl_for_1234(4)).unwrap();
        for name in ["below", "above"] {
            assert_eq!(can_read(&mount.path(name), 1234), Ok(()), "{name}");
            assert_eq!(can_read(&mount.path(name), 1235), Err(Errno::ACCESS), "{name}");
            let write = fsx::as_user(1234, 1234, || {
                fsx::open(mount.path(name), OFlags::WRONLY).map(drop)
            });
            assert_eq!(write, Err(Errno::ACCESS), "{name}");
            // The group bits show the mask, and chmod changes the mask.
            assert_eq!(mode(mount.path(name)), 0o770, "{name}");
            fsx::chmod(mount.path(name), 0o700);
            assert_eq!(can_read(&mount.path(name), 1234), Err(Errno::ACCESS), "{name} after chmod");
            rustix::fs::removexattr(mount.path(name), ACCESS).unwrap();
            assert!(fsx::list_xattrs(mount.path(name)).unwrap().is_empty(), "{name}");
        }
    }

    fn default_acls_are_inherited(scratch) {
        let lower = scratch.lower();
        fsx::mkdir(lower.join("below"));
        fsx::set_xattr(lower.join("below"), DEFAULT, &acl_for_1234(6)).unwrap();
        let mount = Spec::of(scratch).mount();
        std::fs::create_dir(mount.path("above")).unwrap();
        fsx::set_xattr(mount.path("above"), DEFAULT, &acl_for_1234(6)).unwrap();
        for name in ["below", "above"] {
            let made = mount.path(name).join("f");
            fsx::write(&made, "x");
            let got = fsx::get_xattr(&made, ACCESS).unwrap();
            // The mode asked for was 0666: the mask loses its x, and there is nothing for others.
            let want = acl(&[
                (acl_tag::USER_OBJ, 6, acl_tag::NO_ID),
                (acl_tag::USER, 6, 1234),
                (acl_tag::GROUP_OBJ, 0, acl_tag::NO_ID),
                (acl_tag::MASK, 6, acl_tag::NO_ID),
                (acl_tag::OTHER, 0, acl_tag::NO_ID),
            ]);
            assert_eq!(got, want, "{name}");
            assert_eq!(mode(&made), 0o660, "{name}: the umask does not count under a default ACL");
            assert_eq!(can_read(&made, 1235), Err(Errno::ACCESS));
            let directory = mount.path(name).join("d");
            std::fs::create_dir(&directory).unwrap();
            assert_eq!(fsx::get_xattr(&directory, DEFAULT).unwrap(), acl_for_1234(6), "{name}");
            assert_eq!(fsx::get_xattr(&directory, ACCESS).unwrap(), acl_for_1234(6), "{name}");
        }
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert_eq!(mode(mount.path("above/f")), 0o660);
        assert_eq!(fsx::get_xattr(mount.path("above/d"), DEFAULT).unwrap(), acl_for_1234(6));
    }

    fn a_plain_acl_becomes_the_mode(scratch) {
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("f"), "x");
        let plain = acl(&[
            (acl_tag::USER_OBJ, 6, acl_tag::NO_ID),
            (acl_tag::GROUP_OBJ, 4, acl_tag::NO_ID),
            (acl_tag::OTHER, 0, acl_tag::NO_ID),
        ]);
        fsx::set_xattr(mount.path("f"), ACCESS, &plain).unwrap();
        assert_eq!(mode(mount.path("f")), 0o640);
        assert_eq!(fsx::get_xattr(mount.path("f"), ACCESS), Err(Errno::NODATA));
        assert_eq!(fsx::set_xattr(mount.path("f"), ACCESS, b"bad"), Err(Errno::INVAL));
        assert_eq!(fsx::set_xattr(mount.path("f"), DEFAULT, &plain), Err(Errno::ACCESS));
    }

    fn an_acl_that_is_not_there_can_be_removed(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("f"), "x");
        fsx::mkdir(scratch.lower().join("d"));
        let mount = Spec::of(scratch).mount();
        for name in [ACCESS, DEFAULT] {
            for path in ["f", "d"] {
                rustix::fs::removexattr(mount.path(path), name)
                    .unwrap_or_else(|error| panic!("{name} of {path}: {error}"));
            }
        }
        let other = rustix::fs::removexattr(mount.path("f"), "user.a");
        assert_eq!(other, Err(Errno::NODATA));
    }

    fn removing_an_acl_keeps_setgid(scratch) {
        overcoat_only!();
        let lower = scratch.lower().join("f");
        fsx::write(&lower, "x");
        fsx::chown(&lower, NOBODY, 0);
        fsx::chmod(&lower, 0o2755);
        fsx::set_xattr(&lower, ACCESS, &acl_for_1234(7)).unwrap();
        fsx::chmod(&lower, 0o2755);
        let mount = Spec::of(scratch).mount();
        let path = mount.path("f");
        fsx::as_user(NOBODY, NOBODY, || rustix::fs::removexattr(&path, ACCESS)).unwrap();
        assert_eq!(mode(&path), 0o2755);
    }

    fn file_capabilities_work_and_are_cleared_by_a_write(scratch) {
        let lower = scratch.lower();
        let secret = lower.join("secret");
        fsx::write(&secret, "x");
        fsx::chmod(&secret, 0o600);
        std::fs::copy("/bin/cat", lower.join("cat")).unwrap();
        fsx::chmod(lower.join("cat"), 0o755);
        // CAP_DAC_READ_SEARCH
        fsx::set_xattr(lower.join("cat"), "security.capability", &file_capability(2)).unwrap();
        let mount = Spec::of(scratch).mount();
        let cat = |name: &str| {
            let mut command = Command::new(mount.path(name));
            command.arg(mount.path("secret")).uid(NOBODY).gid(NOBODY);
            tool::output(&mut command).status.success()
        };
        assert!(cat("cat"), "capability of a lower file");
        std::fs::rename(mount.path("cat"), mount.path("moved")).unwrap();
        assert!(cat("moved"), "capability after a rename");
        fsx::write_at(&fsx::open_rw(mount.path("moved")), 1 << 20, b"x");
        assert_eq!(fsx::get_xattr(mount.path("moved"), "security.capability"), Err(Errno::NODATA));
        assert!(!cat("moved"), "capability after a write");
        fsx::set_xattr(mount.path("moved"), "security.capability", &file_capability(2)).unwrap();
        assert!(cat("moved"), "capability set again");
        fsx::chown(mount.path("moved"), 0, 1);
        assert_eq!(fsx::get_xattr(mount.path("moved"), "security.capability"), Err(Errno::NODATA));
    }

    fn a_store_to_a_mapping_clears_nothing(scratch) {
        let lower = scratch.lower().join("f");
        fsx::write(&lower, vec![b'x'; 10_000]);
        fsx::chmod(&lower, 0o6755);
        fsx::set_xattr(&lower, "security.capability", &file_capability(2)).unwrap();
        for writeback in ["writeback=on,passthrough=off", "writeback=off"] {
            let mount = Spec::of(scratch).option(writeback).mount();
            let file = fsx::open_rw(mount.path("f"));
            // SAFETY: the file keeps its length while it is mapped.
            let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
            map[5000] += 1;
            map.flush().unwrap();
            drop((map, file));
            assert_eq!(fsx::statx(mount.path("f")).stx_mode & 0o7777, 0o6755, "{writeback}");
            let kept = fsx::get_xattr(mount.path("f"), "security.capability");
            assert!(kept == Ok(file_capability(2)), "{writeback}: {kept:?}");
        }
    }

    fn setuid_programs_work(scratch) {
        let lower = scratch.lower();
        std::fs::copy("/usr/bin/id", lower.join("id")).unwrap();
        fsx::chown(lower.join("id"), 1234, 1234);
        fsx::chmod(lower.join("id"), 0o4755);
        let mount = Spec::of(scratch).mount();
        let mut command = Command::new(mount.path("id"));
        command.arg("-u").uid(NOBODY).gid(NOBODY);
        assert_eq!(tool::output(&mut command).stdout, b"1234\n");
    }

    fn writing_clears_setuid_and_setgid(scratch) {
        let lower = scratch.lower();
        for name in ["write", "truncate", "open", "fallocate", "root", "group"] {
            fsx::write(lower.join(name), "0123456789");
            fsx::chmod(lower.join(name), if name == "group" { 0o2767 } else { 0o6777 });
        }
        let mount = Spec::of(scratch).mount();
        fsx::as_user(NOBODY, NOBODY, || {
            fsx::write_at(&fsx::open_rw(mount.path("write")), 0, b"x");
            fsx::open_rw(mount.path("truncate")).set_len(3).unwrap();
            fsx::open(mount.path("open"), OFlags::WRONLY | OFlags::TRUNC).unwrap();
            let empty = rustix::fs::FallocateFlags::empty();
            fsx::fallocate(&fsx::open_rw(mount.path("fallocate")), empty, 0, 100).unwrap();
            fsx::write_at(&fsx::open_rw(mount.path("group")), 0, b"x");
        });
        fsx::write_at(&fsx::open_rw(mount.path("root")), 0, b"x");
        for name in ["write", "truncate", "open", "fallocate"] {
            assert_eq!(mode(mount.path(name)), 0o777, "{name} by a stranger");
        }
        assert_eq!(mode(mount.path("root")), 0o6777, "a write by root keeps them");
        // Without group execute the setgid bit is not one of these bits for the kernel's VFS, unless the
        // writer is outside of the group.
        assert_eq!(mode(mount.path("group")), 0o767, "setgid without group execute, by a stranger");
    }

    // xfstests' generic/355: the kernel checks the mode that it caches, and `stat` may ask for no more.
    fn what_writing_clears_is_known_at_once(scratch) {
        let mount = Spec::of(scratch).mount();
        let names = ["write", "open", "fallocate", "copy"];
        for name in names {
            fsx::write(mount.path(name), "0123456789");
            fsx::chmod(mount.path(name), 0o6777);
        }
        fsx::as_user(NOBODY, NOBODY, || {
            fsx::write_at(&fsx::open_rw(mount.path("write")), 0, b"x");
            fsx::open(mount.path("open"), OFlags::WRONLY | OFlags::TRUNC).unwrap();
            let empty = rustix::fs::FallocateFlags::empty();
            fsx::fallocate(&fsx::open_rw(mount.path("fallocate")), empty, 0, 100).unwrap();
            let from = fsx::open(mount.path("write"), OFlags::RDONLY).unwrap();
            let to = fsx::open_rw(mount.path("copy"));
            rustix::fs::copy_file_range(&from, None, &to, None, 5).unwrap();
        });
        for name in names {
            let (path, no_flags) = (mount.path(name), rustix::fs::AtFlags::empty());
            let asked = rustix::fs::StatxFlags::MODE;
            let stat = rustix::fs::statx(rustix::fs::CWD, &path, no_flags, asked).unwrap();
            assert_eq!(stat.stx_mode & 0o7777, 0o777, "{name} by a stranger");
        }
    }

    fn chown_clears_setuid_and_setgid(scratch) {
        fsx::write(scratch.lower().join("f"), "x");
        fsx::chmod(scratch.lower().join("f"), 0o6755);
        fsx::mkdir(scratch.lower().join("d"));
        fsx::chmod(scratch.lower().join("d"), 0o2755);
        let mount = Spec::of(scratch).mount();
        fsx::chown(mount.path("f"), 5, 5);
        fsx::chown(mount.path("d"), 5, 5);
        assert_eq!(mode(mount.path("f")), 0o755);
        assert_eq!(mode(mount.path("d")), 0o2755);
    }

    fn a_chown_of_no_id(scratch) {
        overcoat_only!(); // doc/SEMANTICS.md: what is not told from a write
        fsx::write(scratch.lower().join("f"), "x");
        fsx::chown(scratch.lower().join("f"), NOBODY, NOBODY);
        fsx::chmod(scratch.lower().join("f"), 0o6755);
        let mount = Spec::of(scratch).mount();
        let path = mount.path("f");
        let chown = |user| fsx::as_user(user, user, || rustix::fs::chown(&path, None, None));
        for (user, left) in [(0, 0o6755), (1000, 0o6755), (NOBODY, 0o755)] {
            chown(user).unwrap();
            assert_eq!(mode(&path), left, "by {user}");
        }
    }

    fn only_owners_and_root_change_attributes(scratch) {
        fsx::write(scratch.lower().join("f"), "x");
        fsx::chmod(scratch.lower().join("f"), 0o666);
        let mount = Spec::of(scratch).mount();
        let path = mount.path("f");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        fsx::as_user(NOBODY, NOBODY, || {
            assert_eq!(rustix::fs::chmod(&path, mode), Err(Errno::PERM));
            let nobody = rustix::fs::Uid::from_raw(NOBODY);
            assert_eq!(rustix::fs::chown(&path, Some(nobody), None), Err(Errno::PERM));
        });
        fsx::chown(&path, NOBODY, NOBODY);
        fsx::as_user(NOBODY, NOBODY, || rustix::fs::chmod(&path, mode)).unwrap();
    }
}
