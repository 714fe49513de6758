//! The map of free blocks: which are free, and which to take.
//!
//! Everything below `end` is free (in a run of the map) or taken; everything from `end` on is free
//! and in no run. So the file needs to be no longer than `end` blocks.
//!
//! Policy, by falling priority: continue at the hint; the lowest run that holds everything; pieces
//! of long runs; the tail. Runs are indexed by start and, in bins by the logarithm of their length,
//! by start again, so each decision costs some tree lookups whatever the number of runs.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;
use smallvec::SmallVec;

use super::Extent;
use crate::block::StoreBlock;
use crate::errno::Result;

/// Block numbers stay below this: 4 PiB of file.
pub const MAX_BLOCKS: u64 = 1 << 40;

/// The extents of one allocation, in file order.
pub type Extents = SmallVec<[Extent; 2]>;

const BINS: usize = 41;
/// Runs looked at in the one bin where some hold enough and some do not.
const PROBES: usize = 8;
/// Most extents that one allocation is split into.
const MAX_PIECES: usize = 16;
/// An allocation is split for runs of this many blocks or more.
const WORTH_A_SPLIT: u64 = 16;
/// A file that grows at the tail moves to a free run of this many blocks or more.
const WORTH_A_MOVE: u64 = 64;
/// Free blocks beyond the taken ones at which a file counts as more hole than data.
const HOLEY: u64 = 1024;

#[derive(Debug)]
pub(super) struct FreeMap {
    runs: BTreeMap<StoreBlock, u64>,
    bins: [BTreeSet<StoreBlock>; BINS],
    /// Bit b: bin b is not empty.
    filled: u64,
    /// Blocks in runs.
    free: u64,
    end: StoreBlock,
}

/// Appends `e`, joined to the last extent where they touch; its blocks.
fn push(out: &mut Extents, e: Extent) -> u64 {
    match out.last_mut() {
        Some(last) if last.end() == e.start => last.len += e.len,
        _ => out.push(e),
    }
    e.len
}

fn bin_of(len: u64) -> usize {
    (len.ilog2() as usize).min(BINS - 1)
}

impl FreeMap {
    /// All blocks are free.
    pub(super) fn new() -> FreeMap {
        FreeMap {
            runs: BTreeMap::new(),
            bins: std::array::from_fn(|_| BTreeSet::new()),
            filled: 0,
            free: 0,
            end: StoreBlock(0),
        }
    }

    /// One past the last block that is taken.
    pub(super) fn end(&self) -> StoreBlock {
        self.end
    }

