//! Verifies a filestore without changing it.

use crate::block::BLOCK_SIZE;
use crate::filestore::OpenError;
use crate::journal::Recovery;
use crate::overlay::{Purpose, ReplayError, claim_and_open, drop_orphans, mark_extents, replay};
use std::path::Path;

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How the journal was found: clean or not, what was cut off.
    pub recovery: Recovery,
    pub inodes: u64,
    /// Unlinked but open when the mount ended; the next mount drops them.
    pub orphans: u64,
    pub data_bytes: u64,
    pub journal_bytes: u64,
    /// What the host accounts for.
    pub host_bytes: u64,
    /// Bytes the host keeps for free blocks; the next mount gives them back.
    pub leaked_bytes: u64,
    /// What is wrong, a line each. Empty: the filestore is whole.
    pub faults: Vec<String>,
}

/// Checks structure, checksums, the tree, and that extents are neither shared nor out of range.
///
/// # Errors
/// Where there is nothing to check: no filestore, in use by a mount, or a superblock beyond use.
pub fn check(file: &Path) -> Result<Report, OpenError> {
    let host = |what| move |err| OpenError::Host(what, err);
    let parent = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = file.file_name().ok_or(OpenError::Missing)?;
    let (_claim, recovering) = claim_and_open(parent, Path::new(name), Purpose::Check)?;
    let mut report = Report { recovery: *recovering.recovery(), ..Report::default() };
    if report.recovery.damaged_slot {
        report.faults.push("one of the superblock's two copies is damaged".into());
    }
    let (mut tree, replayed) = match replay(recovering) {
        Ok(found) => found,
        Err(ReplayError::Host(err)) => return Err(OpenError::Host("read", err)),
        Err(err) => {
            report.faults.push(format!("journal: {err}"));
            return Ok(report);
        }
    };
    report.orphans = tree.orphans().len() as u64;
    drop_orphans(&mut tree);
    report.inodes = tree.len() as u64;
    report.data_bytes = tree.data_blocks() * BLOCK_SIZE;
    report.journal_bytes = replayed.journal_blocks() * BLOCK_SIZE;
    report.faults.extend(tree.faults().iter().map(|fault| format!("tree: {fault}")));
    if let Err(err) = mark_extents(&tree, &replayed) {
        report.faults.push(format!("extents: {err}"));
        return Ok(report);
    }
    let store = replayed.into_store();
    match store.blocks_beyond_end().map_err(host("examined"))? {
        0 => {}
        blocks => report.faults.push(OpenError::CutOff(blocks).to_string()),
    }
    report.leaked_bytes = store.leaked_bytes().map_err(host("examined"))?;
    report.host_bytes = store.usage().map_err(host("examined"))?.host_bytes;
    Ok(report)
}
