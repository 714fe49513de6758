//! Filestore and log on real files, with the reclaimer running.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use std::sync::Arc;

use crate::block::{BLOCK_SIZE, StoreBlock, StoreOffset};
use crate::config::FILESTORE_NAME;
use crate::config::Medium;
use crate::filestore::faulty::{self, Faulty, Rng};
use crate::filestore::{Extent, Filestore, OpenError, Options};
use crate::journal;

const OPTIONS: Options = Options { block_limit: None, durable: false };

/// An unlinked file on a disk's file system (the build directory's, or else the current one).
fn on_disk() -> (Arc<Filestore>, journal::Log) {
    let dir = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    journal::unkept(&Medium::Dir(dir), OPTIONS).unwrap()
}

fn within(limit: Duration, mut fine: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !fine() {
        assert!(begun.elapsed() < limit, "not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Blocks at the start that are never handed out.
const SUPERBLOCK: u64 = 2;

fn fill(store: &Filestore, e: Extent, byte: u8) {
    store.gate().write_at(e.start.offset(), &vec![byte; (e.len * BLOCK_SIZE) as usize]).unwrap();
}

#[test]
fn the_host_gets_freed_blocks_back_and_the_tail_is_cut() {
    let (store, _log) = on_disk();
    let data: Vec<Extent> = (0..800).map(|_| store.alloc(8, None).unwrap()[0]).collect();
    data.iter().for_each(|e| fill(&store, *e, 7));
    let full = store.usage().unwrap();
    assert!(
        full.host_bytes >= 6400 * BLOCK_SIZE && full.host_len == (SUPERBLOCK + 6400) * BLOCK_SIZE
    );
    let keep = |n: usize| n % 10 == 0 && n < 400;
    data.iter().enumerate().filter(|(n, _)| !keep(*n)).for_each(|(_, e)| store.free(*e));
    within(Duration::from_secs(2), || {
        let u = store.usage().unwrap();
        let live = 40 * 8 * BLOCK_SIZE;
        u.pending == 0
            && u.host_bytes <= live + live / 100 + (1 << 20)
            && u.host_len == data[390].end().offset().0
    });
    let mut buf = vec![1; BLOCK_SIZE as usize];
    store.gate().read_at(data[1].start.offset(), &mut buf).unwrap();
    assert!(buf.iter().all(|b| *b == 0), "punched blocks read zero");
    store.gate().read_at(StoreOffset(data[390].end().offset().0 - 10), &mut buf).unwrap();
    assert!(buf[..10].iter().all(|b| *b == 7) && buf[10..].iter().all(|b| *b == 0));
    assert_eq!(store.leaked_bytes().unwrap(), 0);
}

#[test]
fn a_hundred_thousand_small_frees_are_reclaimed_fast() {
    let (store, _log) = on_disk();
    let all: Vec<Extent> = (0..200_000).map(|_| store.alloc(1, None).unwrap()[0]).collect();
    fill(&store, Extent { start: StoreBlock(0), len: 20_000 }, 1);
    let begun = Instant::now();
    all.iter().step_by(2).for_each(|e| store.free(*e));
    let freed = begun.elapsed();
    within(Duration::from_secs(20), || store.usage().unwrap().pending == 0);
    println!("100,000 frees {freed:?}, reclaimed after {:?}", begun.elapsed());
    let got = store.alloc(1, None).unwrap();
    assert_eq!(got[0].start, all[0].start, "low space is taken first");
}

#[test]
fn blocks_are_not_reused_under_io_that_began_before() {
    let (store, _log) = on_disk();
    let e = store.alloc(4, None).unwrap()[0];
    fill(&store, e, 9);
    let io = store.gate();
    store.free(e);
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(store.usage().unwrap().pending, 4);
    let mut buf = [0; 16];
    store.gate().read_at(e.start.offset(), &mut buf).unwrap();
    assert_eq!(buf, [9; 16]);
    drop(io);
    within(Duration::from_secs(1), || store.usage().unwrap().pending == 0);
}

#[test]
fn the_limit_bites_at_once_and_counts_what_can_be_reclaimed() {
    let (store, _log) = on_disk();
    store.set_limit(Some(SUPERBLOCK + 100));
    let e = store.alloc(100, None).unwrap()[0];
    assert_eq!(store.alloc(1, None), Err(Errno::NOSPC));
    store.free(e);
    assert_eq!(store.alloc(101, None), Err(Errno::NOSPC));
    assert_eq!(store.alloc(100, None).unwrap().iter().map(|e| e.len).sum::<u64>(), 100);
    store.set_limit(None);
    store.alloc(1, None).unwrap();
    assert_eq!(store.alloc(u64::MAX, None), Err(Errno::NOSPC));
}

#[test]
fn concurrent_writers_readers_and_frees_keep_their_data() {
    let (store, _log) = on_disk();
    std::thread::scope(|s| {
        for t in 0..3_u64 {
            let store = &store;
            s.spawn(move || {
                let mut rng = Rng::new(t);
                let mut mine: Vec<(Extent, u8)> = Vec::new();
                for _ in 0..1500 {
                    if mine.len() < 50 || rng.below(2) == 0 {
                        let hint = mine.last().map(|(e, _)| e.end());
                        for e in store.alloc(1 + rng.below(12), hint).unwrap() {
                            let byte = rng.draw() as u8;
                            fill(store, e, byte);
                            mine.push((e, byte));
                        }
                    }
                    let (e, byte) = mine.swap_remove(rng.below(mine.len() as u64) as usize);
                    let mut buf = vec![0; (e.len * BLOCK_SIZE) as usize];
                    {
                        store.gate().read_at(e.start.offset(), &mut buf).unwrap();
                    }
                    assert!(buf.iter().all(|b| *b == byte));
                    store.free(e);
                }
            });
        }
    });
}

#[test]
fn reserved_blocks_are_zero_and_there() {
    for (store, _log) in [on_disk(), journal::unkept(&Medium::Memory, OPTIONS).unwrap()] {
        let e = store.alloc(64, None).unwrap()[0];
        fill(&store, e, 5);
        store.reserve(e).unwrap();
        let mut buf = vec![1; (e.len * BLOCK_SIZE) as usize];
        store.gate().read_at(e.start.offset(), &mut buf).unwrap();
        assert!(buf.iter().all(|b| *b == 0));
        let u = store.usage().unwrap();
        assert!(u.host_bytes >= 64 * BLOCK_SIZE && u.host_len == (SUPERBLOCK + 64) * BLOCK_SIZE);
    }
}

#[test]
fn the_hook_is_asked_when_old_blocks_wait() {
    let store = Filestore::new(Box::new(Faulty::default()), Options { durable: true, ..OPTIONS });
    let store = Arc::new(store);
    store.go_live();
    store.start_reclaimer().unwrap();
    let e = store.alloc(3, None).unwrap()[0];
    store.advance_epoch();
    let asked = Arc::new(AtomicU64::new(0));
    let (weak, count) = (Arc::downgrade(&store), Arc::clone(&asked));
    store.set_sync_hook(Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
        weak.upgrade().is_some_and(|store| {
            let epoch = store.advance_epoch();
            store.flush().map(|()| store.synced(epoch)).is_ok()
        })
    }));
    store.free(e);
    within(Duration::from_secs(4), || store.usage().unwrap().pending == 0);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn a_failed_flush_is_not_forgotten() {
    let file = Faulty::default();
    let store =
        Filestore::new(Box::new(file.clone()), Options { durable: true, block_limit: None });
    store.flush().unwrap();
    file.set_fault(Some(faulty::Fault::Once(file.calls(), Errno::IO)));
    assert_eq!(store.flush(), Err(Errno::IO));
    assert_eq!(
        store.flush(),
        Err(Errno::IO),
        "what was dropped is not there the second time either"
    );
}

#[test]
fn concurrent_syncs_share_flushes() {
    let file = Faulty::default();
    let store =
        Filestore::new(Box::new(file.clone()), Options { durable: true, block_limit: None });
    file.set_sync_time(Duration::from_millis(2));
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| (0..25).for_each(|_| store.share_sync(|| store.flush()).unwrap()));
        }
    });
    // Eight callers share a flush and the next one; a flush for each call would be 200.
    assert!(file.calls() <= 100, "{} flushes for 200 calls", file.calls());
}

