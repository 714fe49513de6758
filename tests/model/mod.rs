//! A reference model of the file system, and random operations on both. `OVERCOAT_MODEL_CASES` sets
//! how many sequences are tried (proptest's own variables work too).

mod faults;
mod harness;
mod lowers;
mod op;
mod reference;
mod regressions;

use crate::config::{Config, Durability, FILESTORE_NAME, IdMap, Medium};
use crate::errno::Errno;
use crate::overlay::Overlay;
use harness::{Harness, Host, Verdict};
use lowers::{Layer, Step};
use op::Op;
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestCaseError};
use std::path::PathBuf;
use std::sync::Arc;

/// A view on real directories.
struct Real {
    config: Config,
    /// Filestore: where it is.
    file: PathBuf,
}

impl Host for Real {
    fn open(&mut self) -> Verdict<Arc<Overlay>> {
        Overlay::new(&self.config).map_err(|err| format!("open: {err}"))
    }

    fn close(&mut self, overlay: Arc<Overlay>, kill: bool) -> Verdict {
        let killed = kill.then(|| std::fs::read(&self.file).expect("the filestore"));
        overlay.destroy();
        drop(overlay);
        if let Some(bytes) = &killed {
            std::fs::write(&self.file, bytes).expect("the filestore");
        }
        let checked = || crate::control::check(&self.file).map_err(|err| format!("check: {err}"));
        let mut report = checked()?;
        if report.leaked_bytes > 0 {
            // ext4 (6.18) may go on counting blocks that were punched before they were written back.
            let file = std::fs::File::open(&self.file).and_then(|file| file.sync_all());
            file.expect("the filestore");
            report = checked()?;
        }
        let lost = if kill { 0 } else { report.leaked_bytes + report.orphans };
        if !report.faults.is_empty() || lost > 0 || report.recovery.cut() {
            return Err(format!("check: {report:?}"));
        }
        Ok(())
    }

    fn tolerates(&self, err: Errno) -> bool {
        let limited = self.config.size_limit.is_some() || self.config.inode_limit.is_some();
        limited && err == Errno::NOSPC
    }
}

/// What one sequence runs on.
#[derive(Clone, Debug, Default)]
struct Ground {
    /// Bottom first; the last one is the host's upperdir.
    layers: Vec<Vec<Step>>,
    durable: bool,
    size_limit: Option<u64>,
    inode_limit: Option<u64>,
}

fn ground() -> impl Strategy<Value = Ground> {
    let layers = proptest::collection::vec(lowers::steps(), 2..5);
    let limit = proptest::option::weighted(0.15, 64..400_u64);
    let inodes = proptest::option::weighted(0.1, 5..60_u64);
    (layers, proptest::bool::weighted(0.15), limit, inodes).prop_map(
        |(layers, durable, limit, inode_limit)| Ground {
            layers,
            durable,
            size_limit: limit.map(|blocks| blocks << 10),
            inode_limit,
        },
    )
}

/// Runs a sequence, and looks afterwards whether the layers were left alone.
fn run(ground: &Ground, ops: &[Op]) -> Verdict {
    // In memory where possible: on ext4 the count of what a punch gave back cannot be relied on.
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() { memory } else { PathBuf::from("/var/tmp") };
    let base = std::env::var_os("OVERCOAT_TEST_DIR").map_or(base, PathBuf::from);
    let place = tempfile::Builder::new().prefix("model").tempdir_in(base).expect("a directory");
    let path = |n: usize| place.path().join(format!("layer{n}"));
    let mut layers: Vec<Layer> =
        ground.layers.iter().enumerate().map(|(n, steps)| Layer::make(&path(n), steps)).collect();
    while layers.len() < 2 {
        layers.push(Layer::make(&path(layers.len()), &[]));
    }
    layers.reverse();
    let before: Vec<_> = layers.iter().map(lowers::manifest).collect();
    let upper = layers[0].path.clone();
    let config = Config {
        lowers: layers[1..].iter().map(|layer| layer.path.clone()).collect(),
        upper: Some(upper.clone()),
        medium: Medium::OwnFile,
        size_limit: ground.size_limit,
        inode_limit: ground.inode_limit,
        durability: if ground.durable { Durability::Full } else { Durability::Volatile },
        idmap: IdMap::default(),
    };
    // The filestore changes its directory's times: before they are looked at.
    let mut real = Real { config, file: upper.join(FILESTORE_NAME) };
    real.open()?.destroy();
    let settled = lowers::manifest(&layers[0]);
    let model = lowers::merge(&layers);
    Harness::new(real, model)?.run(ops)?;
    let after: Vec<_> = layers.iter().map(lowers::manifest).collect();
    if after[1..] != before[1..] || after[0] != settled {
        return Err(format!("a layer was changed: {before:#?} to {after:#?}"));
    }
    Ok(())
}

fn runs() -> Runs {
    let cases = std::env::var("OVERCOAT_MODEL_CASES").ok().and_then(|n| n.parse().ok());
    Runs {
        cases: cases.unwrap_or(120),
        max_shrink_iters: 1500,
        failure_persistence: None,
        ..Runs::default()
    }
}

proptest! {
    #![proptest_config(runs())]

    #[test]
    fn random_operations_do_what_the_reference_does(
        ground in ground(),
        ops in proptest::collection::vec(op::op(), 1..80),
    ) {
        run(&ground, &ops).map_err(TestCaseError::fail)?;
    }
}
