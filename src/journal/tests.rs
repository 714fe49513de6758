//! The log as a whole, on a file that can fail, die and lose power.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustix::io::Errno;

use super::log::CheckpointWriter;
use super::replay::testing::{formatted, opened};
use super::segment::MAX_PAYLOAD;
use super::*;
use crate::block::BLOCK_SIZE;
use crate::filestore::faulty::{Fault, Faulty, Rng};
use crate::filestore::{Filestore, OpenError};

/// Frames that a file replays to during boot `boot`, and what opening found out.
fn frames(file: &Faulty, boot: u8) -> Result<(Vec<Vec<u8>>, Recovery), OpenError> {
    let recovering = opened(file, true, boot)?;
    let mut out = Vec::new();
    let replayed = recovering.replay::<Errno>(|p| {
        out.push(p.to_vec());
        Ok(())
    });
    let replayed = replayed.map_err(|err| OpenError::Host("replayed", err))?;
    Ok((out, *replayed.recovery()))
}

/// Opens for appending; no reclaimer's thread, so that the order of calls is always the same.
fn log(file: &Faulty, durable: bool, boot: u8) -> Result<(Arc<Filestore>, Log)> {
    let recovering = opened(file, durable, boot).map_err(|_| Errno::UCLEAN)?;
    recovering.replay::<Errno>(|_| Ok(()))?.resume(false)
}

fn payload(n: u64) -> Vec<u8> {
    let mut p = n.to_le_bytes().to_vec();
    p.resize(8 + (n * 37 % 300) as usize, n as u8);
    p
}

fn number(p: &[u8]) -> u64 {
    u64::from_le_bytes(p[..8].try_into().unwrap())
}

fn append_all(log: &mut Log, range: std::ops::Range<u64>) -> Result<()> {
    range.into_iter().try_for_each(|n| log.append(&payload(n), Urgency::Normal))
}

fn expect(file: &Faulty, boot: u8, n: u64) -> Recovery {
    let (got, recovery) = frames(file, boot).unwrap();
    assert_eq!(got, (0..n).map(payload).collect::<Vec<_>>());
    recovery
}

#[test]
fn what_was_appended_comes_back() {
    let file = formatted();
    let (_, mut log1) = log(&file, true, 1).unwrap();
    append_all(&mut log1, 0..1000).unwrap();
    assert!(log1.stats().blocks > 30 && log1.stats().bytes > 100_000, "{:?}", log1.stats());
    drop(log1);
    let recovery = expect(&file, 1, 1000);
    assert!(!recovery.was_clean && !recovery.cut() && !recovery.other_boot);

    let (_, mut log2) = log(&file, true, 1).unwrap();
    append_all(&mut log2, 1000..1500).unwrap();
    log2.close().unwrap();
    let recovery = expect(&file, 1, 1500);
    assert!(recovery.was_clean && !recovery.cut());
    assert!(!expect(&file, 2, 1500).cut(), "a clean end loses nothing to a reboot");
}

#[test]
fn large_frames_have_segments_of_their_own_size() {
    let file = formatted();
    let (_, mut log1) = log(&file, true, 1).unwrap();
    let sizes = [0, 1, 4096, 16 * 1024, 70_000, 5_000_000, 3, MAX_PAYLOAD];
    for (n, size) in sizes.into_iter().enumerate() {
        log1.append(&vec![n as u8; size], Urgency::Normal).unwrap();
    }
    assert_eq!(log1.append(&vec![0; MAX_PAYLOAD + 1], Urgency::Normal), Err(Errno::TOOBIG));
    drop(log1);
    let (got, _) = frames(&file, 1).unwrap();
    assert_eq!(got.len(), sizes.len());
    for (n, (got, size)) in got.iter().zip(sizes).enumerate() {
        assert!(got.len() == size && got.iter().all(|b| *b == n as u8));
    }
}

