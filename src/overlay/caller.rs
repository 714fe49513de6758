//! What a caller may do, where the kernel leaves the question to the file system.
//!
//! A request names the calling thread only (with id-mapped mounts allowed, not even its user), so
//! /proc is asked; a thread that it does not know may nothing. These questions are rare.

use crate::attr::Caller;

const CAP_FSETID: u32 = 4;
const CAP_SYS_ADMIN: u32 = 21;

/// From proc_pid_status(5).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Credentials {
    fsuid: u32,
    /// That of file system accesses first.
    groups: Vec<u32>,
    effective: u64,
}

impl Caller {
    /// Whether the caller may see and use `trusted` extended attributes (xattr(7)).
    pub(super) fn is_administrator(&self) -> bool {
        self.credentials().is_some_and(|c| c.fsuid == 0 && c.has(CAP_SYS_ADMIN))
    }

    /// Whether changes of a file by the caller leave it setuid and setgid (capabilities(7)).
    pub(super) fn keeps_setid(&self) -> bool {
        self.credentials().is_some_and(|c| c.has(CAP_FSETID))
    }

    /// Whether a file of `uid` is the caller's own, who has no CAP_FSETID.
    pub(super) fn is_owner_without_fsetid(&self, uid: u32) -> bool {
        self.credentials().is_some_and(|c| c.fsuid == uid && !c.has(CAP_FSETID))
    }

    /// Whether a setgid file without group execute stays one for this caller, who may be known to
    /// have no CAP_FSETID (`in_group_or_capable` in the kernel's fs/inode.c).
    pub(super) fn is_in_group_or_capable(&self, gid: u32) -> bool {
        self.credentials().is_some_and(|c| c.groups.contains(&gid) || c.has(CAP_FSETID))
    }

    fn credentials(&self) -> Option<Credentials> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        Credentials::parse(&status)
    }
}

impl Credentials {
    fn parse(status: &str) -> Option<Credentials> {
        let value = |key| status.lines().find_map(|line| line.strip_prefix(key));
        // Real, effective, saved, file system.
        let acting = |key| value(key)?.split_whitespace().nth(3)?.parse().ok();
        let fsuid = acting("Uid:")?;
        let more = value("Groups:")?.split_whitespace().filter_map(|id| id.parse().ok());
        let groups = acting("Gid:").into_iter().chain(more).collect();
        let effective = u64::from_str_radix(value("CapEff:")?.trim(), 16).ok()?;
        Some(Credentials { fsuid, groups, effective })
    }

    fn has(&self, capability: u32) -> bool {
        self.effective >> capability & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_by_field() {
        let status = "Name:\tCapEff: ffff\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n\
                      Groups:\t10 20 \nCapPrm:\t0\nCapEff:\t0000000000200010\n";
        let credentials = Credentials::parse(status).unwrap();
        assert_eq!((credentials.fsuid, &*credentials.groups), (4, &[8, 10, 20][..]));
        assert!(credentials.has(CAP_FSETID) && credentials.has(CAP_SYS_ADMIN));
        assert!(!credentials.has(0) && !credentials.has(63));
        assert_eq!(Credentials::parse("Uid:\t1\n"), None);
    }

    #[test]
    fn nobody_may_nothing() {
        let nobody = Caller { uid: 0, gid: 0, pid: 0 };
        assert!(!nobody.is_administrator() && !nobody.keeps_setid());
        assert!(!nobody.is_in_group_or_capable(0));
    }
}
