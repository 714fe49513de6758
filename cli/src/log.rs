//! Where log lines go: the system log, a file, or stderr.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// The socket of the system log, as syslog(3) uses it.
const SYSTEM_LOG: &str = "/dev/log";

/// The facility of the lines: daemon.
const FACILITY: u8 = 3 << 3;

/// A place for log lines.
#[derive(Debug)]
pub enum Sink {
    Stderr,
    /// Stderr, for lines that concern the caller alone ([`overcoat::NOTICE`]).
    Notices,
    System(SystemLog),
    File(File),
}

impl Sink {
    /// `path` if one is given, else the system log.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        match path {
            Some(path) => File::options().append(true).create(true).open(path).map(Self::File),
            None => Ok(Self::System(SystemLog::at(SYSTEM_LOG))),
        }
    }

    fn write(&self, level: Level, text: &str) -> io::Result<()> {
        let pid = std::process::id();
        match self {
            Self::Stderr => writeln!(io::stderr(), "overcoat: {text}"),
            // Its notices have been written.
            Self::Notices => Ok(()),
            Self::System(log) => {
                let line = format!("<{}>overcoat[{pid}]: {text}", FACILITY | severity(level));
                log.send(line.as_bytes())
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

/// The system log's socket.
///
/// The system log binds a new socket when it is restarted, and may be started after this process: so the socket is
/// connected anew when a line cannot be sent. A line is dropped where nobody listens, or where the receiver is so far behind that
/// its queue is full: a log that is not read must not hold up a file system.
#[derive(Debug)]
pub struct SystemLog {
    path: PathBuf,
    /// `None` until somebody listens.
    socket: Mutex<Option<UnixDatagram>>,
}

impl SystemLog {
    /// The system log that listens at `path`, now or later.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let socket = Mutex::new(connect(&path).ok());
        Self { path, socket }
    }

    fn send(&self, line: &[u8]) -> io::Result<()> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = socket.as_ref().map(|socket| socket.send(line));
        match sent {
            Some(Ok(_)) => return Ok(()),
            Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => return Err(error),
            Some(Err(_)) | None => {}
        }
        *socket = None;
        let fresh = connect(&self.path)?;
        fresh.send(line)?;
        *socket = Some(fresh);
        Ok(())
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
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
    if tracing::subscriber::set_global_default(subscriber(sink, least)).is_err() {
        debug_assert!(false, "the log was started twice");
    }
}

fn subscriber(sink: Sink, least: Level) -> impl Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(least))
        .log_internal_errors(false)
        .event_format(Plain)
        .with_writer(sink)
        .finish()
}

/// An event as its message and then its other fields.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        context.format_fields(writer, event)
    }
}

/// Writes what it is given at once as one line of this level.
pub struct Line<'a> {
    sink: &'a Sink,
    level: Level,
    /// For stderr too, which is /dev/null once a mount in the background answers.
    is_notice: bool,
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { sink: self, level: Level::INFO, is_notice: false }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        let is_notice = metadata.target() == overcoat::NOTICE;
        Line { sink: self, level: *metadata.level(), is_notice }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let line: String = String::from_utf8_lossy(text)
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        if self.is_notice && !matches!(self.sink, Sink::Stderr) {
            Sink::Stderr.write(self.level, &line)?;
        }
        self.sink.write(self.level, &line).map(|()| text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_whole_lines_with_their_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let sink = Sink::open(Some(&path)).unwrap();
        tracing::subscriber::with_default(subscriber(sink, Level::INFO), || {
            tracing::warn!(errno = 28, "a line\nonly");
            tracing::debug!("not this one");
        });
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.ends_with(" WARN: a line?only errno=28\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn the_system_log_may_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let receive = |socket: &UnixDatagram| {
            let mut line = [0; 100];
            let len = socket.recv(&mut line).unwrap();
            String::from_utf8_lossy(&line[..len]).into_owned()
        };
        let sink = Sink::System(SystemLog::at(&path));
        tracing::subscriber::with_default(subscriber(sink, Level::INFO), || {
            tracing::info!("nobody listens yet");
            let first = UnixDatagram::bind(&path).unwrap();
            tracing::warn!("started");
            let pid = std::process::id();
            assert_eq!(receive(&first), format!("<28>overcoat[{pid}]: started"));
            drop(first);
            std::fs::remove_file(&path).unwrap();
            tracing::info!("nobody listens");
            let second = UnixDatagram::bind(&path).unwrap();
            tracing::error!("restarted");
            assert_eq!(receive(&second), format!("<27>overcoat[{pid}]: restarted"));
        });
    }

    #[test]
    fn a_system_log_that_does_not_read_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let _unread = UnixDatagram::bind(&path).unwrap();
        let log = SystemLog::at(&path);
        let full = (0..100_000).find_map(|_| log.send(b"line").err());
        assert_eq!(full.map(|error| error.kind()), Some(ErrorKind::WouldBlock));
    }
}
