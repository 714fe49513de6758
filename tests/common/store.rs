//! Looking at a filestore from outside.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{fsx, tool};

/// The name of the filestore in its upperdir.
pub const NAME: &str = ".overcoat.filestore";

/// The filestore of an upperdir.
pub fn path(upper: &Path) -> PathBuf {
    upper.join(NAME)
}

/// What the filestore really takes of the disk, in bytes.
pub fn used(upper: &Path) -> u64 {
    fsx::statx(path(upper)).stx_blocks * 512
}

/// The filestore's apparent size, in bytes.
pub fn length(upper: &Path) -> u64 {
    fsx::statx(path(upper)).stx_size
}

/// # Panics
/// When `overcoat check` finds fault with the filestore.
pub fn assert_clean(upper: &Path) {
    let outcome =
        tool::overcoat_run(&["check".as_ref(), path(upper).as_os_str()], Duration::from_secs(60));
    assert_eq!(outcome.code, Some(0), "overcoat check: {outcome:?}");
}
