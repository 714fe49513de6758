//! What is not mounted: the same questions that are asked of a mount.

use super::{Report, check};
use crate::config::FILESTORE_NAME;
use crate::filestore::OpenError;
use crate::overlay::Usage;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The unit of `st_blocks`, in bytes.
const SECTOR: u64 = 512;

/// A filestore on the host.
#[derive(Clone, Debug)]
pub struct Upper {
    file: PathBuf,
}

/// What a filestore takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpperUsage {
    /// A mount has it open. Bytes on the host's disk.
    Mounted {
        host_bytes: u64,
    },
    Unmounted(Usage),
}

/// Why a filestore cannot be looked at. Displays as one line that names it.
#[derive(Debug)]
pub struct UpperError {
    place: PathBuf,
    reason: String,
}

impl UpperError {
    fn new(place: &Path, reason: impl ToString) -> UpperError {
        UpperError { place: place.to_owned(), reason: reason.to_string() }
    }
}

impl std::fmt::Display for UpperError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place.display(), self.reason)
    }
}

impl std::error::Error for UpperError {}

/// The text of an error of the host, without its number.
fn text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

impl Upper {
    /// `place` is an upper directory that holds a filestore, or the filestore itself.
    ///
    /// # Errors
    /// Where there is none, or it cannot be looked up.
    pub fn open(place: impl AsRef<Path>) -> Result<Upper, UpperError> {
        let place = place.as_ref();
        let meta = place.metadata().map_err(|err| UpperError::new(place, text(&err)))?;
        if !meta.is_dir() {
            return Ok(Upper { file: place.to_owned() });
        }
        let file = place.join(FILESTORE_NAME);
        match file.symlink_metadata() {
            Ok(_) => Ok(Upper { file }),
            Err(_) => Err(UpperError::new(place, format!("no {FILESTORE_NAME} in it"))),
        }
    }

    /// Verifies the filestore without changing it: structure, checksums, the tree, and that extents are neither shared
    /// nor out of range. Waits a moment for a mount that is about to end.
    ///
    /// # Errors
    /// Where there is nothing to check: it is in use by a mount, or its superblock is beyond use.
    pub fn check(&self) -> Result<Report, UpperError> {
        check(&self.file).map_err(|err| UpperError::new(&self.file, err))
    }

    /// What the filestore takes; what is in it only where no mount has it open.
    ///
    /// # Errors
    /// As [`Upper::check`], but not where it is in use.
    pub fn usage(&self) -> Result<UpperUsage, UpperError> {
        let meta = self.file.metadata().map_err(|err| UpperError::new(&self.file, text(&err)))?;
        let host_bytes = meta.blocks() * SECTOR;
        match check(&self.file) {
            Ok(report) => Ok(UpperUsage::Unmounted(Usage {
                data_bytes: report.data_bytes,
                metadata_bytes: report.journal_bytes,
                inodes: report.inodes,
                host_bytes,
            })),
            Err(OpenError::InUse) => Ok(UpperUsage::Mounted { host_bytes }),
            Err(err) => Err(UpperError::new(&self.file, err)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_filestore_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let line = Upper::open(dir.path()).unwrap_err().to_string();
        assert_eq!(line, format!("{}: no .overcoat.filestore in it", dir.path().display()));
        let gone = dir.path().join("gone");
        let line = Upper::open(&gone).unwrap_err().to_string();
        assert_eq!(line, format!("{}: No such file or directory", gone.display()));
    }
}
