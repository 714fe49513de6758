//! Verifies a filestore without changing it.

use crate::block::BLOCK_SIZE;
use crate::filestore::OpenError;
use crate::journal::Recovery;
use crate::overlay::{Purpose, Replay, ReplayError, claim_and_open, mark_extents, replay};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How the journal was found: clean or not, what was cut off.
    pub recovery: Recovery,
    pub inodes: u64,
    /// Unlinked but open when the mount ended; the next mount drops them.
    pub orphans: u64,
    /// Files with links left but no entry, by the path in a layer that they were copied up from: other names of hard
    /// links. The next mount finds another name in the layers, or drops them.
    pub nameless: Vec<PathBuf>,
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
    let (mut replay, replayed) = match replay(recovering) {
        Ok(found) => found,
        Err(ReplayError::Host(err)) => return Err(OpenError::Host("read", err)),
        Err(err) => {
            report.faults.push(format!("journal: {err}"));
            return Ok(report);
        }
    };
    report.orphans = replay.tree().orphans().len() as u64;
    replay.drop_orphans();
    report.nameless = nameless(&replay);
    let tree = replay.tree();
    report.inodes = tree.len() as u64;
    report.data_bytes = tree.data_blocks() * BLOCK_SIZE;
    report.journal_bytes = replayed.journal_blocks() * BLOCK_SIZE;
    report.faults.extend(replay.faults().iter().map(|fault| format!("tree: {fault}")));
    if let Err(err) = mark_extents(tree, &replayed) {
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

fn nameless(replay: &Replay) -> Vec<PathBuf> {
    // Format 1 has no entry for what was copied up in its place.
    let Replay::Two(tree) = replay else { return Vec::new() };
    let origin = |ino| Some(PathBuf::from(OsStr::from_bytes(&tree.get(ino)?.origin()?.path)));
    let mut paths: Vec<PathBuf> = tree.nameless().into_iter().filter_map(origin).collect();
    paths.sort();
    paths
}
