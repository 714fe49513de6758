//! Where a file's blocks are kept: runs of data in the filestore, runs of explicit hole, and
//! everything else unmapped (read from the lower origin, or zero).
//!
//! Most files are one run, so that costs no allocation of its own.

use crate::block::{FileBlock, StoreBlock};
use crate::filestore::Extent;
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::ops::Bound;

/// A run of file blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// The first filestore block; `None` for a hole, which reads as zeros. (Filestore block 0 is the
    /// superblock, so a run of data never begins there.)
    data: Option<NonZeroU64>,
    /// Blocks.
    len: u64,
}

const _: () = assert!(size_of::<Run>() == 16);

impl Run {
    fn data(start: StoreBlock, len: u64) -> Run {
        let data = NonZeroU64::new(start.0);
        debug_assert!(data.is_some(), "data in the superblock");
        Run { data, len }
    }

    fn hole(len: u64) -> Run {
        Run { data: None, len }
    }

    /// The part of this run that begins `skip` blocks in and is `len` long.
    fn part(self, skip: u64, len: u64) -> Run {
        Run { data: self.data.map(|start| start.saturating_add(skip)), len }
    }

    /// The filestore blocks; `None` for a hole.
    fn extent(self) -> Option<Extent> {
        self.data.map(|start| Extent { start: StoreBlock(start.get()), len: self.len })
    }

    fn is_continued_by(self, next: Run) -> bool {
        match (self.extent(), next.extent()) {
            (Some(this), Some(next)) => this.end() == next.start,
            (this, next) => this.is_none() && next.is_none(),
        }
    }

    fn data_blocks(self) -> u64 {
        self.data.map_or(0, |_| self.len)
    }
}

/// What a run of file blocks reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The filestore, from this block on.
    Data(StoreBlock),
    /// Zeros, also where the origin has data.
    Hole,
    /// The origin where it is valid, zeros beyond.
    Unmapped,
}

/// `len` file blocks from `at` that read from one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub at: FileBlock,
    /// Blocks.
    pub len: u64,
    pub source: Source,
}

/// The map of one file. Lengths are in blocks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExtentMap(Repr);

#[derive(Clone, Debug, Default, PartialEq)]
enum Repr {
    #[default]
    Empty,
    One(FileBlock, Run),
    Many(Box<Runs>),
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Runs {
    map: BTreeMap<FileBlock, Run>,
    /// Data blocks in `map`, kept so that `stat` of a fragmented file stays cheap.
    data: u64,
}

impl ExtentMap {
    /// Number of runs, holes included.
    pub fn runs(&self) -> usize {
        match &self.0 {
            Repr::Empty => 0,
            Repr::One(..) => 1,
            Repr::Many(runs) => runs.map.len(),
        }
    }

    /// Every run in file order.
    pub fn iter(&self) -> impl Iterator<Item = Segment> + '_ {
        self.runs_from(FileBlock::ZERO).map(|(at, run)| segment(at, run))
    }

    /// Data blocks kept in the filestore.
    pub fn data_blocks(&self) -> u64 {
        match &self.0 {
            Repr::Empty => 0,
            Repr::One(_, run) => run.data_blocks(),
            Repr::Many(runs) => runs.data,
        }
    }

    /// The data run that ends right before file block `at`, as the filestore block after it: where
    /// an append would best go on.
    pub fn hint_before(&self, at: FileBlock) -> Option<StoreBlock> {
        let (start, run) = match &self.0 {
            Repr::Empty => return None,
            Repr::One(start, run) => (*start, *run),
            Repr::Many(runs) => runs.map.range(..at).next_back().map(|(s, r)| (*s, *r))?,
        };
        run.extent().filter(|_| start < at).map(Extent::end)
    }

    /// Splits `len` blocks from `at` into segments and hands each to `each`, in order and without gaps.
    pub fn segments(&self, at: FileBlock, len: u64, mut each: impl FnMut(Segment)) {
        let std::ops::Range { start: mut pos, end } = at.run(len);
        for (start, run) in self.runs_from(at) {
            if start >= end {
                break;
            }
            if start > pos {
                each(Segment { at: pos, len: start - pos, source: Source::Unmapped });
                pos = start;
            }
            let stop = end.min(start + run.len);
            each(segment(pos, run.part(pos - start, stop - pos)));
            pos = stop;
        }
        if pos < end {
            each(Segment { at: pos, len: end - pos, source: Source::Unmapped });
        }
    }

