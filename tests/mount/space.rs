//! Sizes, holes and allocation.

use overcoat_tests::rng::bytes;
use overcoat_tests::{Mount, Scratch, Spec, fsx, mount_tests, overcoat_only, store};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

const MODES: [FallocateFlags; 5] = [
    FallocateFlags::empty(),
    FallocateFlags::KEEP_SIZE,
    FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE),
    FallocateFlags::ZERO_RANGE,
    FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE),
];

/// A mount with the same 64 KiB as `lower` (from below) and as `upper` (written).
fn two_files(scratch: &Scratch) -> (Mount, Vec<u8>) {
    let data = bytes(3, 65536);
    fsx::write(scratch.lower().join("lower"), &data);
    let mount = Spec::of(scratch).mount();
    fsx::write(mount.path("upper"), &data);
    (mount, data)
}

/// What a range of a file is after `mode`.
fn expected(data: &[u8], mode: FallocateFlags, offset: usize, len: usize) -> Vec<u8> {
    let mut data = data.to_vec();
    let end = offset + len;
    if !mode.contains(FallocateFlags::KEEP_SIZE) && data.len() < end {
        data.resize(end, 0);
    }
    if mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
        let (start, end) = (offset.min(data.len()), end.min(data.len()));
        data[start..end].fill(0);
    }
    data
}

