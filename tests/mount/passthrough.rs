//! Passthrough: the kernel reads lower files by itself, and nobody sees wrong bytes for it.
//!
//! That a descriptor is passed through shows in that it reads when the daemon is dead.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::Duration;

use overcoat_tests::mount::is_mounted;
use overcoat_tests::rng::bytes;
use overcoat_tests::{Mount, Scratch, Spec, fsx, manifest, mount_tests, overcoat_only, tool};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const SIZE: usize = 300_000;

const LIMIT: Duration = Duration::from_secs(20);

/// A mount with passthrough over a lower with the file `f` of [`SIZE`] bytes.
fn mount(scratch: &Scratch) -> (Mount, Vec<u8>) {
    mount_with(scratch, "passthrough=on")
}

fn mount_with(scratch: &Scratch, option: &str) -> (Mount, Vec<u8>) {
    let data = bytes(1, SIZE);
    fsx::write(scratch.lower().join("f"), &data);
    (Spec::of(scratch).option(option).mount(), data)
}

/// Whether the kernel reads `file` by itself. Ends the mount.
fn is_through(mount: Mount, file: File) -> bool {
    mount.kill();
    let mut byte = [0];
    match rustix::io::pread(&file, &mut byte, SIZE as u64 - 1) {
        Ok(count) => count == 1,
        Err(Errno::NOTCONN | Errno::CONNABORTED | Errno::IO) => false,
        Err(error) => panic!("{error}"),
    }
}

fn reopened(file: &File, flags: OFlags) -> rustix::io::Result<File> {
    fsx::open(format!("/proc/self/fd/{}", file.as_raw_fd()), flags)
}

fn logged(scratch: &Scratch, spec: &Spec) -> (tool::Outcome, String) {
    let log = scratch.path("log");
    let mut arguments = spec.arguments();
    arguments.insert(1, "--log".into());
    arguments.insert(2, log.clone().into());
    let outcome = tool::overcoat_run(&arguments, LIMIT);
    (outcome, std::fs::read_to_string(log).unwrap_or_default())
}

type Change = fn(&Path);

/// A copy of a program that runs by itself.
fn put_program(path: &Path) {
    std::fs::copy("/bin/sleep", path).unwrap();
}