    /// Free runs below the end, in order.
    pub(super) fn runs(&self) -> impl Iterator<Item = Extent> + '_ {
        self.runs.iter().map(|(s, l)| Extent { start: *s, len: *l })
    }

    fn add_run(&mut self, start: StoreBlock, len: u64) {
        if len == 0 {
            return;
        }
        let bin = bin_of(len);
        self.runs.insert(start, len);
        self.bins[bin].insert(start);
        self.filled |= 1 << bin;
        self.free += len;
    }

    fn drop_run(&mut self, start: StoreBlock, len: u64) {
        let bin = bin_of(len);
        self.runs.remove(&start);
        self.bins[bin].remove(&start);
        if self.bins[bin].is_empty() {
            self.filled &= !(1 << bin);
        }
        self.free -= len;
    }

    /// Takes `want` out of the run that holds all of it.
    fn carve(&mut self, run: Extent, want: Extent) {
        self.drop_run(run.start, run.len);
        self.add_run(run.start, want.start - run.start);
        self.add_run(want.end(), run.end() - want.end());
    }

    fn take_tail(&mut self, len: u64) -> Result<Extent> {
        if len > MAX_BLOCKS - self.end.0 {
            return Err(Errno::NOSPC);
        }
        let start = self.end;
        self.end += len;
        Ok(Extent { start, len })
    }

    /// The lowest run of `len` or more blocks among those the bins let us find cheaply.
    fn lowest_fit(&self, len: u64) -> Option<Extent> {
        let bin = bin_of(len);
        let probe = self.bins[bin].iter().take(PROBES).find(|s| self.runs[*s] >= len).copied();
        let mut higher = if bin + 1 < BINS { self.filled >> (bin + 1) << (bin + 1) } else { 0 };
        let mut best = probe;
        while higher != 0 {
            let b = higher.trailing_zeros() as usize;
            higher &= higher - 1;
            let first = self.bins[b].first().copied();
            best = match (best, first) {
                (Some(x), Some(y)) => Some(x.min(y)),
                (x, y) => x.or(y),
            };
        }
        best.map(|start| Extent { start, len: self.runs[&start] })
    }

    /// A run too short for `len` blocks, but long enough to be worth a split.
    fn worthy_piece(&self, len: u64) -> Option<Extent> {
        let top = 63_u32.checked_sub(self.filled.leading_zeros())? as usize;
        let holey = self.free > (self.end.0 - self.free) + HOLEY;
        let least = if holey { 1 } else { WORTH_A_SPLIT.max(len / 4) };
        let start = *self.bins[top].first()?;
        let run = Extent { start, len: self.runs[&start] };
        (run.len >= least).then_some(run)
    }

    fn take_front(&mut self, run: Extent, len: u64) -> Extent {
        let got = Extent { start: run.start, len: run.len.min(len) };
        self.carve(run, got);
        got
    }

    /// What is free right at the hint; at the tail only if no low run would do as well.
    fn take_hint(&mut self, hint: StoreBlock, len: u64) -> Option<Extent> {
        if hint == self.end {
            let low = self.lowest_fit(len.max(WORTH_A_MOVE));
            return low.is_none().then(|| self.take_tail(len).ok()).flatten();
        }
        let run = Extent { start: hint, len: *self.runs.get(&hint)? };
        Some(self.take_front(run, len))
    }

    /// Takes `len` blocks.
    ///
    /// # Errors
    /// `ENOSPC` when the block numbers run out; nothing is taken then.
    pub(super) fn alloc(&mut self, len: u64, hint: Option<StoreBlock>) -> Result<Extents> {
        let mut out = Extents::new();
        let mut need = len;
        if let Some(e) = hint.filter(|_| need > 0).and_then(|h| self.take_hint(h, need)) {
            need -= push(&mut out, e);
        }
        while need > 0 && out.len() < MAX_PIECES {
            let Some(run) = self.lowest_fit(need).or_else(|| self.worthy_piece(need)) else {
                break;
            };
            let e = self.take_front(run, need);
            need -= push(&mut out, e);
        }
        if need > 0 {
            match self.take_tail(need) {
                Ok(e) => need -= push(&mut out, e),
                Err(err) => {
                    for e in out {
                        self.insert(e)?;
                    }
                    return Err(err);
                }
            }
        }
        debug_assert_eq!(need, 0);
        self.debug_check();
        Ok(out)
    }

    /// Takes `len` blocks in one piece.
    ///
    /// # Errors
    /// `ENOSPC` when the block numbers run out.
    pub(super) fn alloc_run(&mut self, len: u64) -> Result<Extent> {
        let got = match self.lowest_fit(len.max(1)) {
            Some(run) => Ok(self.take_front(run, len)),
            None => self.take_tail(len),
        };
        self.debug_check();
        got
    }

    /// Takes exactly `e`.
    ///
    /// # Errors
    /// `EUCLEAN` when part of it is taken already, or it is empty or out of range.
    pub(super) fn take(&mut self, e: Extent) -> Result<()> {
        if e.len == 0 || e.len > MAX_BLOCKS || e.start.0 > MAX_BLOCKS - e.len {
            return Err(Errno::UCLEAN);
        }
        if e.start >= self.end {
            self.add_run(self.end, e.start - self.end);
            self.end = e.end();
        } else {
            let (start, len) = self.runs.range(..=e.start).next_back().ok_or(Errno::UCLEAN)?;
            let run = Extent { start: *start, len: *len };
            if run.end() < e.end() {
                return Err(Errno::UCLEAN);
            }
            self.carve(run, e);
        }
        self.debug_check();
        Ok(())
    }

    /// Gives `e` back.
    ///
    /// # Errors
    /// `EUCLEAN`, and nothing is changed, when part of it is free already or it is out of range.
    pub(super) fn insert(&mut self, e: Extent) -> Result<()> {
        if e.len == 0 || e.end() > self.end {
            return Err(Errno::UCLEAN);
        }
        let before = self.runs.range(..=e.start).next_back().map(|(s, l)| (*s, *l));
        let after = self.runs.range(e.start..).next().map(|(s, l)| (*s, *l));
        if before.is_some_and(|(s, l)| s + l > e.start) || after.is_some_and(|(s, _)| s < e.end()) {
            return Err(Errno::UCLEAN);
        }
        let (mut start, mut end) = (e.start, e.end());
        if let Some((s, l)) = before.filter(|(s, l)| *s + *l == e.start) {
            self.drop_run(s, l);
            start = s;
        }
        if let Some((s, l)) = after.filter(|(s, _)| *s == e.end()) {
            self.drop_run(s, l);
            end = s + l;
        }
        if end == self.end {
            self.end = start;
        } else {
            self.add_run(start, end - start);
        }
        self.debug_check();
        Ok(())
    }

    /// In debug builds: the whole of the invariants while the map is small.
    fn debug_check(&self) {
        if cfg!(debug_assertions) && self.runs.len() <= 64 {
            self.check();
        }
    }

    /// Panics when an invariant does not hold.
    fn check(&self) {
        let mut last_end = None;
        let mut free = 0;
        for (&s, &l) in &self.runs {
            assert!(l > 0 && s + l < self.end, "run {s:?}+{l} reaches the end {:?}", self.end);
            assert!(last_end.is_none_or(|e| e < s), "run {s:?}+{l} touches its neighbour");
            assert!(self.bins[bin_of(l)].contains(&s), "run {s:?}+{l} is in no bin");
            last_end = Some(s + l);
            free += l;
        }
        assert_eq!(free, self.free);
        assert_eq!(self.bins.iter().map(BTreeSet::len).sum::<usize>(), self.runs.len());
        for (b, bin) in self.bins.iter().enumerate() {
            assert_eq!(self.filled >> b & 1 == 1, !bin.is_empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Alloc { len: u64, hint: Option<usize> },
        Free(usize),
        FreePart(usize),
        Take { start: StoreBlock, len: u64 },
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (1u64..90, prop::option::of(any::<usize>())).prop_map(|(len, hint)| Op::Alloc { len, hint }),
            3 => any::<usize>().prop_map(Op::Free),
            2 => any::<usize>().prop_map(Op::FreePart),
            1 => (0u64..4000, 1u64..30).prop_map(|(start, len)| Op::Take { start: StoreBlock(start), len }),
        ]
    }

    /// A naive model: one flag a block.
    #[derive(Default)]
    struct Model {
        taken: std::collections::BTreeSet<u64>,
    }

    impl Model {
        fn take(&mut self, e: Extent) -> bool {
            let clash = (e.start.0..e.end().0).any(|b| self.taken.contains(&b));
            if !clash {
                self.taken.extend(e.start.0..e.end().0);
            }
            !clash
        }
        fn free(&mut self, e: Extent) {
            (e.start.0..e.end().0).for_each(|b| assert!(self.taken.remove(&b)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
        #[test]
        fn agrees_with_a_naive_model(ops in prop::collection::vec(op(), 1..120)) {
            let mut map = FreeMap::new();
            let mut model = Model::default();
            let mut live: Vec<Extent> = Vec::new();
            for op in ops {
                match op {
                    Op::Alloc { len, hint } => {
                        let hint = hint.filter(|_| !live.is_empty()).map(|i| live[i % live.len()].end());
                        let got = map.alloc(len, hint).unwrap();
                        prop_assert_eq!(got.iter().map(|e| e.len).sum::<u64>(), len);
                        prop_assert!(got.len() <= MAX_PIECES + 1);
                        for e in got {
                            prop_assert!(model.take(e), "{:?} was taken", e);
                            live.push(e);
                        }
                    }
                    Op::Free(i) if !live.is_empty() => {
                        let e = live.swap_remove(i % live.len());
                        map.insert(e).unwrap();
                        prop_assert_eq!(map.insert(e), Err(Errno::UCLEAN));
                        model.free(e);
                    }
                    Op::FreePart(i) if !live.is_empty() => {
                        let n = live.len();
                        let e = &mut live[i % n];
                        if e.len > 2 {
                            let mid = Extent { start: e.start + e.len / 2, len: 1 };
                            let rest = Extent { start: mid.end(), len: e.end() - mid.end() };
                            e.len = mid.start - e.start;
                            map.insert(mid).unwrap();
                            model.free(mid);
                            live.push(rest);
                        }
                    }
                    Op::Take { start, len } => {
                        let e = Extent { start, len };
                        let taken = map.take(e).is_ok();
                        prop_assert_eq!(taken, model.take(e));
                        if taken {
                            live.push(e);
                        }
                    }
                    _ => {}
                }
                map.check();
                prop_assert_eq!(map.end.0, model.taken.last().map_or(0, |b| b + 1));
                prop_assert_eq!(map.end.0 - map.free, model.taken.len() as u64);
            }
        }
    }

    #[test]
    fn continues_at_the_hint() {
        let mut map = FreeMap::new();
        let a = map.alloc(10, None).unwrap();
        assert_eq!(
            map.alloc(5, Some(a[0].end())).unwrap()[..],
            [Extent { start: StoreBlock(10), len: 5 }]
        );
        map.insert(Extent { start: StoreBlock(2), len: 3 }).unwrap();
        assert_eq!(
            map.alloc(4, Some(StoreBlock(2))).unwrap()[..],
            [Extent { start: StoreBlock(2), len: 3 }, Extent { start: StoreBlock(15), len: 1 }]
        );
    }

    #[test]
    fn prefers_low_space_to_the_tail() {
        let mut map = FreeMap::new();
        map.alloc(1000, None).unwrap();
        map.insert(Extent { start: StoreBlock(100), len: 200 }).unwrap();
        map.insert(Extent { start: StoreBlock(500), len: 50 }).unwrap();
        assert_eq!(map.alloc(40, None).unwrap()[..], [Extent { start: StoreBlock(100), len: 40 }]);
        assert_eq!(
            map.alloc(100, Some(StoreBlock(1000))).unwrap()[..],
            [Extent { start: StoreBlock(140), len: 100 }]
        );
    }

    #[test]
    fn the_end_follows_what_is_taken() {
        let mut map = FreeMap::new();
        map.alloc(100, None).unwrap();
        map.insert(Extent { start: StoreBlock(40), len: 50 }).unwrap();
        assert_eq!(map.end(), StoreBlock(100));
        map.insert(Extent { start: StoreBlock(90), len: 10 }).unwrap();
        assert_eq!(map.end(), StoreBlock(40));
    }

    #[test]
    fn runs_out_of_numbers_without_losing_any() {
        let mut map = FreeMap::new();
        map.alloc(100, None).unwrap();
        map.insert(Extent { start: StoreBlock(10), len: 20 }).unwrap();
        assert_eq!(map.alloc(MAX_BLOCKS, Some(StoreBlock(10))), Err(Errno::NOSPC));
        map.check();
        assert_eq!(map.free, 20);
        assert_eq!(
            map.take(Extent { start: StoreBlock(u64::MAX), len: u64::MAX }),
            Err(Errno::UCLEAN)
        );
        assert_eq!(map.take(Extent { start: StoreBlock(10), len: 21 }), Err(Errno::UCLEAN));
    }
}