#[test]
fn named_files_are_locked_private_and_survive() {
    let dir = tempfile::tempdir().unwrap();
    let fd = std::fs::File::open(dir.path()).unwrap();
    let name = Path::new(FILESTORE_NAME);
    let options = Options { durable: true, block_limit: None };
    assert_eq!(journal::open_read_only(fd.as_fd(), name).unwrap_err(), OpenError::Missing);
    let recovering = journal::open_or_create(fd.as_fd(), name, options).unwrap();
    let (store, mut log) =
        recovering.replay::<Errno>(|_| Err(Errno::UCLEAN)).unwrap().start().unwrap();
    let again = journal::open_or_create(fd.as_fd(), name, options).unwrap_err();
    assert_eq!(again, OpenError::InUse);
    assert_eq!(journal::open_read_only(fd.as_fd(), name).unwrap_err(), OpenError::InUse);
    let mode = std::os::unix::fs::MetadataExt::mode(&dir.path().join(name).metadata().unwrap());
    assert_eq!(mode & 0o7777, 0o600);

    let e = store.alloc(3, None).unwrap()[0];
    fill(&store, e, 3);
    (0..3000_u32).for_each(|n| log.append(&n.to_le_bytes(), journal::Urgency::Normal).unwrap());
    assert!(store.usage().unwrap().host_bytes < 300 << 10, "{:?}", store.usage());
    log.close().unwrap();
    drop(store);

    let mut n = 0_u32;
    let recovering = journal::open_read_only(fd.as_fd(), name).unwrap();
    assert!(recovering.recovery().was_clean && !recovering.recovery().cut());
    let replayed = recovering.replay::<Errno>(|p| {
        assert_eq!(p, n.to_le_bytes());
        n += 1;
        Ok(())
    });
    let replayed = replayed.unwrap();
    assert_eq!(n, 3000);
    let store = replayed.store();
    assert_eq!(store.leaked_bytes().unwrap(), 3 * BLOCK_SIZE, "not marked yet");
    store.mark_used(e).unwrap();
    assert_eq!(store.mark_used(e), Err(Errno::UCLEAN));
    assert_eq!(
        store.mark_used(Extent { start: StoreBlock(1), len: 1 }),
        Err(Errno::UCLEAN),
        "superblock"
    );
    assert_eq!(store.leaked_bytes().unwrap(), 0);
    assert_eq!(store.blocks_beyond_end().unwrap(), 0);
    assert_eq!(replayed.start().unwrap_err(), OpenError::Host("started", Errno::ROFS));
}

