//! What the journal and the allocator cost: `cargo bench -p overcoat-bench --bench filestore`.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use overcoat::Errno;
use overcoat::internals::{Extent, Filestore, Log, Options, StoreBlock, Urgency, open_or_create};
use tempfile::TempDir;

const FRAMES: usize = 100_000;
const NAME: &str = "filestore";

/// A directory on the disk that the target directory is on.
fn directory() -> TempDir {
    let program = std::env::current_exe().expect("a program");
    tempfile::tempdir_in(program.parent().expect("a directory")).expect("a directory")
}

/// Opens the filestore in `dir`, or makes it; also gives the number of frames that were replayed.
fn open(dir: &Path, durable: bool) -> (Arc<Filestore>, Log, usize) {
    let fd = File::open(dir).expect("a directory");
    let options = Options { block_limit: None, durable };
    let recovering = open_or_create(fd.as_fd(), Path::new(NAME), options).expect("a filestore");
    let mut frames = 0;
    let count = |_: &[u8]| {
        frames += 1;
        Ok::<(), Errno>(())
    };
    let (store, log) = recovering.replay(count).expect("replayed").start().expect("started");
    (store, log, frames)
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    for durable in [false, true] {
        let dir = directory();
        let (_store, mut log, _) = open(dir.path(), durable);
        group.bench_function(
            BenchmarkId::new("append of 120 bytes, durable", durable),
            |bencher| {
                bencher.iter(|| log.append(&[1; 120], Urgency::Normal).expect("appended"));
            },
        );
        group.sample_size(10);
        group.bench_function(
            BenchmarkId::new("checkpoint of 100,000 frames, durable", durable),
            |bencher| {
                bencher.iter(|| {
                    let mut writer = log.begin_checkpoint().expect("begun");
                    for _ in 0..FRAMES {
                        writer.write(&[1; 120]).expect("written");
                    }
                    let pending = log.switch(writer).expect("switched");
                    log.commit(pending).expect("in force");
                });
            },
        );
        log.close().expect("closed");
    }
}

fn replay(criterion: &mut Criterion) {
    let dir = directory();
    let (_store, mut log, _) = open(dir.path(), true);
    for _ in 0..FRAMES {
        log.append(&[1; 120], Urgency::Normal).expect("appended");
    }
    log.close().expect("closed");
    drop(_store);
    let mut group = criterion.benchmark_group("journal");
    group.sample_size(10);
    group.bench_function("opening and replay of 100,000 frames", |bencher| {
        bencher.iter(|| {
            let (_store, log, frames) = open(dir.path(), true);
            assert_eq!(frames, FRAMES);
            log.close().expect("closed");
        });
    });
}

fn allocator(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("allocator");
    let dir = directory();
    let (store, _log, _) = open(dir.path(), false);
    group.bench_function("alloc and free of 1 block at the tail", |bencher| {
        bencher.iter(|| {
            for extent in store.alloc(1, None).expect("room") {
                store.free(extent);
            }
        });
    });
    group.bench_function("enter and leave the I/O gate", |bencher| {
        bencher.iter(|| drop(store.gate()));
    });
    group.sample_size(10);
    for blocks in [1, 256] {
        let what = "alloc among 200,000 free runs, blocks";
        group.bench_function(BenchmarkId::new(what, blocks), |bencher| {
            bencher.iter_batched_ref(
                || {
                    let dir = directory();
                    let (store, log, _) = open(dir.path(), false);
                    fragment(&store, 200_000);
                    (dir, store, log)
                },
                |(_, store, _)| {
                    for _ in 0..1000 {
                        drop(store.alloc(blocks, None).expect("room"));
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
}

/// Every other block of a filestore is free.
fn fragment(store: &Filestore, runs: u64) {
    let blocks = store.alloc(runs * 2, None).expect("room");
    for extent in blocks {
        for block in (0..extent.len).step_by(2) {
            store.free(Extent { start: StoreBlock(extent.start.0 + block), len: 1 });
        }
    }
    store.reclaim_now();
}

criterion_group!(benches, append, replay, allocator);
criterion_main!(benches);