    /// Maps the file blocks from `at` to the blocks of `to`, which does not hold block 0; what they mapped to
    /// before is pushed on `freed`.
    pub fn map(&mut self, at: FileBlock, to: Extent, freed: &mut Vec<Extent>) {
        self.remove(at, to.len, freed);
        self.insert(at, Run::data(to.start, to.len));
    }

    /// Makes `len` blocks from `at` an explicit hole.
    pub fn punch(&mut self, at: FileBlock, len: u64, freed: &mut Vec<Extent>) {
        self.remove(at, len, freed);
        self.insert(at, Run::hole(len));
    }

    /// Forgets the blocks from `at` to the end of the file.
    pub fn remove_from(&mut self, at: FileBlock, freed: &mut Vec<Extent>) {
        self.remove(at, u64::MAX, freed);
    }

    /// Forgets `len` blocks from `at`.
    pub fn remove(&mut self, at: FileBlock, len: u64, freed: &mut Vec<Extent>) {
        let end = at.run(len).end;
        match &mut self.0 {
            Repr::Empty => {}
            Repr::One(start, run) if *start >= end || *start + run.len <= at => {}
            Repr::One(start, run) if *start >= at && *start + run.len <= end => {
                free(*run, freed);
                self.0 = Repr::Empty;
            }
            _ => self.remove_many(at, end, freed),
        }
    }

    fn remove_many(&mut self, at: FileBlock, end: FileBlock, freed: &mut Vec<Extent>) {
        let first_freed = freed.len();
        let runs = self.many();
        let map = &mut runs.map;
        // A run that begins before the range keeps its head (and its tail, if it outlasts the range).
        let before = map.range(..at).next_back().map(|(s, r)| (*s, *r));
        if let Some((start, run)) = before.filter(|(s, r)| *s + r.len > at) {
            let cut = end.min(start + run.len);
            free(run.part(at - start, cut - at), freed);
            map.insert(start, run.part(0, at - start));
            if start + run.len > end {
                map.insert(end, run.part(end - start, start + run.len - end));
            }
        }
        while let Some((start, run)) = map.range(at..end).next().map(|(s, r)| (*s, *r)) {
            map.remove(&start);
            let cut = end.min(start + run.len);
            free(run.part(0, cut - start), freed);
            if cut < start + run.len {
                map.insert(cut, run.part(cut - start, start + run.len - cut));
            }
        }
        runs.data -= freed[first_freed..].iter().map(|e| e.len).sum::<u64>();
        self.shrink();
    }

    /// Inserts a run where nothing is mapped, joining it with its neighbours.
    fn insert(&mut self, mut at: FileBlock, mut run: Run) {
        match &mut self.0 {
            Repr::Empty => {
                self.0 = Repr::One(at, run);
                return;
            }
            Repr::One(start, first) if *start + first.len == at && first.is_continued_by(run) => {
                first.len += run.len;
                return;
            }
            _ => {}
        }
        let runs = self.many();
        runs.data += run.data_blocks();
        let map = &mut runs.map;
        let prev = map.range(..at).next_back().map(|(s, r)| (*s, *r));
        let joins = |(s, r): &(FileBlock, Run)| *s + r.len == at && r.is_continued_by(run);
        if let Some((start, prev)) = prev.filter(joins) {
            (at, run) = (start, Run { len: prev.len + run.len, ..prev });
        }
        let next = map.get(&(at + run.len)).copied();
        if let Some(next) = next.filter(|next| run.is_continued_by(*next)) {
            map.remove(&(at + run.len));
            run.len += next.len;
        }
        map.insert(at, run);
        self.shrink();
    }

    fn many(&mut self) -> &mut Runs {
        if let Repr::Empty | Repr::One(..) = self.0 {
            let runs =
                Runs { map: self.runs_from(FileBlock::ZERO).collect(), data: self.data_blocks() };
            self.0 = Repr::Many(Box::new(runs));
        }
        match &mut self.0 {
            Repr::Many(runs) => runs,
            _ => unreachable!("made Many just above"),
        }
    }

