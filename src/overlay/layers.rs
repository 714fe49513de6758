//! Which of today's layers are those that the upper's records speak of.

use crate::attr::{LayerId, RecordedLayer};
use crate::layer::Stack;
use crate::upper::{KnownLayer, Tree};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// A layer of this mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Today {
    pub id: RecordedLayer,
    pub layer: KnownLayer,
}

/// Made when the view is opened; immutable.
#[derive(Debug)]
pub(super) struct Layers {
    /// Topmost first.
    today: Vec<Today>,
    /// Every layer that was recorded before this mount.
    recorded: FxHashMap<RecordedLayer, KnownLayer>,
}

impl Layers {
    /// Finds the layers of `stack` among those that `tree` has records of. One that is new gets a new number.
    pub fn new(stack: &Stack, tree: &Tree) -> Layers {
        let recorded: FxHashMap<_, _> = tree.layers().collect();
        let mut next = recorded.keys().map(|id| id.0.saturating_add(1)).max().unwrap_or(1);
        let mut today: Vec<Today> = Vec::new();
        for (place, identity) in stack.identities() {
            let layer = KnownLayer { identity: identity.0, place };
            // Several may have the same identity: the one that was in this place, if any.
            let known = tree.layers().filter(|(id, known)| {
                known.identity == layer.identity && today.iter().all(|t| t.id != *id)
            });
            let known = known.min_by_key(|(id, known)| (known.place != place, *id));
            let id = known.map(|(id, _)| id).unwrap_or_else(|| {
                next += 1;
                RecordedLayer(next - 1)
            });
            today.push(Today { id, layer });
        }
        Layers { today, recorded }
    }

    /// The layer at `place`.
    pub fn at(&self, place: LayerId) -> Option<Today> {
        self.today.iter().find(|today| today.layer.place == place).copied()
    }

    /// Where the recorded layer is now, if it is one of this mount's.
    pub fn place(&self, id: RecordedLayer) -> Option<LayerId> {
        self.today.iter().find(|today| today.id == id).map(|today| today.layer.place)
    }

    /// Where to look for what the recorded layer had: itself, else the one in the same place, then all from top
    /// to bottom.
    pub fn candidates(&self, id: RecordedLayer) -> SmallVec<[LayerId; 8]> {
        let was = self.recorded.get(&id).map(|known| known.place);
        let same_place = was.filter(|place| self.at(*place).is_some());
        let mut all: SmallVec<[LayerId; 8]> =
            self.place(id).into_iter().chain(same_place).collect();
        for today in &self.today {
            if !all.contains(&today.layer.place) {
                all.push(today.layer.place);
            }
        }
        all.dedup();
        all
    }
}
