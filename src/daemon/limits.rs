//! What a process inherits from the shell that starts it, and must not be ended or crippled by when it serves a mount: the limits
//! were meant for the shell's own commands, while a mount serves everybody, for as long as it is there.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::NOTICE;
use crate::errno::Errno;
use crate::sys::process::{Disposition, set_disposition};

/// Least address space and data segment, in bytes, that a mount is begun with: buffers and stacks of threads, and an upper
/// of some 100,000 inodes.
const MEMORY_MINIMUM: u64 = 1 << 30;

/// Descriptors that a process with CAP_SYS_RESOURCE gets at least, if the system lets it have as many.
const DESCRIPTORS_WANTED: u64 = 1 << 20;

/// The main thread's stack, in bytes. Other threads have stacks of their own.
const STACK_WANTED: u64 = 8 << 20;

/// A limit that cannot be raised, and under which a mount would be ended or could not work. Displays as one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitError {
    limit: &'static Limit,
    /// In the limit's own unit.
    hard: u64,
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limit { name, option, unit, effect, .. } = self.limit;
        write!(f, "the hard limit of {name} (ulimit -H {option}) is {} {unit}: {effect}", self.hard)
    }
}

impl std::error::Error for LimitError {}

/// What to do about a limit that cannot be lifted.
#[derive(Debug, PartialEq, Eq)]
enum Finite {
    /// No mount is begun under a limit below this.
    Refuse(u64),
    /// The mount works, within the limit.
    Tell,
    Accept,
}

#[derive(Debug, PartialEq, Eq)]
struct Limit {
    resource: Resource,
    name: &'static str,
    /// The option of ulimit(1).
    option: &'static str,
    unit: &'static str,
    /// What the limit does to a mount.
    effect: &'static str,
    finite: Finite,
    /// What is asked for; `None`: no limit.
    wanted: Option<u64>,
}

/// See getrlimit(2). Not among them: RLIMIT_NICE, RLIMIT_RTPRIO and RLIMIT_RTTIME, which grant or bound what is asked for
/// explicitly; RLIMIT_CORE, which is about the death of a process; RLIMIT_MSGQUEUE and RLIMIT_LOCKS, which are not used.
const LIMITS: &[Limit] = &[
    Limit {
        resource: Resource::Fsize,
        name: "file size",
        option: "-f",
        unit: "bytes",
        effect: "changes have no more room than that",
        finite: Finite::Tell,
        wanted: None,
    },
    Limit {
        resource: Resource::Cpu,
        name: "CPU time",
        option: "-t",
        unit: "seconds",
        effect: "the mount would be killed then",
        finite: Finite::Refuse(u64::MAX),
        wanted: None,
    },
    Limit {
        resource: Resource::As,
        name: "address space",
        option: "-v",
        unit: "bytes",
        effect: "the mount would be killed when it needs more",
        finite: Finite::Refuse(MEMORY_MINIMUM),
        wanted: None,
    },
    Limit {
        resource: Resource::Data,
        name: "data segment",
        option: "-d",
        unit: "bytes",
        effect: "the mount would be killed when it needs more",
        finite: Finite::Refuse(MEMORY_MINIMUM),
        wanted: None,
    },
    Limit {
        resource: Resource::Nofile,
        name: "open files",
        option: "-n",
        unit: "descriptors",
        effect: "layers are read with fewer descriptors",
        finite: Finite::Accept,
        wanted: Some(DESCRIPTORS_WANTED),
    },
    Limit {
        resource: Resource::Stack,
        name: "stack",
        option: "-s",
        unit: "bytes",
        effect: "the main thread has no more",
        finite: Finite::Accept,
        wanted: Some(STACK_WANTED),
    },
    Limit {
        resource: Resource::Memlock,
        name: "locked memory",
        option: "-l",
        unit: "bytes",
        effect: "io_uring may not be had",
        finite: Finite::Accept,
        wanted: None,
    },
    Limit {
        resource: Resource::Nproc,
        name: "processes",
        option: "-u",
        unit: "threads",
        effect: "threads may not be had",
        finite: Finite::Accept,
        wanted: None,
    },
    Limit {
        resource: Resource::Sigpending,
        name: "pending signals",
        option: "-i",
        unit: "signals",
        effect: "signals may be lost",
        finite: Finite::Accept,
        wanted: None,
    },
];

