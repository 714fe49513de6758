//! Reading and writing: descriptor flags, mappings, large and small.

use std::fs::File;
use std::io::Write as _;

use memmap2::{MmapMut, MmapOptions};
use overcoat_tests::rng::{Rng, bytes};
use overcoat_tests::{Scratch, Spec, fsx, mount_tests};
use rustix::fs::OFlags;

/// `lower` with 1 MiB in the lower of `scratch`; returns its bytes.
fn lower_file(scratch: &Scratch) -> Vec<u8> {
    let data = bytes(9, 1 << 20);
    fsx::write(scratch.lower().join("f"), &data);
    data
}

fn map_shared(file: &File) -> MmapMut {
    // SAFETY: the file is this test's own; nobody truncates it while it is mapped.
    unsafe { MmapOptions::new().map_mut(file) }.unwrap()
}

fn map_private(file: &File) -> MmapMut {
    // SAFETY: the file is this test's own; nobody truncates it while it is mapped.
    unsafe { MmapOptions::new().map_copy(file) }.unwrap()
}

/// A part of `buffer` whose address is a multiple of 4096.
fn aligned(buffer: &mut [u8], len: usize) -> &mut [u8] {
    let start = buffer.as_ptr().align_offset(4096);
    &mut buffer[start..start + len]
}

