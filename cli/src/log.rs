//! Where log lines go: the system log, a file, or stderr.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The socket of the system log, as syslog(3) uses it.
const SYSTEM_LOG: &str = "/dev/log";

/// The facility of the lines: daemon.
const FACILITY: u8 = 3 << 3;

/// A place for log lines.
#[derive(Debug)]
pub enum Sink {
    Stderr,
    /// Without a socket lines are dropped: there is no system log.
    System(Option<UnixDatagram>),
    File(File),
}

impl Sink {
    /// `path` if one is given, else the system log.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        match path {
            Some(path) => File::options().append(true).create(true).open(path).map(Self::File),
            None => Ok(Self::System(connect())),
        }
    }

    fn write(&self, level: Level, text: &str) -> io::Result<()> {
        let pid = std::process::id();
        match self {
            Self::Stderr => writeln!(io::stderr(), "overcoat: {text}"),
            Self::System(None) => Ok(()),
            Self::System(Some(socket)) => {
                let line = format!("<{}>overcoat[{pid}]: {text}", FACILITY | severity(level));
                socket.send(line.as_bytes()).map(drop)
            }
            // One write, so that the lines of several daemons do not mix.
            Self::File(file) => {
                let mut file = file;
                file.write_all(
                    format!("{} overcoat[{pid}] {level}: {text}\n", seconds()).as_bytes(),
                )
            }
        }
    }
}

fn connect() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect(PathBuf::from(SYSTEM_LOG)).ok()?;
    // A log that is not read must not hold up a file system.
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Seconds since 1970.
fn seconds() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Sends events of `least` and above to `sink` from now on.
pub fn start(sink: Sink, least: Level) {
    if tracing::subscriber::set_global_default(Logger { sink, least }).is_err() {
        debug_assert!(false, "the log was started twice");
    }
}

/// Writes each event as one line; spans are not kept.
struct Logger {
    sink: Sink,
    least: Level,
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.least
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        // A line that cannot be written has nowhere to be complained about.
        self.sink.write(*event.metadata().level(), &line.finish()).ok();
    }
}

/// An event as text: the message, then the other fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn finish(self) -> String {
        let text = self.message + &self.fields;
        text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
        debug_assert!(written.is_ok(), "writing to a string");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_whole_lines_with_their_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let logger = Logger { sink: Sink::open(Some(&path)).unwrap(), least: Level::INFO };
        tracing::subscriber::with_default(logger, || {
            tracing::warn!(errno = 28, "a line\nonly");
            tracing::debug!("not this one");
        });
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.ends_with(" WARN: a line?only errno=28\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