mount_tests! {
    fn fallocate_modes(scratch) {
        let (mount, mut data) = two_files(scratch);
        let mut other = data.clone();
        let ranges =
            [(0, 4096), (100, 50), (4000, 9000), (65000, 2000), (90000, 10), (30000, 100), (0, 65536)];
        for (offset, len) in ranges {
            for mode in MODES {
                for (name, data) in [("lower", &mut data), ("upper", &mut other)] {
                    let file = fsx::open_rw(mount.path(name));
                    fsx::fallocate(&file, mode, offset, len).unwrap();
                    *data = expected(data, mode, offset as usize, len as usize);
                    assert!(fsx::read(mount.path(name)) == *data, "{name} {mode:?} {offset}+{len}");
                    // Some data again, for the next mode to act on.
                    fsx::write_at(&file, 0, &bytes(offset, 50_000));
                    data[..50_000].copy_from_slice(&bytes(offset, 50_000));
                }
            }
        }
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert!(fsx::read(mount.path("lower")) == data);
        assert!(fsx::read(mount.path("upper")) == other);
    }

    fn collapse_and_insert(scratch) {
        let (mount, mut data) = two_files(scratch);
        for name in ["upper", "lower"] {
            let file = fsx::open_rw(mount.path(name));
            match fsx::fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 4096, 8192) {
                // FUSE's kernel side refuses both modes before any daemon is asked.
                Err(Errno::OPNOTSUPP) => return,
                result => result.unwrap(),
            }
            let mut want = data.clone();
            want.drain(4096..12288);
            assert!(fsx::read(mount.path(name)) == want, "{name}");
            fsx::fallocate(&file, FallocateFlags::INSERT_RANGE, 4096, 8192).unwrap();
            want.splice(4096..4096, vec![0; 8192]);
            assert!(fsx::read(mount.path(name)) == want, "{name}");
        }
        data.clear();
    }

    fn fallocate_errors(scratch) {
        let (mount, _) = two_files(scratch);
        let file = fsx::open_rw(mount.path("lower"));
        let punch = FallocateFlags::PUNCH_HOLE;
        assert_eq!(fsx::fallocate(&file, punch, 0, 1), Err(Errno::OPNOTSUPP));
        assert_eq!(fsx::fallocate(&file, FallocateFlags::empty(), 0, 0), Err(Errno::INVAL));
        let reader = fsx::open_ro(mount.path("lower"));
        assert_eq!(fsx::fallocate(&reader, FallocateFlags::empty(), 0, 9), Err(Errno::BADF));
        let directory = std::fs::File::open(mount.root()).unwrap();
        assert_eq!(fsx::fallocate(&directory, FallocateFlags::empty(), 0, 9), Err(Errno::BADF));
    }

    fn truncate_both_ways_shows_zeros(scratch) {
        let (mount, data) = two_files(scratch);
        for name in ["lower", "upper"] {
            let file = fsx::open_rw(mount.path(name));
            file.set_len(1000).unwrap();
            file.set_len(70_000).unwrap();
            let now = fsx::read(mount.path(name));
            assert_eq!(now.len(), 70_000);
            assert!(now[..1000] == data[..1000], "{name}");
            assert!(now[1000..].iter().all(|byte| *byte == 0), "{name}: old bytes shine through");
            file.set_len(0).unwrap();
            file.set_len(5000).unwrap();
            assert!(fsx::is_zero(mount.path(name)), "{name}");
        }
    }

    fn writes_far_beyond_the_end(scratch) {
        let (mount, _) = two_files(scratch);
        for name in ["lower", "upper"] {
            let file = fsx::open_rw(mount.path(name));
            fsx::write_at(&file, 1 << 40, b"far");
            assert_eq!(file.metadata().unwrap().len(), (1 << 40) + 3);
            assert_eq!(fsx::read_at(&file, (1 << 40) - 2, 9), b"\0\0far");
            assert!(fsx::statx(mount.path(name)).stx_blocks < 1024, "a hole counts as blocks");
        }
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        let file = fsx::open_ro(mount.path("lower"));
        assert_eq!(fsx::read_at(&file, (1 << 40) - 2, 9), b"\0\0far");
    }

    // xfstests' generic/285: `cp` of a file that somebody is writing finds its data by these.
    fn seek_finds_data_that_the_page_cache_holds_back(scratch) {
        for transport in ["dev", "auto"] {
            let spec = Spec::of(scratch).option(&format!("transport={transport}"));
            let mount = spec.option("writeback=on").mount();
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
            let open = |n| fsx::open(mount.path(format!("f{n}")), flags).unwrap();
            let files: Vec<_> = (0..16).map(open).collect();
            // More of them at a time than there are threads to write out what they wait for.
            std::thread::scope(|scope| {
                for file in &files {
                    scope.spawn(move || {
                        fsx::write_at(file, 1 << 20, &bytes(1, 300_000));
                        file.set_len(4 << 20).unwrap();
                        // Refused, and not answered wrongly, where too many wait.
                        let seek = |to| loop {
                            match rustix::fs::seek(file, to) {
                                Err(Errno::INVAL) => std::thread::yield_now(),
                                done => return done,
                            }
                        };
                        assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), Ok(1 << 20));
                        assert_eq!(seek(rustix::fs::SeekFrom::Hole(1 << 20)), Ok((1 << 20) + 303_104));
                        fsx::write_at(file, 3 << 20, b"x");
                        assert_eq!(seek(rustix::fs::SeekFrom::Data(2 << 20)), Ok(3 << 20));
                        assert_eq!(fsx::read_at(file, 1 << 20, 300_000), bytes(1, 300_000));
                    });
                }
            });
            drop(files);
            mount.unmount();
        }
    }

    fn a_hole_of_a_lower_stays_one(scratch) {
        const KIB: u64 = 1024;
        let keep = FallocateFlags::KEEP_SIZE;
        let changes = [
            ("allocated", keep, 16 * KIB, 8 * KIB, 16),
            ("punched", keep | FallocateFlags::PUNCH_HOLE, 3013, 12_288, 0),
            ("punched_in_a_block", keep | FallocateFlags::PUNCH_HOLE, 100, 100, 0),
            ("zeroed", keep | FallocateFlags::ZERO_RANGE, 4096, 12_288, 24),
        ];
        for (name, ..) in changes {
            let lower = std::fs::File::create(scratch.lower().join(name)).unwrap();
            lower.set_len(1 << 20).unwrap();
        }
        let mount = Spec::of(scratch).mount();
        for (name, how, offset, len, sectors) in changes {
            let file = fsx::open_rw(mount.path(name));
            rustix::fs::fallocate(&file, how, offset, len).unwrap();
            let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0));
            assert_eq!(data, Err(Errno::NXIO), "{name}");
            assert_eq!(rustix::fs::fstat(&file).unwrap().st_blocks, sectors, "{name}");
        }
    }

    fn seek_finds_data_and_holes(scratch) {
        overcoat_only!(); // overlayfs copies up by the mebibyte
        fsx::sparse_file(scratch.lower().join("lower"), 16 << 20);
        let mount = Spec::of(scratch).mount();
        fsx::sparse_file(mount.path("upper"), 16 << 20);
        for name in ["lower", "upper"] {
            let file = fsx::open_rw(mount.path(name));
            rustix::fs::fsync(&file).unwrap();
            assert_eq!(
                fsx::data_ranges(&file),
                [(0, 4096), ((16 << 20) - 4096, 16 << 20)],
                "{name} before a change"
            );
            fsx::write_at(&file, 1 << 20, &bytes(5, 8192));
            rustix::fs::fsync(&file).unwrap();
            let want = [(0, 4096), (1 << 20, (1 << 20) + 8192), ((16 << 20) - 4096, 16 << 20)];
            assert_eq!(fsx::data_ranges(&file), want, "{name} after a change");
            let seek = |to| rustix::fs::seek(&file, to);
            assert_eq!(seek(rustix::fs::SeekFrom::Hole(100)), Ok(4096));
            assert_eq!(seek(rustix::fs::SeekFrom::Data(16 << 20)), Err(Errno::NXIO));
            assert_eq!(seek(rustix::fs::SeekFrom::Hole((16 << 20) - 1)), Ok(16 << 20));
        }
    }

    fn a_punch_to_the_end_takes_the_last_block(scratch) {
        fsx::write(scratch.lower().join("f"), bytes(5, 5000));
        let mount = Spec::of(scratch).mount();
        let file = fsx::open_rw(mount.path("f"));
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fsx::fallocate(&file, punch, 4095, 4095).unwrap();
        assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(4999)), Ok(4999));
        let mut whole = bytes(5, 5000);
        whole[4095..].fill(0);
        assert_eq!(std::fs::read(mount.path("f")).unwrap(), whole);
    }

    fn a_punched_lower_range_is_a_hole(scratch) {
        let (mount, data) = two_files(scratch);
        let file = fsx::open_rw(mount.path("lower"));
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fsx::fallocate(&file, punch, 8192, 16384).unwrap();
        assert_eq!(fsx::data_ranges(&file), [(0, 8192), (24576, 65536)]);
        assert!(fsx::read(scratch.lower().join("lower")) == data, "the layer has been changed");
    }

    fn copying_a_sparse_file_keeps_it_sparse(scratch) {
        overcoat_only!();
        fsx::sparse_file(scratch.lower().join("s"), 1 << 30);
        let mount = Spec::of(scratch).mount();
        fsx::chmod(mount.path("s"), 0o600);
        fsx::write_at(&fsx::open_rw(mount.path("s")), 1 << 29, b"x");
        let stat = fsx::statx(mount.path("s"));
        assert_eq!(stat.stx_size, 1 << 30);
        assert!(stat.stx_blocks * 512 < 100 << 10, "{} blocks", stat.stx_blocks);
        let to = mount.path("copy");
        overcoat_tests::tool::run("cp", &["--sparse=auto".into(), mount.path("s"), to.clone()]);
        assert!(fsx::statx(to).stx_blocks * 512 < 1 << 20);
    }

    fn no_request_is_endless_or_fills_the_host(scratch) {
        overcoat_only!();
        let sparse = std::fs::File::create(scratch.lower().join("sparse")).unwrap();
        sparse.set_len(1 << 43).unwrap();
        let mount = Spec::of(scratch).mount();
        let (from, to) = (fsx::open_rw(mount.path("sparse")), std::fs::File::create(mount.path("to")).unwrap());
        let copied = rustix::fs::copy_file_range(&from, None, &to, None, 1 << 40).unwrap();
        assert!(copied > 0 && copied <= 64 << 20, "{copied} bytes at once");
        to.set_len(0).unwrap();
        for (file, len) in [(&to, 1 << 50), (&to, 1 << 43), (&from, 1 << 43)] {
            let done = fsx::fallocate(file, FallocateFlags::empty(), 0, len);
            assert_eq!(done, Err(Errno::NOSPC), "{len} bytes");
            let taken = store::used(&scratch.upper());
            assert!(taken < 128 << 20, "{taken} bytes of the host are taken by a request that failed");
        }
        let seek = |at| rustix::fs::seek(&to, at);
        to.set_len(i64::MAX as u64).unwrap();
        assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), Err(Errno::NXIO));
        fsx::write_at(&to, 1 << 62, b"x");
        to.sync_all().unwrap();
        assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), Ok(1 << 62));
        assert_eq!(seek(rustix::fs::SeekFrom::Hole(1 << 62)), Ok((1 << 62) + 4096));
        fsx::write(mount.path("new"), "still works");
    }

    fn copy_file_range(scratch) {
        let (mount, data) = two_files(scratch);
        for (from, to) in [("lower", "upper"), ("upper", "lower"), ("lower", "new"), ("upper", "new")] {
            let source = fsx::open_ro(mount.path(from));
            let target = fsx::open(
                mount.path(to),
                rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CREATE,
            ).unwrap();
            let (mut from_offset, mut to_offset, mut left) = (1000_u64, 5000_u64, 30_000_usize);
            while left > 0 {
                let done = rustix::fs::copy_file_range(
                    &source, Some(&mut from_offset), &target, Some(&mut to_offset), left,
                ).unwrap();
                assert!(done > 0, "nothing copied of {left} left");
                left -= done;
            }
            assert!(fsx::read_at(&target, 5000, 30_000) == data[1000..31_000], "{from} to {to}");
            assert!(fsx::read(mount.path(from)) == data, "{from} was copied from");
            // The other bytes of the target are what they were.
            let around: &[u8] = if to == "new" { &[0; 5000] } else { &data[..5000] };
            assert!(fsx::read_at(&target, 0, 5000) == around, "{from} to {to}");
            fsx::write(mount.path("lower"), &data);
            fsx::write(mount.path("upper"), &data);
            drop(std::fs::remove_file(mount.path("new")));
        }
        let file = fsx::open_rw(mount.path("upper"));
        // Past the end of the source there is nothing to copy.
        let done = rustix::fs::copy_file_range(&file, Some(&mut 70_000), &file, Some(&mut 0), 10);
        assert_eq!(done, Ok(0));
        // Overlapping ranges of one file are refused.
        let done = rustix::fs::copy_file_range(&file, Some(&mut 0), &file, Some(&mut 10), 100);
        assert_eq!(done, Err(Errno::INVAL));
        // Apart they work.
        let done = rustix::fs::copy_file_range(&file, Some(&mut 0), &file, Some(&mut 40_000), 100);
        assert_eq!(done, Ok(100));
        assert!(fsx::read_at(&file, 40_000, 100) == data[..100]);
    }
}
