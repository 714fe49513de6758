//! The same random operations on Overcoat and on kernel overlayfs, over the same lowers.
//!
//! By itself it runs the same [`LISTS`] lists every time, so that what it says is about the change at hand. To hunt,
//! set `OVERCOAT_TEST_SECONDS`: then it runs others for so long, from `OVERCOAT_TEST_SEED` if that is set. A
//! difference is printed with a shortened list, which then belongs into `regressions.rs`.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's failure")]

mod compare;
mod lowers;
mod matrix;
mod offline;
mod op;
mod regressions;
mod view;

use std::time::{Duration, Instant};

use compare::Writeback;
use overcoat_tests::rng::Rng;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// How many lists are run every time.
const LISTS: u64 = 80;

/// The operations of a list.
const LENGTH: usize = 120;

#[test]
fn random_operations_agree_with_overlayfs() {
    if !overcoat_tests::can_mount() {
        return;
    }
    let hunt = std::env::var("OVERCOAT_TEST_SECONDS").is_ok();
    let deadline = Instant::now() + Duration::from_secs(setting("OVERCOAT_TEST_SECONDS", 0));
    let mut seeds = if hunt { Rng::from_env("differential") } else { Rng::new(1) };
    let mut runs = 0;
    while runs < LISTS && !hunt || Instant::now() < deadline {
        let seed = seeds.next();
        let ops = op::random(&mut Rng::new(seed), LENGTH);
        let writeback = if seed % 2 == 0 { Writeback::On } else { Writeback::Off };
        if let Err(fault) = compare::run(&ops, writeback) {
            eprintln!("list of seed {seed}: {fault}\nshortening…");
            let (ops, fault) = compare::shrink(ops, writeback, fault);
            panic!("{fault}\nwriteback: {writeback:?}\n{ops:#?}");
        }
        runs += 1;
    }
    eprintln!("{runs} lists of {LENGTH} operations agree");
}
