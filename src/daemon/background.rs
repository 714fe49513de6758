//! Going into the background, with an answer for whoever waits in the foreground.
//!
//! The process forks before it opens anything. The child becomes the daemon, and tells its parent by a
//! pipe when the mount answers, or in one line why it does not. Until then its stderr is the caller's;
//! afterwards it holds no descriptor of the caller's any more, as engines wait for the end of their pipe.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::RawFd;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions, WaitStatus};

use crate::errno::{Errno, Result};
use crate::sys::process::{self, Fork};

/// What the daemon says when the mount answers.
const READY: &[u8] = b"\0";

/// Where one of the two processes goes on.
pub enum Side {
    Foreground(Waiting),
    Daemon(Reporter),
}

/// The process that the caller started.
pub struct Waiting {
    daemon: Pid,
    answer: File,
}

/// The daemon's line to the process that the caller started.
pub struct Reporter {
    answer: File,
}

/// The system call that kept the process from forking into the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitError {
    pub call: &'static str,
    pub errno: Errno,
}

/// Forks. The child leads a session of its own.
///
/// # Errors
/// Of pipe(2), fork(2) and setsid(2); `EINVAL` in a process of several threads.
pub fn split() -> std::result::Result<Side, SplitError> {
    let failed = |call| move |errno| SplitError { call, errno };
    let (from_daemon, to_caller) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed("pipe"))?;
    match process::fork().map_err(failed("fork"))? {
        Fork::Parent(daemon) => {
            Ok(Side::Foreground(Waiting { daemon, answer: File::from(from_daemon) }))
        }
        Fork::Child => {
            rustix::process::setsid().map_err(failed("setsid"))?;
            Ok(Side::Daemon(Reporter { answer: File::from(to_caller) }))
        }
    }
}

impl Waiting {
    /// Waits for the daemon's answer.
    ///
    /// # Errors
    /// The line that the daemon sent, or how it ended without one.
    pub fn outcome(mut self) -> std::result::Result<(), String> {
        let mut answer = Vec::new();
        if let Err(error) = self.answer.read_to_end(&mut answer) {
            return Err(format!("no answer from the daemon: {error}"));
        }
        match answer.as_slice() {
            READY => Ok(()),
            [] => Err(self.how_it_ended()),
            line => Err(String::from_utf8_lossy(line).into_owned()),
        }
    }

    fn how_it_ended(&self) -> String {
        match rustix::process::waitpid(Some(self.daemon), WaitOptions::empty()) {
            Ok(Some((_, status))) => ended(status),
            _ => "the daemon ended before the mount answered".to_owned(),
        }
    }
}

fn ended(status: WaitStatus) -> String {
    let how = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("with code {code}"),
        (_, Some(signal)) => format!("by signal {signal}"),
        _ => "somehow".to_owned(),
    };
    format!("the daemon ended {how} before the mount answered")
}

impl Reporter {
    /// Lets go of everything that came from the caller and tells it that the mount answers.
    /// `inherited` are the descriptors which the process was started with
    /// ([`crate::daemon::inherited_descriptors`]).
    ///
    /// # Errors
    /// Of chdir(2), open(2) of /dev/null, and dup2(2). The caller has not been told then.
    pub fn ready(mut self, inherited: Vec<RawFd>) -> Result<()> {
        rustix::process::chdir("/")?;
        process::close_inherited(inherited);
        close_stdio()?;
        if let Err(error) = self.answer.write_all(READY) {
            tracing::warn!("nobody waits for the mount any more: {error}");
        }
        Ok(())
    }

    /// Tells the caller why there will be no mount.
    pub fn failed(mut self, line: &str) {
        if let Err(error) = self.answer.write_all(line.as_bytes()) {
            tracing::error!("{line}; and nobody waits for it: {error}");
        }
    }
}

/// Puts /dev/null in the place of stdin, stdout and stderr.
fn close_stdio() -> Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)
}