#[test]
fn a_torn_tail_is_cut_and_stays_cut() {
    let file = formatted();
    let (_, mut log1) = log(&file, true, 1).unwrap();
    append_all(&mut log1, 0..10).unwrap();
    let before = file.bytes();
    append_all(&mut log1, 10..11).unwrap();
    let after = file.bytes();
    drop(log1);
    let dirty: Vec<usize> = (0..after.len()).filter(|i| before.get(*i) != after.get(*i)).collect();
    let (first, last) = (dirty[0], dirty[dirty.len() - 1]);
    assert!(last - first < 400);
    for cut in first..=last {
        let mut bytes = after.clone();
        bytes[cut..=last].fill(0);
        let torn = Faulty::with(&bytes);
        let recovery = expect(&torn, 1, 10);
        assert_eq!(recovery.torn, cut > first, "cut at {cut} of {first}..={last}");
        // The next frame takes the torn one's place; what is left of that one never counts.
        let (_, mut log2) = log(&torn, true, 1).unwrap();
        log2.append(&payload(10)[..9], Urgency::Normal).unwrap();
        drop(log2);
        let (got, recovery) = frames(&torn, 1).unwrap();
        assert!(got.len() == 11 && got[10].len() == 9 && !recovery.torn);
    }
}

#[test]
fn damage_to_what_ended_in_order_is_told() {
    let file = formatted();
    let (store, mut log1) = log(&file, true, 1).unwrap();
    append_all(&mut log1, 0..40).unwrap();
    drop(store);
    log1.close().unwrap();
    let whole = file.bytes();
    expect(&file, 1, 40);
    let journal = BLOCK_SIZE as usize * super::superblock::BLOCKS as usize;
    let start = journal + super::segment::HEADER;
    let end = whole.iter().rposition(|b| *b != 0).unwrap();
    let all: Vec<_> = (0..40).map(payload).collect();
    let told_or_whole = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        frames(&Faulty::with(&bytes), 1).map_or(true, |(got, _)| got == all)
    };
    for at in start..end {
        assert!(told_or_whole(&|bytes| bytes[at] ^= 4), "a bit of byte {at}");
        // Behind the sync point that it began with it would be a journal with nothing in it.
        let beginning = at <= start + super::segment::frame_size(1);
        assert!(beginning || told_or_whole(&|bytes| bytes[at..].fill(0)), "cut at {at}");
    }
}

#[test]
fn stale_frames_behind_a_cut_never_count() {
    let file = formatted();
    let (store, mut log1) = log(&file, true, 1).unwrap();
    append_all(&mut log1, 0..5).unwrap();
    log1.sync().unwrap();
    for n in 5..9 {
        log1.append(&[n; 40], Urgency::Normal).unwrap();
    }
    drop((store, log1));
    // The host crashes: frames 5.. are cut. A frame as long as frame 5 then fits the rest exactly.
    let (_, mut log2) = log(&file, true, 2).unwrap();
    log2.append(&[99; 40], Urgency::Normal).unwrap();
    drop(log2);
    let (got, _) = frames(&file, 2).unwrap();
    assert_eq!((got.len(), got[5][0]), (6, 99));
}

#[test]
fn after_a_host_crash_only_synced_frames_count() {
    let file = formatted();
    let (store, mut log1) = log(&file, true, 1).unwrap();
    append_all(&mut log1, 0..700).unwrap();
    assert_eq!(expect(&file, 2, 0).cut_frames, 700);
    log1.sync().unwrap();
    append_all(&mut log1, 700..1200).unwrap();
    drop((store, log1));
    let recovery = expect(&file, 2, 700);
    assert!(recovery.host_crash() && recovery.cut_frames == 500 && recovery.cut_bytes > 50_000);
    assert_eq!(expect(&file, 1, 1200).cut_frames, 0, "the same boot: the page cache is whole");
}

/// A tree of numbered values, rewritten again and again: the history grows, the tree does not.
type Tree = BTreeMap<u64, u64>;

fn put(log: &mut Log, tree: &mut Tree, key: u64, value: u64) -> Result<()> {
    let mut p = [key.to_le_bytes(), value.to_le_bytes()].concat();
    p.resize(60, 7);
    log.append(&p, Urgency::Normal)?;
    tree.insert(key, value);
    Ok(())
}

fn tree_of(frames: &[Vec<u8>]) -> Tree {
    frames.iter().map(|p| (number(p), number(&p[8..]))).collect()
}