mount_tests! {
    fn append_goes_to_the_end(scratch) {
        let data = lower_file(scratch);
        let mount = Spec::of(scratch).mount();
        let mut one = fsx::open(mount.path("f"), OFlags::WRONLY | OFlags::APPEND).unwrap();
        let mut two = fsx::open(mount.path("f"), OFlags::WRONLY | OFlags::APPEND).unwrap();
        for _ in 0..100 {
            one.write_all(b"one ").unwrap();
            two.write_all(b"two ").unwrap();
        }
        let now = fsx::read(mount.path("f"));
        assert_eq!(now.len(), data.len() + 800);
        assert!(now[..data.len()] == data);
        assert_eq!(&now[data.len()..data.len() + 16], b"one two one two ");
    }

    fn appenders_in_parallel_lose_nothing(scratch) {
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("f"), "");
        std::thread::scope(|scope| {
            for number in 0..4_u8 {
                let path = mount.path("f");
                scope.spawn(move || {
                    let mut file = fsx::open(path, OFlags::WRONLY | OFlags::APPEND).unwrap();
                    for _ in 0..500 {
                        file.write_all(&[b'a' + number; 10]).unwrap();
                    }
                });
            }
        });
        let data = fsx::read(mount.path("f"));
        assert_eq!(data.len(), 4 * 500 * 10);
        assert!(data.chunks(10).all(|chunk| chunk.iter().all(|byte| *byte == chunk[0])));
    }

    fn synchronous_and_direct_writes(scratch) {
        let mut data = lower_file(scratch);
        let mount = Spec::of(scratch).mount();
        for flags in [OFlags::SYNC, OFlags::DSYNC, OFlags::DIRECT, OFlags::DIRECT | OFlags::SYNC] {
            let file = fsx::open(mount.path("f"), OFlags::RDWR | flags)
                .unwrap_or_else(|error| panic!("{flags:?}: {error}"));
            let mut buffer = vec![0; 3 * 4096];
            let block = aligned(&mut buffer, 4096);
            block.copy_from_slice(&bytes(u64::from(flags.bits()), 4096));
            fsx::write_at(&file, 8192, block);
            data[8192..12288].copy_from_slice(block);
            // Seen at once by a descriptor that goes through the cache, and the other way round.
            let cached = fsx::open_rw(mount.path("f"));
            assert!(fsx::read_at(&cached, 8192, 4096) == block, "{flags:?}");
            fsx::write_at(&cached, 20, b"cached");
            data[20..26].copy_from_slice(b"cached");
            let mut buffer = vec![0; 3 * 4096];
            let block = aligned(&mut buffer, 4096);
            std::os::unix::fs::FileExt::read_exact_at(&file, block, 0).unwrap();
            assert!(block == &data[..4096], "{flags:?}");
        }
        assert!(fsx::read(mount.path("f")) == data);
    }

    fn a_shared_mapping_writes_through(scratch) {
        let mut data = lower_file(scratch);
        let mount = Spec::of(scratch).mount();
        let file = fsx::open_rw(mount.path("f"));
        let mut map = map_shared(&file);
        assert!(map[..] == data[..]);
        map[5000..5006].copy_from_slice(b"mapped");
        data[5000..5006].copy_from_slice(b"mapped");
        assert!(fsx::read(mount.path("f")) == data, "read after a store to the mapping");
        fsx::write_at(&file, 6000, b"written");
        assert_eq!(&map[6000..6007], b"written", "the mapping after a write");
        data[6000..6007].copy_from_slice(b"written");
        map.flush().unwrap();
        drop((map, file));
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert!(fsx::read(mount.path("f")) == data);
    }

    fn a_private_mapping_keeps_to_itself(scratch) {
        let data = lower_file(scratch);
        let mount = Spec::of(scratch).mount();
        let mut map = map_private(&fsx::open_ro(mount.path("f")));
        map[100..107].copy_from_slice(b"private");
        assert!(fsx::read(mount.path("f")) == data);
        assert!(map[200..] == data[200..]);
    }

    fn a_mapping_of_a_hole_reads_zero_and_takes_stores(scratch) {
        let mount = Spec::of(scratch).mount();
        let file = File::options().read(true).write(true).create_new(true).open(mount.path("f")).unwrap();
        file.set_len(100_000).unwrap();
        let mut map = map_shared(&file);
        assert!(map.iter().all(|byte| *byte == 0));
        map[99_999] = 7;
        map[50_000] = 8;
        map.flush().unwrap();
        let data = fsx::read(mount.path("f"));
        assert_eq!((data[50_000], data[99_999], data.len()), (8, 7, 100_000));
    }

    fn an_executable_runs_from_lower_and_upper(scratch) {
        std::fs::copy("/bin/true", scratch.lower().join("lower")).unwrap();
        let mount = Spec::of(scratch).mount();
        std::fs::copy("/bin/true", mount.path("upper")).unwrap();
        for name in ["lower", "upper"] {
            overcoat_tests::tool::run::<&str>(mount.path(name).to_str().unwrap(), &[]);
        }
        // While it runs it cannot be written, and it can be written afterwards.
        std::fs::copy("/bin/sleep", mount.path("sleep")).unwrap();
        let mut child = std::process::Command::new(mount.path("sleep")).arg("100").spawn().unwrap();
        let busy = fsx::open(mount.path("sleep"), OFlags::WRONLY).map(drop);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(busy, Err(rustix::io::Errno::TXTBSY));
        fsx::open(mount.path("sleep"), OFlags::WRONLY).map(drop).unwrap();
    }

    fn random_writes_and_reads_agree_with_a_buffer(scratch) {
        let mut data = lower_file(scratch);
        let mount = Spec::of(scratch).mount();
        let mut rng = Rng::from_env("random writes");
        let mut file = fsx::open_rw(mount.path("f"));
        for step in 0..2000 {
            let offset = usize::try_from(rng.below(1_200_000)).unwrap();
            let most = if rng.one_in(10) { 300_000 } else { 9000 };
            let len = usize::try_from(rng.below(most)).unwrap();
            match rng.below(10) {
                0..4 => {
                    let new = bytes(rng.next(), len);
                    fsx::write_at(&file, offset as u64, &new);
                    if data.len() < offset + len && len > 0 {
                        data.resize(offset + len, 0);
                    }
                    if len > 0 {
                        data[offset..offset + len].copy_from_slice(&new);
                    }
                }
                4 => {
                    file.set_len(offset as u64).unwrap();
                    data.resize(offset, 0);
                }
                5 if rng.one_in(4) => file = fsx::open_rw(mount.path("f")),
                6 if rng.one_in(4) => file.sync_all().unwrap(),
                _ => {
                    let end = data.len().min(offset + len);
                    let want = &data[offset.min(end)..end];
                    assert!(fsx::read_at(&file, offset as u64, len) == want, "step {step}");
                }
            }
            if len == 0 {
                assert_eq!(file.metadata().unwrap().len(), data.len() as u64);
            }
        }
        drop(file);
        mount.unmount();
        let mount = Spec::of(scratch).mount();
        assert!(fsx::read(mount.path("f")) == data);
    }
}
