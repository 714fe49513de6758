//! The upper as format 1 has it: what was copied up in its place has no entry, and directories list the lower
//! directories merged beneath them.

use super::tree::{Broken, Tree};
use crate::attr::{InodeNo, LayerId, LowerPath, RecordedLayer, Time};
use crate::block::SECTOR_SIZE;
use crate::filestore::Extent;
use crate::journal::record::{Format1Record, OriginImage, Record, Stamp};
use rustc_hash::FxHashMap;

/// A tree of format 1. Its origins say nothing but layer, path and length; the layer's number is its place.
#[derive(Debug, Default)]
pub struct Format1 {
    pub tree: Tree,
    /// Of the directories that have any, topmost first.
    pub lowers: FxHashMap<InodeNo, Vec<LowerPath>>,
}

impl Format1 {
    /// As [`Tree::apply`].
    ///
    /// # Errors
    /// As [`Tree::apply`].
    pub fn apply(
        &mut self,
        record: &Format1Record<'_>,
        freed: &mut Vec<Extent>,
    ) -> Result<(), Broken> {
        match *record {
            Format1Record::Same(record) => {
                if let Record::Drop { ino } = record {
                    self.lowers.remove(&ino);
                }
                self.tree.apply(&record, freed)
            }
            Format1Record::Origin { ino, layer, len, path } => {
                if self.tree.get(ino).is_some_and(|inode| inode.is_dir()) {
                    super::tree::check_path(ino, path)?;
                    let at = LowerPath { layer, path: path.into() };
                    self.lowers.entry(ino).or_default().push(at);
                    return Ok(());
                }
                let origin = unstamped(layer, len);
                self.tree.apply(&Record::Origin { ino, origin, path }, freed)
            }
        }
    }

    /// As [`Tree::faults`]: what was copied up in its place needs no entry.
    pub fn faults(&self) -> Vec<Broken> {
        let mut faults = self.tree.faults();
        faults.retain(|Broken(_, ino)| !self.lowers.contains_key(ino));
        faults
    }
}

/// What is known of an origin of format 1.
fn unstamped(LayerId(layer): LayerId, len: u64) -> OriginImage {
    OriginImage {
        layer: RecordedLayer(layer.into()),
        len,
        stamp: Stamp { size: len, mtime: Time::default() },
        blocks: u32::try_from(len.div_ceil(SECTOR_SIZE)).unwrap_or(u32::MAX),
        several_names: true,
    }
}
