//! A bar chart of what each row costs relative to overlayfs on the host's file system, on a logarithmic axis.

use crate::figure::{Figures, Row};
use crate::goal;
use crate::report::put;

/// What is drawn, where measured, and in which colour.
const DRAWN: &[(&str, &str)] = &[
    ("overcoat-uring", "#1b7f5c"),
    ("overcoat", "#4fb58f"),
    (goal::OVERLAY_TMPFS, "#8aa4c8"),
    (goal::FUSE_OVERLAYFS, "#d08a4e"),
    (goal::RUNSC, "#a98bc0"),
];
/// The axis, in powers of ten either side of one.
const DECADES: f64 = 2.0;
const LEFT: f64 = 270.0;
const PLOT: f64 = 560.0;
const BAR: f64 = 7.0;
const TOP: f64 = 64.0;

pub fn svg(figures: &Figures, peers: &[&str]) -> String {
    let drawn: Vec<_> = DRAWN.iter().filter(|(peer, _)| peers.contains(peer)).collect();
    let shown = |row: &&Row| drawn.iter().any(|(peer, _)| row.ratio(peer, goal::OVERLAY).is_some());
    let rows: Vec<_> = figures.rows.iter().filter(shown).collect();
    let step = drawn.len() as f64 * BAR + 8.0;
    let bottom = TOP + rows.len() as f64 * step;
    let mut out = String::new();
    put(
        &mut out,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"18\" font-size=\"14\">Cost relative to overlayfs on the same host file \
             system (left of 1: cheaper)</text>\n",
            LEFT + PLOT + 50.0,
            bottom + 12.0
        ),
    );
    legend(&mut out, &drawn);
    grid(&mut out, bottom);
    for (number, row) in rows.iter().enumerate() {
        let top = TOP + number as f64 * step + 4.0;
        put(
            &mut out,
            format_args!(
                "<text x=\"{}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\n",
                LEFT - 8.0,
                top + step / 2.0,
                escape(&row.name)
            ),
        );
        for (line, (peer, colour)) in drawn.iter().enumerate() {
            if let Some(ratio) = row.ratio(peer, goal::OVERLAY) {
                bar(&mut out, top + line as f64 * BAR, ratio, colour);
            }
        }
    }
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String, drawn: &[&(&str, &str)]) {
    for (number, (peer, colour)) in drawn.iter().enumerate() {
        let x = 10.0 + number as f64 * 130.0;
        put(
            out,
            format_args!(
                "<rect x=\"{x}\" y=\"28\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
                 <text x=\"{}\" y=\"37\">{peer}</text>\n",
                x + 15.0
            ),
        );
    }
}

fn grid(out: &mut String, bottom: f64) {
    for (ratio, label) in [
        (0.01, "1/100"),
        (0.1, "1/10"),
        (0.2, "1/5"),
        (0.5, "1/2"),
        (1.0, "1"),
        (2.0, "2"),
        (5.0, "5"),
        (10.0, "10"),
        (100.0, "100"),
    ] {
        let x = place(ratio);
        let colour = if ratio == 1.0 { "#333" } else { "#ddd" };
        put(
            out,
            format_args!(
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" stroke=\"{colour}\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{label}</text>\n",
                TOP - 6.0
            ),
        );
    }
}

/// From one to the ratio, with its value at the end.
fn bar(out: &mut String, top: f64, ratio: f64, colour: &str) {
    let (one, end) = (place(1.0), place(ratio));
    let (x, width) = (one.min(end), (one - end).abs().max(1.0));
    let (label, anchor) = if ratio < 1.0 { (x - 3.0, "end") } else { (x + width + 3.0, "start") };
    put(
        out,
        format_args!(
            "<rect x=\"{x:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\
             <text x=\"{label:.1}\" y=\"{:.1}\" font-size=\"7\" text-anchor=\"{anchor}\">{ratio:.2}</text>\n",
            BAR - 1.0,
            top + BAR - 1.0
        ),
    );
}

/// Where a ratio lies; what is off the axis lies at its end.
fn place(ratio: f64) -> f64 {
    let decades = ratio.log10().clamp(-DECADES, DECADES);
    LEFT + PLOT * (decades + DECADES) / (2.0 * DECADES)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;

    #[test]
    fn the_axis_is_logarithmic_and_bounded() {
        let half = place(1.0) - place(0.5);
        assert!((place(2.0) - place(1.0) - half).abs() < 1e-9);
        assert_eq!(place(1e6), LEFT + PLOT);
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let mut figures = Figures::default();
        figures.record("a & b", Unit::Micros, "overcoat", 1.0);
        figures.record("a & b", Unit::Micros, "overlay", 2.0);
        figures.record("c", Unit::Micros, "overlay", 2.0);
        let drawing = svg(&figures, &["overlay", "overcoat"]);
        assert!(drawing.contains("a &amp; b") && drawing.contains(">0.50<"), "{drawing}");
        assert!(!drawing.contains(">c<") && !drawing.contains("overcoat-uring"), "{drawing}");
    }
}
