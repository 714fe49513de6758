//! What a command changed, as text.

use std::fmt::Write as _;

use overcoat::{Change, ChangeKind, FileType, Usage};

use super::binds;
use crate::text::bytes;

/// Paths shown of each kind of change before they are only counted.
const SHOWN: usize = 20;

/// Gathers changes; holds no more paths than it will show.
#[derive(Default)]
pub struct Report {
    added: Kind,
    modified: Kind,
    deleted: Kind,
}

#[derive(Default)]
struct Kind {
    count: u64,
    paths: Vec<String>,
}

impl Kind {
    fn take(&mut self, path: &[u8], is_dir: bool) {
        self.count += 1;
        if self.paths.len() < SHOWN {
            let text = String::from_utf8_lossy(path);
            let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            self.paths.push(format!("/{text}{}", if is_dir { "/" } else { "" }));
        }
    }

    fn lines(&self, sign: char, text: &mut String) -> std::fmt::Result {
        for path in &self.paths {
            writeln!(text, "  {sign} {path}")?;
        }
        let rest = self.count - self.paths.len() as u64;
        if rest > 0 {
            writeln!(text, "  {sign} ... and {rest} more")?;
        }
        Ok(())
    }
}

impl Report {
    /// Takes note of a change.
    pub fn take(&mut self, change: &Change<'_>) {
        let path = change.path.strip_prefix(b"/").unwrap_or(change.path);
        if path.is_empty() {
            return;
        }
        let is_dir = change.file_type == Some(FileType::Directory);
        match change.kind {
            ChangeKind::Added if binds::is_place_of_bind(path) => {}
            ChangeKind::Added => self.added.take(path, is_dir),
            ChangeKind::Modified => self.modified.take(path, is_dir),
            ChangeKind::Deleted => self.deleted.take(path, is_dir),
        }
    }

    /// The list, and below it the totals.
    pub fn text(&self, usage: &Usage, kept: Option<&std::path::Path>) -> String {
        let mut text = String::new();
        let written = self.write(&mut text, usage, kept);
        debug_assert!(written.is_ok(), "writing to a string");
        text
    }

    fn write(
        &self,
        text: &mut String,
        usage: &Usage,
        kept: Option<&std::path::Path>,
    ) -> std::fmt::Result {
        self.added.lines('+', text)?;
        self.modified.lines('~', text)?;
        self.deleted.lines('-', text)?;
        let (added, modified, deleted) =
            (self.added.count, self.modified.count, self.deleted.count);
        write!(text, "overcoat: {added} added, {modified} modified, {deleted} deleted; ")?;
        write!(text, "{} on disk; ", bytes(usage.host_bytes))?;
        match kept {
            Some(dir) => writeln!(text, "kept in {}", dir.display()),
            None => writeln!(text, "forgotten"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ChangeKind, path: &[u8], file_type: FileType) -> Change<'_> {
        let file_type = (kind != ChangeKind::Deleted).then_some(file_type);
        Change { kind, path, file_type }
    }

    #[test]
    fn long_lists_are_cut_and_counted() {
        let mut report = Report::default();
        report.take(&change(ChangeKind::Added, b"dev", FileType::Directory));
        report.take(&change(ChangeKind::Modified, b"", FileType::Directory));
        report.take(&change(ChangeKind::Deleted, b"usr/share", FileType::Directory));
        for nth in 0..25 {
            let path = format!("a\n{nth}");
            report.take(&change(ChangeKind::Added, path.as_bytes(), FileType::Regular));
        }
        let usage = Usage { host_bytes: 8 << 20, ..Usage::default() };
        let text = report.text(&usage, None);
        assert!(text.contains("  + /a?0\n") && text.contains("  + ... and 5 more\n"), "{text}");
        assert!(text.contains("  - /usr/share\n"), "{text}");
        let last = "overcoat: 25 added, 0 modified, 1 deleted; 8.0 MiB on disk; forgotten\n";
        assert!(text.ends_with(last), "{text}");
        assert_eq!(text.lines().count(), 20 + 1 + 1 + 1);
    }
}