mount_tests! {
    fn an_open_of_a_lower_file_is_passed_through(scratch) {
        overcoat_only!();
        let (mount, data) = mount(scratch);
        let file = fsx::open_ro(mount.path("f"));
        assert!(fsx::read_at(&file, 0, SIZE + 9) == data);
        assert!(is_through(mount, file));
    }

    fn it_is_not_where_nobody_asked_for_it(scratch) {
        overcoat_only!();
        for option in ["passthrough=off", "passthrough=auto"] {
            let (mount, data) = mount_with(scratch, option);
            let file = fsx::open_ro(mount.path("f"));
            assert!(fsx::read_at(&file, 0, 9) == data[..9]);
            assert!(!is_through(mount, file), "{option}");
        }
    }

    fn over_either_transport(scratch) {
        overcoat_only!();
        for transport in ["dev", "auto"] {
            let (mount, data) = mount_with(scratch, &format!("passthrough=on,transport={transport}"));
            let file = fsx::open_ro(mount.path("f"));
            assert!(fsx::read_at(&file, 0, SIZE + 9) == data);
            drop(fsx::open_rw(mount.path("f")));
            assert!(fsx::read(mount.path("f")) == data);
            assert!(is_through(mount, file), "{transport}");
        }
    }

    fn mounts_of_one_layer_share_its_page_cache(scratch) {
        overcoat_only!();
        const LARGE: usize = 64 << 20;
        fsx::write(scratch.lower().join("large"), bytes(3, LARGE));
        let spec = Spec::of(scratch).option("passthrough=on");
        let mounts = ["a", "b"].map(|name| {
            let upper = scratch.dir(&format!("upper.{name}"));
            Spec { upper: Some(upper), ..spec.clone() }.at(scratch.dir(name)).mount()
        });
        let [one, other] = mounts.each_ref().map(|mount| mapped(&fsx::open_ro(mount.path("large"))));
        let sum = one.iter().step_by(4096).fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        // Nobody read the other: that its pages are there, it owes to the one.
        assert!(resident(&other) * 4096 > LARGE / 2, "{} pages after {sum}", resident(&other));
    }

    fn a_file_of_the_upper_is_not_passed_through(scratch) {
        overcoat_only!();
        let (mount, mut data) = mount(scratch);
        fsx::write_at(&fsx::open_rw(mount.path("f")), 7, b"new");
        data[7..10].copy_from_slice(b"new");
        let file = fsx::open_ro(mount.path("f"));
        assert!(fsx::read_at(&file, 0, 99) == data[..99]);
        assert!(!is_through(mount, file));
    }

    fn a_file_whose_mode_changed_still_is(scratch) {
        overcoat_only!();
        let (mount, data) = mount(scratch);
        fsx::chmod(mount.path("f"), 0o600);
        let file = fsx::open_ro(mount.path("f"));
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(fsx::read_at(&file, 0, SIZE) == data);
        assert!(is_through(mount, file));
    }

    fn a_file_cut_and_grown_again_shows_zeros(scratch) {
        overcoat_only!();
        let (mount, mut data) = mount(scratch);
        let file = fsx::open_rw(mount.path("f"));
        file.set_len(10_000).unwrap();
        file.set_len(SIZE as u64).unwrap();
        drop(file);
        data[10_000..].fill(0);
        assert!(fsx::read(mount.path("f")) == data);
    }

    fn a_writer_beside_a_reader_works_on_the_upper(scratch) {
        overcoat_only!();
        let (mount, data) = mount(scratch);
        let before = manifest::of_layer(&scratch.lower());
        let reader = fsx::open_ro(mount.path("f"));
        let ino = fsx::ino(mount.path("f"));
        let writer = fsx::open_rw(mount.path("f"));
        fsx::write_at(&writer, 5, b"new");
        let mut want = data.clone();
        want[5..8].copy_from_slice(b"new");
        // Documented: who had the file open reads what it was.
        assert!(fsx::read_at(&reader, 0, SIZE) == data);
        assert!(fsx::read_at(&writer, 0, SIZE) == want);
        assert!(fsx::read(mount.path("f")) == want);
        assert_eq!(fsx::ino(mount.path("f")), ino);
        assert_eq!(writer.metadata().unwrap().ino(), ino);
        assert_eq!(reader.metadata().unwrap().ino(), ino);
        drop((reader, writer));
        assert!(fsx::read(mount.path("f")) == want);
        mount.unmount();
        manifest::of_layer(&scratch.lower()).assert_same(&before, "the layer");
        let mount = Spec::of(scratch).option("passthrough=on").mount();
        assert!(fsx::read(mount.path("f")) == want, "after a remount");
        assert_eq!(fsx::ino(mount.path("f")), ino);
    }

    fn every_way_to_change_data_gets_past_a_reader(scratch) {
        overcoat_only!();
        let data = bytes(1, SIZE);
        let changes: [(&str, Change); 5] = [
            ("trunc", |path| drop(fsx::open(path, OFlags::WRONLY | OFlags::TRUNC).unwrap())),
            ("cut", |path| truncate(path, 3)),
            ("grow", |path| truncate(path, 2 * SIZE as u64)),
            ("append", |path| {
                let mut file = fsx::open(path, OFlags::WRONLY | OFlags::APPEND).unwrap();
                fsx::append(&mut file, b"more");
            }),
            ("create", |path| fsx::write(path, "short")),
        ];
        for (name, _) in changes {
            fsx::write(scratch.lower().join(name), &data);
        }
        let mount = Spec::of(scratch).option("passthrough=on").mount();
        for (name, change) in changes {
            let path = mount.path(name);
            let reader = fsx::open_ro(&path);
            change(&path);
            let mut want = data.clone();
            match name {
                "trunc" => want.clear(),
                "cut" => want.truncate(3),
                "grow" => want.resize(2 * SIZE, 0),
                "append" => want.extend(b"more"),
                _ => want = b"short".to_vec(),
            }
            assert!(fsx::read(&path) == want, "{name}");
            assert_eq!(std::fs::metadata(&path).unwrap().len(), want.len() as u64, "{name}");
            assert!(fsx::read_at(&reader, 0, SIZE) == data, "{name}: the reader");
        }
    }

    fn attributes_agree_after_a_retirement(scratch) {
        overcoat_only!();
        let (mount, data) = mount(scratch);
        let path = mount.path("f");
        let reader = fsx::open_ro(&path);
        drop(fsx::open_rw(&path));
        // A change through what was retired would not show under the name.
        assert_eq!(rustix::fs::fchmod(&reader, 0o600.into()), Err(Errno::STALE));
        fsx::chmod(&path, 0o640);
        fsx::set_xattr(&path, "user.a", b"1").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fsx::get_xattr(&path, "user.a").unwrap(), b"1");
        std::fs::rename(&path, mount.path("g")).unwrap();
        std::fs::hard_link(mount.path("g"), mount.path("h")).unwrap();
        assert_eq!(std::fs::metadata(mount.path("g")).unwrap().nlink(), 2);
        std::fs::remove_file(mount.path("g")).unwrap();
        assert!(fsx::read(mount.path("h")) == data && fsx::read_at(&reader, 0, SIZE) == data);
    }

    fn a_retired_file_cannot_be_opened_again(scratch) {
        overcoat_only!();
        let (mount, data) = mount(scratch);
        let reader = fsx::open_ro(mount.path("f"));
        assert!(reopened(&reader, OFlags::RDONLY).is_ok());
        let no_name = reopened(&reader, OFlags::RDWR);
        assert!(matches!(no_name, Err(Errno::STALE)), "no name to look up again: {no_name:?}");
        for flags in [OFlags::RDONLY, OFlags::RDWR, OFlags::WRONLY | OFlags::TRUNC] {
            assert!(matches!(reopened(&reader, flags), Err(Errno::STALE)), "{flags:?}");
        }
        assert!(fsx::read_at(&reader, 0, SIZE) == data);
        assert!(fsx::read(mount.path("f")) == data);
        fsx::write(mount.path("f"), "anew");
        drop(reader);
        assert_eq!(fsx::read(mount.path("f")), b"anew");
    }

    fn a_retired_descriptor_tells_of_the_file_as_it_is(scratch) {
        overcoat_only!();
        let (mount, data) = mount(scratch);
        let reader = fsx::open_ro(mount.path("f"));
        let writer = fsx::open_rw(mount.path("f"));
        for size in [5000, 7000] {
            writer.set_len(size).unwrap();
            assert_eq!(reader.metadata().unwrap().len(), size);
        }
        fsx::chmod(mount.path("f"), 0o600);
        assert_eq!(reader.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(fsx::read_at(&reader, 0, SIZE) == data);
    }

    fn a_change_beside_the_first_open_for_writing_shows(scratch) {
        overcoat_only!();
        const FILES: usize = 1000;
        for number in 0..FILES {
            fsx::write(scratch.lower().join(number.to_string()), "x");
        }
        let mount = Spec::of(scratch).option("passthrough=on").mount();
        let start = Barrier::new(3);
        let each = |act: &dyn Fn(&Path)| {
            for number in 0..FILES {
                let path = mount.path(number.to_string());
                let _reader = fsx::open_ro(&path);
                start.wait();
                act(&path);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| each(&|path| drop(fsx::open_rw(path))));
            scope.spawn(|| each(&|path| fsx::chmod(path, 0o600)));
            scope.spawn(|| each(&|path| std::fs::hard_link(path, path.with_extension("l")).unwrap()));
        });
        for number in 0..FILES {
            let path = mount.path(number.to_string());
            fsx::write_at(&fsx::open_rw(&path), 1, b"yz");
            for name in [path.with_extension("l"), path] {
                let found = std::fs::metadata(&name).unwrap();
                assert_eq!((found.mode() & 0o777, found.len(), found.nlink()), (0o600, 3, 2), "{name:?}");
            }
        }
    }

    fn linking_past_a_reader(scratch) {
        overcoat_only!();
        let (mount, data) = mount(scratch);
        let reader = fsx::open_ro(mount.path("f"));
        std::fs::hard_link(mount.path("f"), mount.path("g")).unwrap();
        fsx::write_at(&fsx::open_rw(mount.path("g")), 0, b"new");
        let want = [b"new", &data[3..]].concat();
        assert!(fsx::read(mount.path("f")) == want && fsx::read(mount.path("g")) == want);
        assert_eq!(fsx::ino(mount.path("f")), fsx::ino(mount.path("g")));
        assert_eq!(std::fs::metadata(mount.path("f")).unwrap().nlink(), 2);
        drop(reader);
    }

    fn lower_hard_links_are_passed_through_only_where_nothing_changes(scratch) {
        overcoat_only!();
        let data = bytes(1, SIZE);
        fsx::write(scratch.lower().join("f"), &data);
        std::fs::hard_link(scratch.lower().join("f"), scratch.lower().join("g")).unwrap();
        let mount = Spec::of(scratch).option("passthrough=on").mount();
        let reader = fsx::open_ro(mount.path("f"));
        fsx::write_at(&fsx::open_rw(mount.path("g")), 0, b"new");
        assert!(fsx::read_at(&reader, 0, SIZE) == [b"new", &data[3..]].concat());
        drop(reader);
        mount.unmount();
        let mount = Spec::of(scratch).option("passthrough=on").read_only().mount();
        let reader = fsx::open_ro(mount.path("g"));
        assert!(fsx::read_at(&reader, 0, SIZE) == data);
        assert!(is_through(mount, reader));
    }

    fn unlinked_and_replaced_while_open(scratch) {
        overcoat_only!();
        let (mount, data) = mount(scratch);
        let reader = fsx::open_ro(mount.path("f"));
        std::fs::remove_file(mount.path("f")).unwrap();
        fsx::write(mount.path("f"), "another");
        assert!(fsx::read_at(&reader, 0, SIZE) == data);
        fsx::write(mount.path("g"), "a third");
        std::fs::rename(mount.path("g"), mount.path("f")).unwrap();
        assert_eq!(fsx::read(mount.path("f")), b"a third");
        assert!(fsx::read_at(&reader, 0, SIZE) == data);
        let again = reopened(&reader, OFlags::RDONLY).unwrap();
        assert!(fsx::read_at(&again, 0, SIZE) == data);
        assert!(is_through(mount, again));
    }

    fn a_reader_joins_a_writer(scratch) {
        overcoat_only!();
        let (mount, data) = mount(scratch);
        let writer = fsx::open_rw(mount.path("f"));
        let reader = fsx::open_ro(mount.path("f"));
        fsx::write_at(&writer, 0, b"new");
        assert!(fsx::read_at(&reader, 0, SIZE) == [b"new", &data[3..]].concat());
    }

    fn a_mapping_keeps_its_bytes_while_a_writer_comes(scratch) {
        overcoat_only!();
        let (mount, data) = mount(scratch);
        let reader = fsx::open_ro(mount.path("f"));
        let mapping = mapped(&reader);
        drop(reader);
        fsx::write_at(&fsx::open_rw(mount.path("f")), 0, b"new");
        assert!(mapping[..] == data[..]);
        assert!(fsx::read(mount.path("f")) == [b"new", &data[3..]].concat());
    }

    fn a_program_that_runs_is_busy(scratch) {
        overcoat_only!();
        put_program(&scratch.lower().join("p"));
        let before = manifest::of_layer(&scratch.lower());
        let mount = Spec::of(scratch).option("passthrough=on").mount();
        let mut child =
            Command::new(mount.path("p")).arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let busy = fsx::open(mount.path("p"), OFlags::RDWR);
        assert!(matches!(busy, Err(Errno::TXTBSY)), "{busy:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        fsx::write_at(&fsx::open_rw(mount.path("p")), 0, b"#!/bin/sh\nexit 3\n");
        let status = Command::new(mount.path("p")).status().unwrap();
        assert_eq!(status.code(), Some(3));
        mount.unmount();
        manifest::of_layer(&scratch.lower()).assert_same(&before, "the layer");
    }

    fn direct_io_beside_a_reader(scratch) {
        overcoat_only!();
        let (mount, data) = mount(scratch);
        let reader = fsx::open_ro(mount.path("f"));
        let direct = fsx::open(mount.path("f"), OFlags::RDONLY | OFlags::DIRECT).unwrap();
        let mut block = memmap2::MmapMut::map_anon(4096).unwrap();
        assert_eq!(rustix::io::pread(&direct, &mut block[..], 4096), Ok(4096));
        assert!(block[..] == data[4096..8192]);
        // Who only reads sends nobody away.
        for flags in [OFlags::RDONLY, OFlags::RDONLY | OFlags::DIRECT, OFlags::RDONLY | OFlags::APPEND] {
            assert!(reopened(&reader, flags).is_ok(), "{flags:?}");
        }
        assert!(is_through(mount, reader));
    }

    fn access_times_of_the_layer_stay(scratch) {
        overcoat_only!();
        let data = bytes(1, SIZE);
        let below = scratch.lower().join("f");
        fsx::write(&below, &data);
        fsx::set_times(&below, (1000, 0), (2000, 0)).unwrap();
        let mount = Spec::of(scratch).option("passthrough=on").mount();
        let reader = fsx::open_ro(mount.path("f"));
        assert!(fsx::read_at(&reader, 0, SIZE) == data);
        let mapping = mapped(&reader);
        assert!(mapping[..] == data[..]);
        assert_eq!(std::fs::metadata(&below).unwrap().atime(), 1000);
    }

    fn more_files_than_the_bound(scratch) {
        overcoat_only!();
        const FILES: usize = 4200;
        for number in 0..FILES {
            fsx::write(scratch.lower().join(number.to_string()), number.to_string());
        }
        let limit = raise_descriptor_limit();
        if limit < FILES as u64 + 100 {
            eprintln!("skipped: {limit} descriptors");
            return;
        }
        let mount = Spec::of(scratch).option("passthrough=on").mount();
        let open: Vec<File> =
            (0..FILES).map(|number| fsx::open_ro(mount.path(number.to_string()))).collect();
        for (number, file) in open.iter().enumerate() {
            assert_eq!(fsx::read_at(file, 0, 9), number.to_string().as_bytes());
        }
        // Those beyond the bound are cached, and a writer joins them.
        let last = mount.path((FILES - 1).to_string());
        fsx::write_at(&fsx::open_rw(&last), 0, b"!");
        assert_eq!(fsx::read_at(&open[FILES - 1], 0, 1), b"!");
        drop(open);
        mount.unmount();
    }

    fn many_readers_and_writers_at_once(scratch) {
        overcoat_only!();
        let data = vec![b'0'; SIZE];
        for number in 0..4 {
            fsx::write(scratch.lower().join(number.to_string()), &data);
        }
        let before = manifest::of_layer(&scratch.lower());
        let mount = Spec::of(scratch).option("passthrough=on").mount();
        std::thread::scope(|scope| {
            for number in 0..4_usize {
                let path = mount.path(number.to_string());
                let written = path.clone();
                let writer = scope.spawn(move || {
                    for round in b'1'..=b'9' {
                        fsx::write_at(&fsx::open_rw(&written), 0, &vec![round; SIZE]);
                        assert!(fsx::read(&written) == vec![round; SIZE], "its own writes");
                    }
                });
                scope.spawn(move || {
                    let mut last = b'0';
                    loop {
                        // Also when it failed: then the test has.
                        let ended = writer.is_finished();
                        let first = fsx::read_at(&fsx::open_ro(&path), 0, 1)[0];
                        assert!(first >= last, "{first} after {last}");
                        last = first;
                        if ended {
                            break;
                        }
                    }
                });
            }
        });
        mount.unmount();
        manifest::of_layer(&scratch.lower()).assert_same(&before, "the layers");
    }

    fn an_open_for_writing_beside_readers_succeeds(scratch) {
        overcoat_only!();
        const FILES: usize = 2000;
        for number in 0..FILES {
            fsx::write(scratch.lower().join(number.to_string()), "x");
        }
        let mount = Spec::of(scratch).option("passthrough=on").mount();
        // The kernel looks a name up again once for an open. Meanwhile it may have let go of the inode, and
        // a reader come to the name before.
        std::thread::scope(|scope| {
            for opener in 0..4 {
                let mount = &mount;
                scope.spawn(move || {
                    for number in 0..FILES {
                        let path = mount.path(number.to_string());
                        match opener {
                            0 => drop(fsx::open_rw(&path)),
                            _ => assert_eq!(fsx::read_at(&fsx::open_ro(&path), 0, 9), b"x"),
                        }
                    }
                });
            }
        });
        mount.unmount();
    }

    fn a_killed_daemon_and_a_remount(scratch) {
        overcoat_only!();
        let (mount, data) = mount(scratch);
        let reader = fsx::open_ro(mount.path("f"));
        fsx::write_at(&fsx::open_rw(mount.path("f")), 0, b"new");
        mount.kill();
        assert!(fsx::read_at(&reader, 0, SIZE) == data);
        let mount = Spec::of(scratch).option("passthrough=on").mount();
        assert!(fsx::read(mount.path("f")) == [b"new", &data[3..]].concat());
    }

    fn where_it_cannot_be_the_mount_says_so(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("f"), "x");
        let spec = Spec::of(scratch).option("passthrough=on,writeback=on");
        let (outcome, _) = logged(scratch, &spec);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert!(outcome.stderr.contains("passthrough=on"), "{outcome:?}");
        assert!(!is_mounted(&spec.point));
    }
}

fn mapped(file: &File) -> memmap2::Mmap {
    // SAFETY: nothing shortens the file below.
    unsafe { memmap2::Mmap::map(file) }.unwrap()
}

/// How many pages of a mapping are in the page cache.
fn resident(mapping: &memmap2::Mmap) -> usize {
    let mut pages = vec![0u8; mapping.len().div_ceil(4096)];
    let start = mapping.as_ptr().cast_mut().cast();
    // SAFETY: the mapping is alive, and the kernel writes a byte per page of it.
    let done = unsafe { libc::mincore(start, mapping.len(), pages.as_mut_ptr()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    pages.iter().filter(|page| **page & 1 != 0).count()
}

/// truncate(2), which opens nothing.
fn truncate(path: &Path, size: u64) {
    let path = std::ffi::CString::new(fsx::path_bytes(path)).unwrap();
    // SAFETY: the path is NUL-terminated and outlives the call.
    let done = unsafe { libc::truncate(path.as_ptr(), size as libc::off_t) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

fn raise_descriptor_limit() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.unwrap_or(u64::MAX)
}