fn write_tree(tree: &Tree, writer: &mut CheckpointWriter) -> Result<()> {
    tree.iter().try_for_each(|(k, v)| {
        let mut p = [k.to_le_bytes(), v.to_le_bytes()].concat();
        p.resize(60, 7);
        writer.write(&p)
    })
}

#[test]
fn a_checkpoint_replaces_the_history() {
    let file = formatted();
    let (store, mut log1) = log(&file, true, 1).unwrap();
    let mut tree = Tree::new();
    for n in 0..5000 {
        put(&mut log1, &mut tree, n % 50, n).unwrap();
    }
    let before = (log1.stats(), store.used_blocks());
    log1.checkpoint(|w| write_tree(&tree, w)).unwrap();
    assert!(log1.stats().bytes < before.0.bytes / 50, "{:?} {:?}", before, log1.stats());
    assert!(log1.stats().checkpoint_bytes > 0);
    assert!(store.used_blocks() < before.1 / 3);
    for n in 0..20 {
        put(&mut log1, &mut tree, n, n + 7).unwrap();
    }
    // Only the former spare may go at once: nothing durable refers to it.
    let usage = store.usage().unwrap();
    assert!(usage.pending - usage.pending_old <= 4, "{usage:?}");
    // The next one finds the room that the long history had taken.
    log1.squeeze().unwrap();
    log1.checkpoint(|w| write_tree(&tree, w)).unwrap();
    log1.close().unwrap();
    assert_eq!(tree_of(&frames(&file, 1).unwrap().0), tree);
    let usage = store.usage().unwrap();
    assert!(usage.pending == 0 && usage.host_len <= usage.used * BLOCK_SIZE * 2, "{usage:?}");
}

#[test]
fn a_dropped_checkpoint_leaves_no_trace() {
    let file = formatted();
    let (store, mut log1) = log(&file, true, 1).unwrap();
    let mut tree = Tree::new();
    for n in 0..500 {
        put(&mut log1, &mut tree, n % 50, n).unwrap();
    }
    let used = store.used_blocks();
    let mut writer = log1.begin_checkpoint().unwrap();
    write_tree(&tree, &mut writer).unwrap();
    drop(writer);
    assert_eq!(store.used_blocks(), used);

    let mut writer = log1.begin_checkpoint().unwrap();
    write_tree(&tree, &mut writer).unwrap();
    let pending = log1.switch(writer).unwrap();
    assert_eq!(log1.begin_checkpoint().unwrap_err(), Errno::BUSY);
    put(&mut log1, &mut tree, 1, 77).unwrap();
    drop(pending);
    assert_eq!(tree_of(&frames(&file, 1).unwrap().0), tree);
    log1.checkpoint(|w| write_tree(&tree, w)).unwrap();
    put(&mut log1, &mut tree, 2, 78).unwrap();
    drop(log1);
    assert_eq!(tree_of(&frames(&file, 1).unwrap().0), tree);
}

/// A session with appends, sync points and checkpoints; the trees after each append, with how many
/// were synced. Ends early where the file fails.
#[derive(Default)]
struct Session {
    /// States of the tree, one an append.
    states: Vec<Tree>,
    /// The state that the last finished sync made durable.
    synced: usize,
}