/// Makes a process that is to serve a mount independent of who starts it. To be called before threads are started, and in no process that
/// becomes another program: that one is to have what its user gave it.
///
/// * Resource limits are raised: for a process with CAP_SYS_RESOURCE to what a mount needs, otherwise as far as the hard limits
///   go. (Nice value, I/O priority, CPU affinity and control group stay: who sets these means all that is started there.)
/// * `SIGXFSZ`, `SIGXCPU` and `SIGPIPE` are ignored: what they tell of is also an error of a system call. `SIGCHLD` has its default
///   effect, as mount helpers are waited for.
/// * What is created is for its owner alone (umask(2)), unless said otherwise.
/// * Memory is allocated from one arena a CPU: glibc's eight would each keep what threads that have ended gave back.
/// * A score that makes the process a preferred victim of the out-of-memory killer is reset, where that is allowed.
///
/// # Errors
/// A hard limit that cannot be raised and under which the mount would be killed.
pub fn shed_inherited_limits() -> Result<(), LimitError> {
    for limit in LIMITS {
        limit.lift()?;
    }
    for signal in [libc::SIGXFSZ, libc::SIGXCPU, libc::SIGPIPE] {
        dispose(signal, Disposition::Ignore);
    }
    dispose(libc::SIGCHLD, Disposition::Default);
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    reset_oom_score();
    limit_malloc_arenas();
    Ok(())
}

/// One arena for each CPU.
fn limit_malloc_arenas() {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    crate::sys::process::limit_malloc_arenas(cpus);
}

fn dispose(signal: i32, disposition: Disposition) {
    if let Err(errno) = set_disposition(signal, disposition) {
        tracing::warn!(%errno, signal, "the disposition of a signal stays as it is");
    }
}

impl Limit {
    fn lift(&'static self) -> Result<(), LimitError> {
        let now = getrlimit(self.resource);
        if self.suffices(now.current) {
            return Ok(());
        }
        let hard = if self.suffices(now.maximum) { now.maximum } else { self.wanted };
        let lifted = self.set(Rlimit { current: hard, maximum: hard });
        if lifted.or_else(|_| self.set(Rlimit { current: now.maximum, ..now })).is_err() {
            tracing::debug!("the limit of {} stays as it is", self.name);
        }
        match getrlimit(self.resource).current {
            Some(left) if !self.suffices(Some(left)) => self.accept(left),
            _ => Ok(()),
        }
    }

    fn suffices(&self, limit: Option<u64>) -> bool {
        match (limit, self.wanted) {
            (None, _) => true,
            (Some(limit), Some(wanted)) => limit >= wanted,
            (Some(_), None) => false,
        }
    }

    fn set(&self, limit: Rlimit) -> Result<(), Errno> {
        setrlimit(self.resource, limit)
    }

    /// What comes of a limit that stays.
    fn accept(&'static self, left: u64) -> Result<(), LimitError> {
        let error = LimitError { limit: self, hard: left };
        match self.finite {
            Finite::Refuse(below) if left < below => return Err(error),
            Finite::Refuse(_) | Finite::Tell => tracing::warn!(target: NOTICE, "{error}"),
            Finite::Accept => tracing::debug!("{error}"),
        }
        Ok(())
    }
}

/// A container or a session may have given its processes a score that is not meant for file systems (proc_pid_oom_score_adj(5)).
fn reset_oom_score() {
    const FILE: &str = "/proc/self/oom_score_adj";
    let score = std::fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if score.is_some_and(|score| score > 0) {
        if let Err(error) = std::fs::write(FILE, "0") {
            tracing::debug!("{FILE} stays as it is: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_lifted_is_refused_told_or_accepted() {
        let limit = |resource| LIMITS.iter().find(|limit| limit.resource == resource).unwrap();
        let cpu = limit(Resource::Cpu).accept(60).unwrap_err().to_string();
        let want = "the hard limit of CPU time (ulimit -H -t) is 60 seconds: the mount would be killed then";
        assert_eq!(cpu, want);
        assert!(limit(Resource::As).accept(MEMORY_MINIMUM - 1).is_err());
        assert!(limit(Resource::As).accept(MEMORY_MINIMUM).is_ok());
        assert!(limit(Resource::Fsize).accept(1).is_ok());
        assert!(limit(Resource::Nofile).suffices(None));
        assert!(limit(Resource::Nofile).suffices(Some(DESCRIPTORS_WANTED)));
        assert!(!limit(Resource::Nofile).suffices(Some(1024)));
        assert!(!limit(Resource::Fsize).suffices(Some(u64::MAX - 1)));
    }
}
