//! How many descriptors the caches of a stack may keep open.

use rustix::process::{Resource, getrlimit};

/// Descriptors that everything else in the process may need: connections, rings, the filestore, /proc, and what
/// operations hold for a moment.
const RESERVED: usize = 192;

/// Bounds of what is kept open.
const LEAST: usize = 16;
const MOST_DIRS: usize = 1024;
const MOST_FILES: usize = 512;

/// The shares of the caches in what the process may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    pub dirs: usize,
    pub files: usize,
}

impl Budget {
    /// What the process's limit (`RLIMIT_NOFILE`) leaves beside the roots of `layers` layers.
    pub fn of_process(layers: usize) -> Budget {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Budget::of(usize::try_from(limit).unwrap_or(usize::MAX), layers)
    }

    fn of(limit: usize, layers: usize) -> Budget {
        let left = limit.saturating_sub(layers).saturating_sub(RESERVED);
        let files = (left / 3).clamp(LEAST, MOST_FILES);
        let dirs = left.saturating_sub(files).clamp(LEAST, MOST_DIRS);
        Budget { dirs, files }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_stay_below_the_limit() {
        for (limit, layers) in [(1024, 1), (1024, 500), (1024, 790), (4096, 500), (256, 10)] {
            let Budget { dirs, files } = Budget::of(limit, layers);
            assert!(dirs + files + layers < limit, "{limit} {layers}: {dirs} {files}");
        }
        assert_eq!(Budget::of(1 << 20, 10), Budget { dirs: MOST_DIRS, files: MOST_FILES });
        assert_eq!(Budget::of(100, 200), Budget { dirs: LEAST, files: LEAST });
    }
}
