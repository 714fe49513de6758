//! Looking inside from without: what a filestore takes, and whether it is whole.

use std::fmt::Write as _;
use std::path::Path;

use overcoat::{Report, Upper, UpperUsage};
use tracing::Level;

use crate::failure::Failure;
use crate::log::{self, Sink};
use crate::text::bytes;

/// `overcoat usage`: what is used, as text. Of a mounted filestore only what the host accounts for.
pub fn usage(place: &Path) -> Result<String, Failure> {
    let upper = open(place)?;
    Ok(match upper.usage().map_err(Failure::run_time)? {
        UpperUsage::Mounted { host_bytes } => {
            table(&[("on disk", size(host_bytes)), ("mounted", "yes".to_owned())])
        }
        UpperUsage::Unmounted(usage) => table(&[
            ("on disk", size(usage.host_bytes)),
            ("data", size(usage.data_bytes)),
            ("journal", size(usage.metadata_bytes)),
            ("inodes", usage.inodes.to_string()),
        ]),
    })
}

/// `overcoat check`: what was found, as text, and whether the filestore is whole.
pub fn check(place: &Path) -> Result<(String, bool), Failure> {
    let upper = open(place)?;
    let report = upper.check().map_err(Failure::run_time)?;
    Ok((findings(&report), report.faults.is_empty()))
}

fn open(place: &Path) -> Result<Upper, Failure> {
    // Whom it waits for.
    log::start(Sink::Notices, Level::WARN);
    Upper::open(place).map_err(Failure::run_time)
}

fn findings(report: &Report) -> String {
    let recovery = &report.recovery;
    let mut text = String::new();
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    for fault in &report.faults {
        say(format!("fault: {}", fault.chars().filter(|c| !c.is_control()).collect::<String>()));
    }
    if !recovery.was_clean {
        say("note: the last mount did not end in order".to_owned());
    }
    if recovery.cut_bytes > 0 {
        say(format!("note: {} of unsynced history are left out", bytes(recovery.cut_bytes)));
    }
    if report.orphans > 0 {
        say(format!(
            "note: {} unlinked files were open; the next mount drops them",
            report.orphans
        ));
    }
    for path in &report.nameless {
        let path = path.to_string_lossy();
        let path: String = path.chars().filter(|c| !c.is_control()).collect();
        say(format!(
            "note: a hard link without a name: {path}; the next mount finds another one or drops it"
        ));
    }
    if report.leaked_bytes > 0 {
        say(format!("note: {} are to be given back by the next mount", bytes(report.leaked_bytes)));
    }
    let verdict = if report.faults.is_empty() { "whole" } else { "damaged" };
    say(format!(
        "{verdict}: {} inodes, {} of data, {} of journal, {} on disk",
        report.inodes,
        bytes(report.data_bytes),
        bytes(report.journal_bytes),
        bytes(report.host_bytes)
    ));
    text
}

fn size(count: u64) -> String {
    format!("{} ({count} bytes)", bytes(count))
}

fn table(lines: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in lines {
        let written = writeln!(text, "{name:<8} {value}");
        debug_assert!(written.is_ok(), "writing to a string");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_first_and_the_verdict_last() {
        let mut report = Report { inodes: 3, data_bytes: 8192, ..Report::default() };
        report.recovery.was_clean = true;
        assert_eq!(
            findings(&report),
            "whole: 3 inodes, 8.0 KiB of data, 0 B of journal, 0 B on disk\n"
        );
        report.faults.push("tree: odd\nline".to_owned());
        report.recovery.was_clean = false;
        let text = findings(&report);
        assert!(text.starts_with("fault: tree: oddline\nnote: the last mount"), "{text}");
        assert!(text.lines().last().is_some_and(|line| line.starts_with("damaged: ")), "{text}");
    }
}