impl Session {
    fn run(&mut self, file: &Faulty, seed: u64, durable: bool) -> Result<()> {
        let mut rng = Rng::new(seed);
        let mut tree = Tree::new();
        self.states.push(tree.clone());
        let (store, mut log) = log(file, durable, 1)?;
        for n in 0..160 {
            // Noted first: an append that failed may have reached the file all the same.
            let key = rng.below(20);
            let mut next = tree.clone();
            next.insert(key, n);
            self.states.push(next);
            put(&mut log, &mut tree, key, n)?;
            match rng.below(24) {
                0 => {
                    log.sync()?;
                    self.synced = self.states.len() - 1;
                }
                1 => {
                    log.checkpoint(|w| write_tree(&tree, w))?;
                    log.sync()?;
                    self.synced = self.states.len() - 1;
                }
                2 => {
                    let mut writer = log.begin_checkpoint()?;
                    write_tree(&tree, &mut writer)?;
                    let mut pending = log.switch(writer)?;
                    let mut next = tree.clone();
                    next.insert(3, n);
                    self.states.push(next);
                    put(&mut log, &mut tree, 3, n)?;
                    pending.sync()?;
                    // The superblock is flushed by the next sync only.
                    log.commit(pending)?;
                }
                4 => {
                    // Records come while the data are flushed: they do not count.
                    let begun = log.begin_sync();
                    let durable = self.states.len() - 1;
                    let flushed = store.flush_data()?;
                    let mut next = tree.clone();
                    next.insert(5, n);
                    self.states.push(next);
                    put(&mut log, &mut tree, 5, n)?;
                    log.end_sync(begun)?.flush(flushed)?;
                    self.synced = durable;
                }
                3 => store.reclaim_now(),
                _ => {}
            }
        }
        Ok(())
    }
}

#[test]
fn killed_at_every_call_nothing_acknowledged_is_lost() {
    for seed in 0..3 {
        let whole = formatted();
        let start = whole.calls();
        Session::default().run(&whole, seed, true).unwrap();
        for n in start..whole.calls() {
            let file = formatted();
            file.set_fault(Some(Fault::Kill(n)));
            let mut session = Session::default();
            session.run(&file, seed, true).unwrap_err();
            file.set_fault(None);
            let (got, _) = frames(&file, 1).unwrap_or_else(|e| panic!("seed {seed} call {n}: {e}"));
            let got = tree_of(&got);
            let last = session.states.len() - 1;
            let fine = session.states[last] == got || (last > 0 && session.states[last - 1] == got);
            assert!(fine, "seed {seed} call {n}: {got:?} instead of {:?}", session.states[last]);
            // It can go on, and be opened again.
            let (_, mut log) = log(&file, true, 1).unwrap();
            log.append(&[0xee; 60], Urgency::Normal).unwrap();
            log.checkpoint(|w| w.write(&[0xee; 60])).unwrap();
            log.close().unwrap();
            assert_eq!(frames(&file, 1).unwrap().0, [[0xee; 60]]);
        }
    }
}

#[test]
fn a_failed_call_changes_nothing_that_was_kept() {
    let whole = formatted();
    let start = whole.calls();
    Session::default().run(&whole, 5, true).unwrap();
    for n in start..whole.calls() {
        for err in [Errno::NOSPC, Errno::IO] {
            let file = formatted();
            file.set_fault(Some(Fault::Once(n, err)));
            let mut session = Session::default();
            // Where the call was one that may fail, the session runs to its end.
            let result = session.run(&file, 5, true);
            file.set_fault(None);
            let (got, _) = frames(&file, 1).unwrap();
            let got = tree_of(&got);
            let last = session.states.len() - 1;
            let before = result.is_err() && last > 0 && session.states[last - 1] == got;
            assert!(session.states[last] == got || before, "call {n}, {err}");
        }
    }
}

#[test]
fn a_power_cut_keeps_what_was_synced() {
    let mut rng = Rng::new(42);
    for seed in 0..60 {
        let whole = formatted();
        let start = whole.calls();
        Session::default().run(&whole, seed, true).unwrap();
        for _ in 0..12 {
            let n = start + rng.below(whole.calls() - start);
            let file = formatted();
            file.set_fault(Some(Fault::Kill(n)));
            let mut session = Session::default();
            session.run(&file, seed, true).unwrap_err();
            let cut = file.after_power_cut(&mut rng);
            let (got, recovery) =
                frames(&cut, 2).unwrap_or_else(|e| panic!("seed {seed} call {n}: {e}"));
            let got = tree_of(&got);
            let at = session.states.iter().rposition(|s| *s == got);
            assert!(
                at.is_some_and(|at| at >= session.synced),
                "seed {seed} call {n}: state {at:?}, synced {} {recovery:?}",
                session.synced
            );
            let (_, mut log) = log(&cut, true, 2).unwrap();
            log.append(&[0xee; 60], Urgency::Normal).unwrap();
            drop(log);
            assert_eq!(frames(&cut, 2).unwrap().0.last().unwrap(), &[0xee; 60]);
        }
    }
}

