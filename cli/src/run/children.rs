//! The processes of a command: waited for, and ended when the command has.

use std::fs::File;
use std::os::unix::fs::FileExt;

use overcoat::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use crate::failure::Failure;
use crate::preflight::errno_text;

/// The children of this process, among them all descendants whose own parents ended.
pub struct Children {
    /// Their numbers; `None` where the kernel does not list them.
    list: Option<File>,
}

impl Children {
    /// Makes this process the one that orphans below it are given to.
    pub fn adopt() -> Result<Self, Failure> {
        // The argument is of no meaning but "on".
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| Failure::run_time(format!("subreaper: {}", errno_text(error))))?;
        let pid = std::process::id();
        Ok(Self { list: File::open(format!("/proc/self/task/{pid}/children")).ok() })
    }

    /// Takes leave of every child that has ended; gives the status of `wanted` if it is among them.
    pub fn reap(&self, wanted: Pid) -> Option<WaitStatus> {
        while let Ok(Some((pid, status))) = rustix::process::waitpid(None, WaitOptions::NOHANG) {
            if pid == wanted {
                return Some(status);
            }
        }
        None
    }

    /// Kills all that are left, their descendants included, and waits until they are gone.
    pub fn end(&self) {
        loop {
            let found = self.numbers();
            for pid in &found {
                signal(*pid, Signal::KILL);
            }
            // Where they cannot be listed, those that live on cannot be waited for.
            let flags = if found.is_empty() { WaitOptions::NOHANG } else { WaitOptions::empty() };
            match rustix::process::waitpid(None, flags) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn numbers(&self) -> Vec<Pid> {
        let Some(list) = &self.list else { return Vec::new() };
        let mut text = vec![0; 1 << 16];
        let read = list.read_at(&mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..read]).into_owned();
        text.split_ascii_whitespace()
            .filter_map(|number| number.parse().ok().and_then(Pid::from_raw))
            .collect()
    }
}

/// Sends a signal to a process which may be gone already.
pub fn signal(pid: Pid, signal: Signal) {
    match rustix::process::kill_process(pid, signal) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => tracing::warn!("signal to {}: {}", pid.as_raw_nonzero(), errno_text(error)),
    }
}

/// The exit code that a shell would show.
pub fn exit_code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    u8::try_from(code & 0xff).unwrap_or(1)
}
