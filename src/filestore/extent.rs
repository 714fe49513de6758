//! Extents and sets of them.

use std::collections::BTreeMap;

use crate::block::StoreBlock;

/// A run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// First block.
    pub start: StoreBlock,
    /// Blocks.
    pub len: u64,
}

impl Extent {
    /// One past the last block; saturates.
    pub fn end(self) -> StoreBlock {
        StoreBlock(self.start.0.saturating_add(self.len))
    }
}

/// A set of blocks as disjoint runs that do not touch one another.
#[derive(Debug, Default)]
pub(super) struct ExtentSet {
    runs: BTreeMap<StoreBlock, u64>,
}

impl ExtentSet {
    pub(super) fn clear(&mut self) {
        self.runs.clear();
    }

    /// Adds `e`, which shares no block with the set.
    pub(super) fn insert(&mut self, e: Extent) {
        if e.len == 0 {
            return;
        }
        if let Some((_, len)) =
            self.runs.range_mut(..e.start).next_back().filter(|(s, l)| **s + **l == e.start)
        {
            *len += e.len;
            return;
        }
        self.runs.insert(e.start, e.len);
    }

    /// Takes the blocks of `e` out; `inside` gets the parts that were members, `outside` the rest.
    pub(super) fn remove(
        &mut self,
        e: Extent,
        mut inside: impl FnMut(Extent),
        mut outside: impl FnMut(Extent),
    ) {
        let (mut at, end) = (e.start, e.end());
        while at < end {
            let before = self.runs.range(..=at).next_back().map(|(s, l)| (*s, *l));
            if let Some((s, l)) = before.filter(|(s, l)| *s + *l > at) {
                let stop = end.min(s + l);
                self.runs.remove(&s);
                if s < at {
                    self.runs.insert(s, at - s);
                }
                if stop < s + l {
                    self.runs.insert(stop, s + l - stop);
                }
                inside(Extent { start: at, len: stop - at });
                at = stop;
                continue;
            }
            let next = self.runs.range(at..end).next().map_or(end, |(s, _)| *s);
            outside(Extent { start: at, len: next - at });
            at = next;
        }
    }
}

/// Sorts extents and joins those that touch. Extents that overlap are joined too.
pub(super) fn merge(extents: &mut Vec<Extent>) {
    extents.sort_unstable();
    extents.dedup_by(|b, a| {
        let touches = b.start == a.end();
        if touches {
            a.len += b.len;
        }
        touches
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_set_of_extents_is_a_set_of_blocks(ops in prop::collection::vec((any::<bool>(), 0u64..64, 1u64..12), 1..60)) {
            let mut set = ExtentSet::default();
            let mut model = BTreeSet::new();
            for (add, start, len) in ops {
                let e = Extent { start: StoreBlock(start), len };
                if add {
                    let mut fresh = Vec::new();
                    set.remove(e, |_| {}, |_| {});
                    fresh.push(e);
                    fresh.into_iter().for_each(|e| set.insert(e));
                    model.extend(start..start + len);
                } else {
                    let (mut inside, mut outside) = (BTreeSet::new(), BTreeSet::new());
                    set.remove(e, |e| inside.extend(e.start.0..e.end().0), |e| outside.extend(e.start.0..e.end().0));
                    for b in start..start + len {
                        prop_assert_eq!(model.remove(&b), inside.contains(&b));
                        prop_assert!(inside.contains(&b) != outside.contains(&b));
                    }
                }
                let have: BTreeSet<u64> = set.runs.iter().flat_map(|(s, l)| s.0..s.0 + *l).collect();
                prop_assert_eq!(&have, &model);
            }
        }

        #[test]
        fn merging_keeps_the_blocks(starts in prop::collection::btree_set(0u64..40, 0..30)) {
            let mut v: Vec<_> = starts.iter().rev().map(|s| Extent { start: StoreBlock(*s), len: 1 }).collect();
            merge(&mut v);
            let back: BTreeSet<u64> = v.iter().flat_map(|e| e.start.0..e.end().0).collect();
            prop_assert_eq!(back, starts);
            prop_assert!(v.windows(2).all(|w| w[0].end() < w[1].start));
        }
    }
}
