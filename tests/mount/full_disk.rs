//! The host's disk is full: ENOSPC, nothing corrupt, and what was there can be read.

use overcoat_tests::rng::bytes;
use overcoat_tests::{Disk, Scratch, Spec, fsx, mount_tests, overcoat_only, store, tool};

fn spec(scratch: &Scratch, disk: &Disk) -> Spec {
    let mut spec = Spec::of(scratch);
    spec.upper = Some(disk.dir("upper"));
    spec
}

/// Writes 1 MiB files until one does not fit; returns how many are whole.
fn fill(root: &std::path::Path) -> u64 {
    for number in 0.. {
        let path = root.join(format!("fill{number}"));
        let written = std::fs::File::create(&path).and_then(|file| {
            std::io::Write::write_all(&mut &file, &bytes(number, 1 << 20))?;
            file.sync_all()
        });
        if let Err(error) = written {
            assert_eq!(
                error.raw_os_error(),
                Some(28),
                "ENOSPC is the error of a full disk: {error}"
            );
            return number;
        }
    }
    unreachable!()
}

mount_tests! {
    fn writes_fail_and_the_rest_goes_on(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("lower"), bytes(99, 100_000));
        let disk = Disk::on_disk(scratch, 48);
        let mount = spec(scratch, &disk).mount();
        let whole = fill(mount.root());
        assert!(whole > 20, "{whole} MiB fitted on a disk of 48");
        for number in 0..whole {
            assert!(fsx::read(mount.path(format!("fill{number}"))) == bytes(number, 1 << 20), "{number}");
        }
        assert!(fsx::read(mount.path("lower")) == bytes(99, 100_000));
        // Removing works on a full disk, and makes room.
        std::fs::remove_file(mount.path(format!("fill{whole}"))).unwrap();
        for number in 0..10 {
            std::fs::remove_file(mount.path(format!("fill{number}"))).unwrap();
        }
        let limit = std::time::Duration::from_secs(5);
        tool::eventually("room after removing", limit, || {
            std::fs::write(mount.path("again"), bytes(5, 5 << 20)).is_ok()
        });
        mount.unmount();
        store::assert_clean(&disk.dir("upper"));
        let mount = spec(scratch, &disk).mount();
        assert!(fsx::read(mount.path("again")) == bytes(5, 5 << 20));
        for number in 10..whole {
            assert!(fsx::read(mount.path(format!("fill{number}"))) == bytes(number, 1 << 20), "{number}");
        }
    }

    fn a_full_disk_survives_a_kill_and_a_remount(scratch) {
        overcoat_only!();
        let disk = Disk::on_disk(scratch, 32);
        let mount = spec(scratch, &disk).mount();
        let whole = fill(mount.root());
        let names = fsx::names(mount.root());
        mount.kill();
        store::assert_clean(&disk.dir("upper"));
        let mount = spec(scratch, &disk).mount();
        assert_eq!(fsx::names(mount.root()), names);
        for number in 0..whole {
            assert!(fsx::read(mount.path(format!("fill{number}"))) == bytes(number, 1 << 20), "{number}");
        }
        for name in names {
            std::fs::remove_file(mount.path(name)).unwrap();
        }
        mount.unmount();
        store::assert_clean(&disk.dir("upper"));
    }

    fn metadata_alone_can_fill_it(scratch) {
        overcoat_only!();
        let disk = Disk::on_disk(scratch, 16);
        let mount = spec(scratch, &disk).mount();
        fill(mount.root());
        let mut made = 0;
        let full = loop {
            let path = mount.path(format!("{}-{made}", "n".repeat(200)));
            match std::fs::create_dir(path) {
                Ok(()) => made += 1,
                Err(error) => break error.raw_os_error(),
            }
            if made == 200_000 {
                break Some(28); // the reserve for removing is generous
            }
        };
        assert_eq!(full, Some(28));
        for number in 0..made.min(1000) {
            std::fs::remove_dir(mount.path(format!("{}-{number}", "n".repeat(200)))).unwrap();
        }
        mount.unmount();
        store::assert_clean(&disk.dir("upper"));
        assert_eq!(spec(scratch, &disk).mount().root(), scratch.path("mnt"));
    }

    fn stores_to_a_mapping_never_raise_sigbus(scratch) {
        overcoat_only!();
        let disk = Disk::on_disk(scratch, 32);
        let mount = spec(scratch, &disk).mount();
        fill(mount.root());
        // In a process of its own: a SIGBUS would take the whole test with it.
        let program = "import mmap,sys\n\
             f=open(sys.argv[1],'w+b'); f.truncate(8<<20)\n\
             m=mmap.mmap(f.fileno(),8<<20)\n\
             for i in range(0,8<<20,4096): m[i]=1\n\
             try: m.flush()\n\
             except OSError as e: print(e.errno)\n";
        let mut command = std::process::Command::new("python3");
        command.arg("-c").arg(program).arg(mount.path("mapped"));
        let outcome = tool::run_limited(&mut command, std::time::Duration::from_secs(60));
        assert!(matches!(outcome.code, Some(0 | 1)), "{outcome:?}");
        std::fs::remove_file(mount.path("mapped")).ok();
        mount.unmount();
        store::assert_clean(&disk.dir("upper"));
    }

    fn no_room_for_a_filestore_at_all(scratch) {
        overcoat_only!();
        let disk = Disk::on_disk(scratch, 8);
        let filler = std::fs::File::create(disk.dir("upper").join("filler")).unwrap();
        let chunk = vec![1; 4096];
        while std::io::Write::write_all(&mut &filler, &chunk).is_ok() {}
        let spec = spec(scratch, &disk);
        let outcome = tool::overcoat_run(&spec.arguments(), std::time::Duration::from_secs(20));
        if outcome.code == Some(0) {
            // It may be made on the first change.
            assert!(std::fs::write(spec.point.join("f"), vec![1; 1 << 20]).is_err());
            overcoat_tests::mount::unmount_below(&spec.point);
            tool::eventually("the daemon's end", std::time::Duration::from_secs(20), || {
                tool::processes(tool::overcoat(), &spec.point).is_empty()
            });
        } else {
            assert_eq!(outcome.code, Some(1), "{outcome:?}");
            assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        }
    }
}