#[test]
fn on_a_full_host_frees_still_go_through() {
    let file = formatted();
    let (store, mut log1) = log(&file, true, 1).unwrap();
    file.set_room(Some(store.usage().unwrap().host_len));
    let mut n = 0;
    while log1.append(&payload(n), Urgency::Normal).is_ok() {
        n += 1;
        assert!(n < 10_000);
    }
    assert_eq!(log1.append(&payload(n), Urgency::Normal), Err(Errno::NOSPC));
    assert_eq!(log1.begin_checkpoint().unwrap_err(), Errno::NOSPC);
    for _ in 0..50 {
        log1.append(&payload(n), Urgency::Freeing).unwrap();
        n += 1;
    }
    expect(&file, 1, n);
    assert!(log1.append(&payload(n), Urgency::Normal).is_err(), "the reserve is gone");
    file.set_room(None);
    append_all(&mut log1, n..n + 10).unwrap();
    drop((store, log1));
    expect(&file, 1, n + 10);
}

#[test]
fn at_the_limit_frees_still_go_through() {
    let file = formatted();
    let (store, mut log1) = log(&file, true, 1).unwrap();
    store.set_limit(Some(store.used_blocks() + 20));
    let data = store.alloc(16, None).unwrap();
    let mut n = 0;
    while log1.append(&payload(n), Urgency::Normal).is_ok() {
        n += 1;
    }
    for _ in 0..500 {
        log1.append(&payload(n), Urgency::Freeing).unwrap();
        n += 1;
    }
    data.iter().for_each(|e| store.free(*e));
    store.set_limit(Some(store.used_blocks() + 100));
    append_all(&mut log1, n..n + 1).unwrap();
    drop(log1);
    expect(&file, 1, n + 1);
}

#[test]
fn old_blocks_wait_for_a_sync_and_young_ones_do_not() {
    let file = formatted();
    let (store, mut log1) = log(&file, true, 1).unwrap();
    let old = store.alloc(10, None).unwrap()[0];
    let begun = log1.begin_sync();
    let young = store.alloc(5, None).unwrap()[0];
    store.free(old);
    store.free(young);
    store.reclaim_now();
    assert_eq!(store.pending_old_blocks(), 10);
    assert_eq!(store.usage().unwrap().pending, 10);
    log1.end_sync(begun).unwrap().flush(false).unwrap();
    store.reclaim_now();
    assert_eq!(store.pending_old_blocks(), 10, "the free came after the sync had begun");
    log1.sync().unwrap();
    store.reclaim_now();
    assert_eq!(store.usage().unwrap().pending, 0);
}

/// A filestore with two checkpoints' worth of history and a clean end.
fn sample() -> (Vec<u8>, Vec<Vec<u8>>) {
    let file = formatted();
    let (_, mut log1) = log(&file, true, 1).unwrap();
    append_all(&mut log1, 0..60).unwrap();
    log1.checkpoint(|w| (0..40).try_for_each(|n| w.write(&payload(n)))).unwrap();
    append_all(&mut log1, 40..120).unwrap();
    log1.close().unwrap();
    (file.bytes(), (0..120).map(payload).collect())
}

fn assert_prefix_or_error(bytes: &[u8], all: &[Vec<u8>], what: &str) {
    let file = Faulty::with(bytes);
    for boot in [1, 2] {
        match frames(&file, boot) {
            Ok((got, _)) => assert!(all.starts_with(&got), "{what}: not a prefix"),
            Err(err) => assert!(!err.to_string().contains('\n')),
        }
    }
}

#[test]
fn flipped_bytes_give_a_prefix_or_an_error() {
    let (bytes, all) = sample();
    let mut rng = Rng::new(7);
    for round in 0..10_000 {
        let mut bad = bytes.clone();
        for _ in 0..1 + rng.below(4) {
            // Half of the flips go where they hurt most.
            let bound = if rng.below(2) == 0 { 6 * BLOCK_SIZE } else { bytes.len() as u64 };
            let at = rng.below(bound.min(bytes.len() as u64)) as usize;
            bad[at] ^= 1 << rng.below(8);
        }
        assert_prefix_or_error(&bad, &all, &format!("round {round}"));
    }
}

