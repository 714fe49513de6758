//! What Overcoat is to reach, row by row.

use crate::figure::{Row, Unit};

/// Names of the peers that goals compare with.
pub const PLAIN: &str = "plain";
pub const OVERLAY: &str = "overlay";
pub const OVERLAY_VOLATILE: &str = "overlay-volatile";
pub const OVERLAY_TMPFS: &str = "overlay-tmpfs";
pub const FUSE_OVERLAYFS: &str = "fuse-overlayfs";
pub const RUNSC: &str = "runsc";
pub const NULL: &str = "null";

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At most this many times the cost of a peer (for a throughput: its reciprocal).
    Times(&'static str, f64),
    /// At most this, in the row's unit.
    AtMost(f64),
}

/// Rows whose name begins so, and their goals.
const GOALS: &[(&str, &[Goal])] = &[
    (
        "fsstress: run",
        &[
            Goal::Times(OVERLAY_TMPFS, 1.3),
            Goal::Times(OVERLAY, 1.0 / 5.0),
            Goal::Times(FUSE_OVERLAYFS, 1.0 / 8.0),
            Goal::Times(RUNSC, 1.0 / 3.0),
        ],
    ),
    ("ops: create", CHANGE),
    ("ops: mkdir", CHANGE),
    ("ops: rename", CHANGE),
    ("ops: unlink", CHANGE),
    ("ops: rmdir", CHANGE),
    ("ops: fsync", CHANGE),
    ("ops: stat", LOOK),
    ("ops: negative stat", LOOK),
    ("ops: open+read+close", LOOK),
    ("ops: open+close", &[Goal::Times(OVERLAY, 4.0)]),
    ("apt: ", WORK),
    ("work: gcc", &[Goal::Times(PLAIN, 1.05)]),
    ("work: ", WORK),
    ("data: ", &[Goal::Times(OVERLAY, 1.0 / 0.8)]),
    ("lower: write 1 byte", &[Goal::AtMost(1.0)]),
    ("lower: blocks", &[Goal::AtMost(64.0)]),
    ("lower: ", &[Goal::Times(PLAIN, 1.0 / 0.97)]),
    ("life: mount to answer", &[Goal::AtMost(15.0)]),
    ("life: delete", &[Goal::AtMost(50.0)]),
    ("memory: idle", &[Goal::AtMost(6.0)]),
    ("memory: per file at 1000000", &[Goal::AtMost(250.0)]),
];
const CHANGE: &[Goal] = &[Goal::Times(OVERLAY, 0.7), Goal::Times(OVERLAY_TMPFS, 2.0)];
const LOOK: &[Goal] = &[Goal::Times(OVERLAY, 1.5)];
const WORK: &[Goal] = &[Goal::Times(OVERLAY, 0.95)];

/// Whether a peer is the one to be judged.
pub fn is_judged(peer: &str) -> bool {
    peer.starts_with("overcoat")
}

/// The goals of a row for a peer, each against what offers the same durability: a volatile mount is held
/// against a volatile one, and no mount that keeps its promises is held against fsync on a tmpfs.
pub fn goals(row: &str, peer: &str) -> Vec<Goal> {
    let volatile = peer.ends_with("volatile");
    let found = GOALS.iter().find(|(prefix, _)| row.starts_with(prefix));
    let fsync = row.starts_with("ops: fsync");
    found
        .map_or(&[][..], |(_, goals)| goals)
        .iter()
        .filter(|goal| volatile || !fsync || !matches!(goal, Goal::Times(OVERLAY_TMPFS, _)))
        .map(|goal| match *goal {
            Goal::Times(OVERLAY, times) if volatile => Goal::Times(OVERLAY_VOLATILE, times),
            other => other,
        })
        .collect()
}

/// How far a peer is: `None` where something that the goal needs was not measured.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    pub goal: Goal,
    /// In the goal's own terms.
    pub value: f64,
    pub reached: bool,
}

pub fn judge(row: &Row, peer: &str) -> Vec<Verdict> {
    goals(&row.name, peer)
        .into_iter()
        .filter_map(|goal| {
            let (value, limit) = match goal {
                Goal::Times(base, times) => (row.ratio(peer, base)?, times),
                Goal::AtMost(limit) => (row.median(peer)?, limit),
            };
            Some(Verdict { goal, value, reached: value <= limit })
        })
        .collect()
}

/// A goal in words.
pub fn describe(goal: Goal, unit: Unit) -> String {
    match goal {
        Goal::Times(base, times) => format!("≤ {times:.2} × {base}"),
        Goal::AtMost(limit) => format!("≤ {limit} {}", unit.symbol()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Figures;

    #[test]
    fn a_verdict_needs_both_sides() {
        let mut figures = Figures::default();
        figures.record("ops: create, 1 thread", Unit::Micros, "overcoat", 10.0);
        figures.record("ops: create, 1 thread", Unit::Micros, OVERLAY, 20.0);
        let verdicts = judge(&figures.rows[0], "overcoat");
        assert_eq!(verdicts.len(), 1, "tmpfs was not measured: {verdicts:?}");
        assert!(verdicts[0].reached && verdicts[0].value == 0.5);
    }

    #[test]
    fn the_same_durability_on_both_sides() {
        assert_eq!(goals("ops: fsync, 1 thread", "overcoat"), [Goal::Times(OVERLAY, 0.7)]);
        assert_eq!(
            goals("ops: fsync, 1 thread", "overcoat-volatile"),
            [Goal::Times(OVERLAY_VOLATILE, 0.7), Goal::Times(OVERLAY_TMPFS, 2.0)]
        );
    }

    #[test]
    fn throughput_goals_turn_round() {
        let mut figures = Figures::default();
        figures.record("data: write", Unit::MegabytesPerSecond, "overcoat", 85.0);
        figures.record("data: write", Unit::MegabytesPerSecond, OVERLAY, 100.0);
        assert!(judge(&figures.rows[0], "overcoat")[0].reached);
    }
}