    fn shrink(&mut self) {
        if let Repr::Many(many) = &self.0 {
            let mut runs = many.map.iter();
            match (runs.next(), runs.next()) {
                (None, _) => self.0 = Repr::Empty,
                (Some((at, run)), None) => self.0 = Repr::One(*at, *run),
                _ => {}
            }
        }
    }

    /// Runs that reach beyond `at`, in order.
    fn runs_from(&self, at: FileBlock) -> impl Iterator<Item = (FileBlock, Run)> + '_ {
        let one = match &self.0 {
            Repr::One(start, run) if *start + run.len > at => Some((*start, *run)),
            _ => None,
        };
        let many = match &self.0 {
            Repr::Many(runs) => Some(&runs.map),
            _ => None,
        };
        let first = many.and_then(|map| {
            let (start, run) = map.range(..=at).next_back()?;
            (*start + run.len > at).then_some(*start)
        });
        let rest = many.into_iter().flat_map(move |map| {
            map.range((Bound::Included(first.unwrap_or(at)), Bound::Unbounded))
                .map(|(s, r)| (*s, *r))
        });
        one.into_iter().chain(rest)
    }
}

fn segment(at: FileBlock, run: Run) -> Segment {
    let source = run.extent().map_or(Source::Hole, |e| Source::Data(e.start));
    Segment { at, len: run.len, source }
}

fn free(run: Run, freed: &mut Vec<Extent>) {
    freed.extend(run.extent().filter(|e| e.len > 0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Map(u64, u64),
        Punch(u64, u64),
        Remove(u64, u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0..40u64, 1..12u64).prop_map(|(a, l)| Op::Map(a, l)),
            1 => (0..40u64, 1..12u64).prop_map(|(a, l)| Op::Punch(a, l)),
            1 => (0..40u64, 1..60u64).prop_map(|(a, l)| Op::Remove(a, l)),
        ]
    }

    proptest! {
        /// Against one source per block; every block handed out comes back freed exactly once.
        #[test]
        fn agrees_with_one_source_per_block(ops in proptest::collection::vec(op(), 1..60)) {
            let mut map = ExtentMap::default();
            let mut model = vec![Source::Unmapped; 128];
            let mut next = 1000;
            let (mut given, mut freed) = (Vec::new(), Vec::new());
            for op in ops {
                match op {
                    Op::Map(at, len) => {
                        map.map(FileBlock(at), Extent { start: StoreBlock(next), len }, &mut freed);
                        for i in 0..len {
                            model[(at + i) as usize] = Source::Data(StoreBlock(next + i));
                            given.push(next + i);
                        }
                        // Sometimes contiguous with the next one, so that runs join.
                        next += len + (at & 1);
                    }
                    Op::Punch(at, len) => {
                        map.punch(FileBlock(at), len, &mut freed);
                        model[at as usize..(at + len) as usize].fill(Source::Hole);
                    }
                    Op::Remove(at, len) => {
                        map.remove(FileBlock(at), len, &mut freed);
                        model[at as usize..(at + len) as usize].fill(Source::Unmapped);
                    }
                }
                let mut seen = vec![];
                map.segments(FileBlock::ZERO, 128, |s| for i in 0..s.len {
                    seen.push(match s.source { Source::Data(b) => Source::Data(b + i), other => other });
                });
                prop_assert_eq!(&seen, &model);
                let kept = seen.iter().filter(|s| matches!(s, Source::Data(_))).count();
                prop_assert_eq!(map.data_blocks(), kept as u64);
                let runs: Vec<_> = map.iter().collect();
                prop_assert!(runs.windows(2).all(|w| w[0].at + w[0].len <= w[1].at));
            }
            map.remove_from(FileBlock::ZERO, &mut freed);
            let mut back: Vec<u64> = freed.iter().flat_map(|e| e.start.0..e.end().0).collect();
            back.sort();
            prop_assert_eq!(back, given);
        }
    }

    #[test]
    fn a_sequential_writer_keeps_one_run() {
        let mut map = ExtentMap::default();
        for i in 0..100 {
            map.map(FileBlock(i), Extent { start: StoreBlock(500 + i), len: 1 }, &mut Vec::new());
        }
        assert_eq!(map.runs(), 1);
        assert_eq!(map.hint_before(FileBlock(100)), Some(StoreBlock(600)));
    }
}
