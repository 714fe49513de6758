//! The figures as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::figure::{Figures, Row};
use crate::goal::{self, describe, is_judged, judge};
use crate::options::Options;

/// Medians, what they cost relative to overlayfs, and the goals.
pub fn table(figures: &Figures, peers: &[&str]) -> String {
    let mut out = String::new();
    let wide = figures.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    put(&mut out, format_args!("{:wide$}", "medians; (cost ÷ overlay)"));
    for peer in peers {
        put(&mut out, format_args!("  {peer:>18}"));
    }
    out.push('\n');
    for row in &figures.rows {
        put(&mut out, format_args!("{:wide$}", format!("{} [{}]", row.name, row.unit.symbol())));
        for peer in peers {
            put(&mut out, format_args!("  {:>18}", cell(row, peer)));
        }
        out.push('\n');
    }
    out.push_str(&verdicts(figures, peers));
    for gap in &figures.gaps {
        put(&mut out, format_args!("not measured: {gap}\n"));
    }
    out
}

fn cell(row: &Row, peer: &str) -> String {
    let Some(value) = row.median(peer) else { return "–".to_owned() };
    match row.ratio(peer, goal::OVERLAY) {
        Some(ratio) => format!("{} ({ratio:>5.2})", short(value)),
        None => format!("{}        ", short(value)),
    }
}

/// Three digits or all before the point.
fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn verdicts(figures: &Figures, peers: &[&str]) -> String {
    let mut out = String::new();
    for peer in peers.iter().filter(|peer| is_judged(peer)) {
        let (mut reached, mut all, mut missed) = (0, 0, String::new());
        for row in &figures.rows {
            for verdict in judge(row, peer) {
                all += 1;
                if verdict.reached {
                    reached += 1;
                    continue;
                }
                let goal = describe(verdict.goal, row.unit);
                put(
                    &mut missed,
                    format_args!("  {}: {} (goal {goal})\n", row.name, short(verdict.value)),
                );
            }
        }
        put(&mut out, format_args!("\n{peer}: {reached} of {all} goals reached"));
        out.push_str(if missed.is_empty() { "\n" } else { ", not reached:\n" });
        out.push_str(&missed);
    }
    out
}

/// Appends to a string, which cannot fail.
pub fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).unwrap_or_default();
}

pub fn json(figures: &Figures, peers: &[&str], options: &Options) -> String {
    let rows: Vec<Value> = figures.rows.iter().map(|row| row_as_json(row, peers)).collect();
    let whole = json!({
        "machine": machine(),
        "quick": options.quick,
        "runs": options.runs(),
        "rows": rows,
        "not measured": figures.gaps,
    });
    format!("{whole:#}\n")
}

fn row_as_json(row: &Row, peers: &[&str]) -> Value {
    let peers: serde_json::Map<String, Value> = peers
        .iter()
        .filter(|peer| row.median(peer).is_some())
        .map(|peer| {
            let goals: Vec<Value> = judge(row, peer)
                .iter()
                .map(|verdict| {
                    json!({
                        "goal": describe(verdict.goal, row.unit),
                        "value": verdict.value,
                        "reached": verdict.reached,
                    })
                })
                .collect();
            let about = json!({
                "median": row.median(peer),
                "values": row.values(peer),
                "cost relative to overlay": row.ratio(peer, goal::OVERLAY),
                "goals": goals,
            });
            ((*peer).to_owned(), about)
        })
        .collect();
    json!({ "row": row.name, "unit": row.unit.symbol(), "peers": peers })
}

fn machine() -> Value {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "load": read("/proc/loadavg"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;

    fn figures() -> Figures {
        let mut figures = Figures::default();
        figures.record("ops: create, 1 thread", Unit::Micros, "overlay", 40.0);
        figures.record("ops: create, 1 thread", Unit::Micros, "overcoat", 50.0);
        figures
    }

    #[test]
    fn a_goal_missed_is_told_with_its_value() {
        let text = table(&figures(), &["overlay", "overcoat"]);
        assert!(text.contains("50.0 ( 1.25)"), "{text}");
        assert!(text.contains("overcoat: 0 of 1 goals reached"), "{text}");
        assert!(text.contains("ops: create, 1 thread: 1.25 (goal ≤ 0.70 × overlay)"), "{text}");
    }
}
