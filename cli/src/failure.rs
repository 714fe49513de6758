//! How a command ends badly: one line and an exit code.

use std::fmt::Display;

/// A reason to stop, shown as one line on stderr.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    code: u8,
    line: String,
}

impl Failure {
    /// Something went wrong at run time: exit code 1.
    pub fn run_time(reason: impl Display) -> Self {
        Self { code: 1, line: one_line(&reason.to_string()) }
    }

    /// The command line cannot be what was meant: exit code 2.
    pub fn usage(reason: impl Display) -> Self {
        Self { code: 2, line: one_line(&reason.to_string()) }
    }

    pub fn code(&self) -> u8 {
        self.code
    }

    pub fn line(&self) -> &str {
        &self.line
    }
}

impl From<crate::options::OptionError> for Failure {
    fn from(error: crate::options::OptionError) -> Self {
        Self::usage(error)
    }
}

/// Control characters, which a file name may hold, would break the line or drive the terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_break_the_line() {
        assert_eq!(Failure::run_time("no 'a\nb\x1b'").line(), "no 'a?b?'");
    }
}