#[test]
fn cut_files_give_a_prefix_or_an_error() {
    let (bytes, all) = sample();
    for len in (0..bytes.len()).step_by(512) {
        assert_prefix_or_error(&bytes[..len], &all, &format!("length {len}"));
    }
    assert_eq!(frames(&Faulty::with(&[]), 1).unwrap_err(), OpenError::Truncated);
    assert_eq!(frames(&Faulty::with(&[1; 8192]), 1).unwrap_err(), OpenError::NotAFilestore);
    assert_eq!(frames(&Faulty::with(&bytes[..4096]), 1).unwrap_err(), OpenError::Truncated);
    assert_eq!(frames(&Faulty::with(&bytes[..8192]), 1).unwrap_err(), OpenError::Truncated);
    let mut bad = bytes.clone();
    bad[100] ^= 1;
    assert!(frames(&Faulty::with(&bad), 1).unwrap().1.damaged_slot);
    bad[4196] ^= 1;
    assert_eq!(frames(&Faulty::with(&bad), 1).unwrap_err(), OpenError::DamagedSuperblock);
}

#[test]
fn hostile_headers_with_good_checksums_are_refused() {
    let (bytes, all) = sample();
    let fix = |bytes: &mut [u8], at: usize, size: usize| {
        let crc = crc32fast::hash(&bytes[at..at + size - 4]);
        bytes[at + size - 4..at + size].copy_from_slice(&crc.to_le_bytes());
    };
    for value in [0, 1, 2, 3, 100, 1 << 20, u64::MAX / 4096, u64::MAX - 1, u64::MAX] {
        // The journal's head, in both slots.
        let mut bad = bytes.clone();
        for slot in [0, 4096] {
            bad[slot + 40..slot + 48].copy_from_slice(&value.to_le_bytes());
            fix(&mut bad, slot, 512);
        }
        assert_prefix_or_error(&bad, &all, &format!("head {value}"));
        // Every field of every segment's header.
        for block in 2..bytes.len() / 4096 {
            let at = block * 4096;
            if &bytes[at..at + 8] != b"OVERCSEG" {
                continue;
            }
            for field in [24, 32, 40, 48] {
                let mut bad = bytes.clone();
                bad[at + field..at + field + 8].copy_from_slice(&value.to_le_bytes());
                fix(&mut bad, at, 64);
                assert_prefix_or_error(&bad, &all, &format!("block {block} field {field} {value}"));
            }
        }
    }
    let mut newer = bytes.clone();
    newer[8] = 9;
    fix(&mut newer, 0, 512);
    assert_eq!(frames(&Faulty::with(&newer), 1).unwrap_err(), OpenError::NewerVersion(9));
}

#[test]
fn on_a_full_copy_on_write_host_frees_go_through_and_room_comes_back() {
    let file = formatted();
    file.set_copy_on_write(3 << 20);
    let (store, mut log1) = log(&file, true, 1).unwrap();
    let data = store.alloc(300, None).unwrap();
    data.iter().for_each(|e| store.reserve(*e).unwrap());
    let mut n = 0;
    while log1.append(&payload(n), Urgency::Normal).is_ok() {
        n += 1;
        assert!(n < 100_000);
    }
    for _ in 0..50 {
        log1.append(&payload(n), Urgency::Freeing).unwrap();
        n += 1;
    }
    expect(&file, 1, n);
    data.iter().for_each(|e| store.free(*e));
    log1.squeeze().unwrap();
    append_all(&mut log1, n..n + 10).unwrap();
    n += 10;
    // Full again: it ends in order, and can be mounted all the same.
    while log1.append(&payload(n), Urgency::Normal).is_ok() {
        n += 1;
    }
    log1.close().unwrap();
    drop(store);
    file.set_copy_on_write(0);
    let (_, mut log1) = log(&file, true, 1).unwrap();
    log1.append(&payload(n), Urgency::Freeing).unwrap();
    expect(&file, 1, n + 1);
}