#[test]
fn what_is_no_filestore_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let fd = std::fs::File::open(dir.path()).unwrap();
    let open = |name: &str| journal::open_or_create(fd.as_fd(), Path::new(name), OPTIONS).map(drop);
    std::fs::write(dir.path().join("empty"), b"").unwrap();
    std::fs::write(dir.path().join("text"), vec![b'x'; 20_000]).unwrap();
    std::fs::create_dir(dir.path().join("dir")).unwrap();
    std::os::unix::fs::symlink("text", dir.path().join("link")).unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert_eq!(open("empty"), Err(OpenError::Truncated));
    for name in ["text", "dir", "link", "fifo"] {
        assert_eq!(open(name), Err(OpenError::NotAFilestore), "{name}");
    }
    assert_eq!(std::fs::read(dir.path().join("text")).unwrap(), vec![b'x'; 20_000]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 5);
}

#[test]
fn what_a_kill_left_behind_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let fd = std::fs::File::open(dir.path()).unwrap();
    let name = Path::new(FILESTORE_NAME);
    let start = || {
        let recovering = journal::open_or_create(fd.as_fd(), name, OPTIONS).unwrap();
        recovering.replay::<Errno>(|_| Ok(())).unwrap()
    };
    let (store, log) = start().start().unwrap();
    let low = store.alloc(500, None).unwrap()[0];
    let keep = store.alloc(1, None).unwrap()[0];
    fill(&store, low, 1);
    fill(&store, keep, 2);
    drop((store, log));
    let replayed = start();
    assert!(!replayed.recovery().was_clean);
    replayed.store().mark_used(keep).unwrap();
    assert!(replayed.store().leaked_bytes().unwrap() >= 500 * BLOCK_SIZE);
    let (store, _log) = replayed.start().unwrap();
    within(Duration::from_secs(2), || store.usage().unwrap().pending == 0);
    assert_eq!(store.leaked_bytes().unwrap(), 0);
    assert!(store.usage().unwrap().host_bytes < 100 * BLOCK_SIZE);
    let mut buf = [0; 1];
    store.gate().read_at(keep.start.offset(), &mut buf).unwrap();
    assert_eq!(buf, [2]);
}
