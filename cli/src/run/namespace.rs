//! Namespaces of our own: mounts which nobody else sees, and for an ordinary user the right to make them.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use overcoat::Errno;
use overcoat::daemon::{self, Fork};
use rustix::mount::MountPropagationFlags;
use rustix::process::{Pid, WaitOptions};
use rustix::thread::UnshareFlags;

use crate::failure::Failure;
use crate::preflight::errno_text;

/// The user's first id in the namespace is root; this is where the subordinate ones go on.
const FIRST_SUBORDINATE: u32 = 1;

/// What the helper answers by its exit code: a bit for each map that it could not write.
const NO_UID_MAP: u8 = 1;
const NO_GID_MAP: u8 = 2;

/// Enters a mount namespace from which nothing spreads. True: in a user namespace of our own, as this
/// user may not do it otherwise.
pub fn enter() -> Result<bool, Failure> {
    let own_users = match daemon::unshare(UnshareFlags::NEWNS) {
        Ok(()) => false,
        Err(Errno::PERM) => {
            enter_user_namespace()?;
            true
        }
        Err(error) => return Err(no_namespace("mount", error)),
    };
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| no_namespace("private mount", error))?;
    Ok(own_users)
}

/// A mount namespace like this one, for a process that changes its root.
pub fn split_mounts() -> Result<(), Failure> {
    daemon::unshare(UnshareFlags::NEWNS).map_err(|error| no_namespace("mount", error))
}

fn no_namespace(kind: &str, error: Errno) -> Failure {
    Failure::run_time(format!("no {kind} namespace: {}", errno_text(error)))
}

/// Root in a new user namespace, with as many further ids as /etc/subuid and /etc/subgid grant and
/// newuidmap(1) can map; else alone.
fn enter_user_namespace() -> Result<(), Failure> {
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    let mapper = Mapper::start(user, group)?;
    daemon::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).map_err(|error| {
        Failure::run_time(format!(
            "no user namespace: {} (this machine keeps them from ordinary users; try as root)",
            errno_text(error)
        ))
    })?;
    let missing = mapper.finish();
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| Failure::run_time(format!("/proc/self/{file}: {error}")))
    };
    if missing & NO_UID_MAP != 0 {
        write("uid_map", format!("0 {user} 1"))?;
    }
    if missing & NO_GID_MAP != 0 {
        write("setgroups", "deny".to_owned())?;
        write("gid_map", format!("0 {group} 1"))?;
    }
    Ok(())
}

/// A process that stays outside of the new user namespace, to run the setuid helpers which map
/// subordinate ids into it.
struct Mapper {
    pid: Pid,
    go: OwnedFd,
}

impl Mapper {
    fn start(user: u32, group: u32) -> Result<Self, Failure> {
        let target = std::process::id();
        let failed = |error| Failure::run_time(format!("no helper: {}", errno_text(error)));
        let (wait, go) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
        match daemon::fork().map_err(failed)? {
            Fork::Parent(pid) => Ok(Self { pid, go }),
            Fork::Child => {
                drop(go);
                let mut byte = [0];
                if !matches!(rustix::io::read(&wait, &mut byte), Ok(1)) {
                    std::process::exit(0);
                }
                let name = user_name(user);
                let names = [name.as_deref().unwrap_or(""), &user.to_string()];
                let mut missing = 0;
                if !map("newuidmap", target, user, subordinate("/etc/subuid", &names)) {
                    missing |= NO_UID_MAP;
                }
                if !map("newgidmap", target, group, subordinate("/etc/subgid", &names)) {
                    missing |= NO_GID_MAP;
                }
                std::process::exit(i32::from(missing));
            }
        }
    }

    /// Lets the helpers run. Gives the maps that are still to be written.
    fn finish(self) -> u8 {
        let nothing = NO_UID_MAP | NO_GID_MAP;
        if fs::File::from(self.go).write_all(b"g").is_err() {
            return nothing;
        }
        match rustix::process::waitpid(Some(self.pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => match status.exit_status() {
                Some(code) => u8::try_from(code).unwrap_or(nothing) & nothing,
                None => nothing,
            },
            _ => nothing,
        }
    }
}

/// A range of ids, `(first, count)`.
type Range = (u32, u32);

fn map(helper: &str, target: u32, own: u32, range: Option<Range>) -> bool {
    let Some((first, count)) = range else { return false };
    let numbers = [target, 0, own, 1, FIRST_SUBORDINATE, first, count];
    let mut command = Command::new(helper);
    command.args(numbers.map(|number| number.to_string()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The name of a user, wherever the system keeps its users (nsswitch.conf(5)).
fn user_name(user: u32) -> Option<String> {
    let found = uzers::get_user_by_uid(user)?;
    found.name().to_str().map(str::to_owned)
}

fn subordinate(file: &str, names: &[&str]) -> Option<Range> {
    parse_subordinate(&fs::read_to_string(file).ok()?, names)
}

/// The first range of any of `names`.
fn parse_subordinate(text: &str, names: &[&str]) -> Option<Range> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && names.contains(name))?;
        debug_assert!(!name.is_empty());
        Some((fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_are_found_by_name_or_number() {
        let text = "# comment\nother:1:2\nme:100000:65536\n1001:7:8\nbad:x:y\n";
        assert_eq!(parse_subordinate(text, &["me", "1001"]), Some((100_000, 65_536)));
        assert_eq!(parse_subordinate(text, &["", "1001"]), Some((7, 8)));
        assert_eq!(parse_subordinate(text, &["bad"]), None);
        assert_eq!(parse_subordinate(text, &["", "5"]), None);
    }
}
