//! INIT: which version and which features the connection speaks.

use zerocopy::FromBytes;

use crate::fuse::abi::{self, init};

const PAGE: u32 = 4096;

/// The most pages a request may carry where the kernel has no `max_pages_limit`.
const DEFAULT_MAX_PAGES: u32 = 256;

/// What the file system would like of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// The kernel gathers writes in its page cache and owns sizes and times of files.
    pub writeback_cache: bool,
    /// The largest READ or WRITE, in bytes.
    pub max_write: u32,
    /// Pages the kernel puts into one request at most (`fs.fuse.max_pages_limit`).
    pub max_pages_limit: u32,
    /// Requests in the background (readahead, writeback) at a time.
    pub max_background: u16,
    /// Regular files are opened and closed without asking.
    pub no_open: bool,
    /// Mounts of this file system may be id-mapped. The kernel wants `default_permissions` then.
    pub idmap: bool,
    /// Requests travel over io_uring, where the kernel offers it.
    pub uring: bool,
    /// The kernel reads some files by itself. It has no writeback cache then.
    pub passthrough: bool,
}

impl Wishes {
    /// The largest READ or WRITE that fits the kernel's limit of pages, in bytes.
    pub fn max_io(&self) -> u32 {
        self.max_pages() * PAGE
    }

    fn max_pages(&self) -> u32 {
        (self.max_write / PAGE).clamp(1, self.max_pages_limit.clamp(1, u32::from(u16::MAX)))
    }
}

/// What the system allows one request to carry, in pages.
pub fn max_pages_limit() -> u32 {
    let file = std::fs::read_to_string("/proc/sys/fs/fuse/max_pages_limit");
    file.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT_MAX_PAGES)
}

/// What was agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub minor: u32,
    /// INIT flags in force, `flags2` in the upper half.
    pub flags: u64,
    /// The largest READ or WRITE, in bytes.
    pub max_io: u32,
}

impl Negotiated {
    pub fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }
    pub fn setxattr_ext(&self) -> bool {
        self.has(init::SETXATTR_EXT)
    }
    pub fn writeback_cache(&self) -> bool {
        self.has(init::WRITEBACK_CACHE)
    }
    pub fn uring(&self) -> bool {
        self.has(init::OVER_IO_URING)
    }
    pub fn no_open(&self) -> bool {
        self.has(init::NO_OPEN_SUPPORT)
    }
    pub fn passthrough(&self) -> bool {
        self.has(init::PASSTHROUGH)
    }
    pub fn no_opendir(&self) -> bool {
        self.has(init::NO_OPENDIR_SUPPORT)
    }
}

/// How an INIT is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This ends the negotiation.
    Agreed(abi::InitOut, Negotiated),
    /// The kernel speaks a newer major version: this tells it ours, and it asks again.
    AskAgain(abi::InitOut),
    /// Kernel too old: its major and minor version.
    TooOld(u32, u32),
    /// The bytes are no INIT.
    Malformed,
}

/// Everything taken when the kernel offers it, whatever the wishes. Left out on purpose: locks (the
/// kernel's own are right for a local file system), splicing, security contexts, DAX,
/// automatic invalidation (nobody else changes this tree), RESEND, and asynchronous direct I/O: the
/// kernel does not drop the pages which somebody read while such a write was on its way, and shows
/// what was there before for good.
const ALWAYS: u64 = init::ASYNC_READ
    | init::BIG_WRITES
    | init::DONT_MASK
    | init::DO_READDIRPLUS
    | init::NO_OPENDIR_SUPPORT
    | init::PARALLEL_DIROPS
    | init::POSIX_ACL
    | init::ABORT_ERROR
    | init::MAX_PAGES
    | init::CACHE_SYMLINKS
    | init::EXPLICIT_INVAL_DATA
    | init::HANDLE_KILLPRIV_V2
    | init::SETXATTR_EXT
    | init::INIT_EXT
    | init::DIRECT_IO_ALLOW_MMAP
    | init::NO_EXPORT_SUPPORT;

/// Answers the arguments of an INIT request.
pub fn negotiate(arg: &[u8], wishes: &Wishes) -> Answer {
    let Ok((asked, rest)) = abi::InitIn::read_from_prefix(arg) else { return Answer::Malformed };
    if asked.major > abi::KERNEL_VERSION {
        return Answer::AskAgain(version_only());
    }
    if asked.major < abi::KERNEL_VERSION || asked.minor < abi::OLDEST_MINOR_VERSION {
        return Answer::TooOld(asked.major, asked.minor);
    }
    let flags = offered(&asked, rest) & wanted(wishes);
    let minor = asked.minor.min(abi::KERNEL_MINOR_VERSION);
    let pages = if flags & init::MAX_PAGES != 0 { wishes.max_pages() } else { 32 };
    let max_io = pages * PAGE;
    let out = abi::InitOut {
        minor,
        max_readahead: asked.max_readahead,
        flags: flags as u32,
        flags2: (flags >> 32) as u32,
        max_background: wishes.max_background,
        congestion_threshold: wishes.max_background / 4 * 3,
        max_write: max_io,
        time_gran: 1,
        max_pages: pages as u16,
        // Files on stacked file systems are not passed through, so that one more may be stacked on
        // this one.
        max_stack_depth: u32::from(flags & init::PASSTHROUGH != 0),
        ..version_only()
    };
    Answer::Agreed(out, Negotiated { minor, flags, max_io })
}

fn version_only() -> abi::InitOut {
    abi::InitOut {
        major: abi::KERNEL_VERSION,
        minor: abi::KERNEL_MINOR_VERSION,
        ..Default::default()
    }
}

/// The flags the kernel offers; those above bit 31 follow the old struct where it says so.
fn offered(asked: &abi::InitIn, rest: &[u8]) -> u64 {
    let low = u64::from(asked.flags);
    if low & init::INIT_EXT == 0 {
        return low;
    }
    u32::read_from_prefix(rest).map_or(low, |(high, _)| low | u64::from(high) << 32)
}

fn wanted(wishes: &Wishes) -> u64 {
    let optional = [
        (wishes.writeback_cache, init::WRITEBACK_CACHE),
        (wishes.no_open, init::NO_OPEN_SUPPORT),
        // Where nobody is asked to open, O_TRUNC has to be asked for.
        (!wishes.no_open, init::ATOMIC_O_TRUNC),
        (wishes.idmap, init::ALLOW_IDMAP),
        (wishes.uring, init::OVER_IO_URING),
        (wishes.passthrough, init::PASSTHROUGH),
    ];
    optional.iter().filter(|(wish, _)| *wish).fold(ALWAYS, |flags, (_, flag)| flags | flag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    const WISHES: Wishes = Wishes {
        writeback_cache: true,
        max_write: 1 << 20,
        max_pages_limit: 256,
        max_background: 64,
        no_open: false,
        idmap: true,
        uring: false,
        passthrough: false,
    };

    fn ask(major: u32, minor: u32, flags: u64, long: bool) -> Vec<u8> {
        let old = abi::InitIn { major, minor, max_readahead: 131072, flags: flags as u32 };
        let mut bytes = old.as_bytes().to_vec();
        if long {
            bytes.extend_from_slice(&((flags >> 32) as u32).to_le_bytes());
            bytes.extend_from_slice(&[0; 44]);
        }
        bytes
    }

    fn agreed(arg: &[u8], wishes: &Wishes) -> (abi::InitOut, Negotiated) {
        match negotiate(arg, wishes) {
            Answer::Agreed(out, got) => (out, got),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_new_kernel_gets_all_wishes_and_nothing_unwanted() {
        let (out, got) = agreed(&ask(7, 45, u64::MAX, true), &WISHES);
        assert_eq!((out.major, out.minor, out.time_gran), (7, 45, 1));
        assert_eq!((out.max_write, out.max_pages, got.max_io), (1 << 20, 256, 1 << 20));
        assert_eq!(out.max_readahead, 131072);
        assert_eq!(u64::from(out.flags) | u64::from(out.flags2) << 32, got.flags);
        assert!(got.writeback_cache() && got.setxattr_ext() && got.has(init::ALLOW_IDMAP));
        let unwanted = init::POSIX_LOCKS
            | init::FLOCK_LOCKS
            | init::EXPORT_SUPPORT
            | init::AUTO_INVAL_DATA
            | init::NO_OPEN_SUPPORT
            | init::ASYNC_DIO
            | init::HANDLE_KILLPRIV
            | init::SECURITY_CTX
            | init::PASSTHROUGH
            | init::OVER_IO_URING
            | init::REQUEST_TIMEOUT;
        assert_eq!(got.flags & unwanted, 0);
    }

    #[test]
    fn a_newer_minor_is_answered_with_ours_and_an_older_one_with_its_own() {
        assert_eq!(agreed(&ask(7, 99, 0, true), &WISHES).0.minor, 45);
        assert_eq!(agreed(&ask(7, 31, 0, false), &WISHES).0.minor, 31);
    }

    #[test]
    fn an_old_kernel_gets_only_what_it_offers() {
        let flags = init::ASYNC_READ | init::WRITEBACK_CACHE | init::POSIX_ACL;
        let (out, got) = agreed(&ask(7, 31, flags, false), &WISHES);
        assert_eq!(got.flags, flags);
        assert_eq!((out.max_write, out.max_pages, out.flags2), (131072, 32, 0));
        assert!(!got.setxattr_ext());
    }

    #[test]
    fn high_flags_count_only_behind_init_ext() {
        let (_, got) = agreed(&ask(7, 45, init::ALLOW_IDMAP, true), &WISHES);
        assert!(!got.has(init::ALLOW_IDMAP));
        let cut = agreed(&ask(7, 45, init::INIT_EXT | init::ALLOW_IDMAP, false), &WISHES).1;
        assert!(!cut.has(init::ALLOW_IDMAP));
    }

    #[test]
    fn versions_out_of_reach() {
        assert_eq!(negotiate(&ask(7, 30, 0, false), &WISHES), Answer::TooOld(7, 30));
        assert_eq!(negotiate(&ask(6, 45, 0, false), &WISHES), Answer::TooOld(6, 45));
        let Answer::AskAgain(out) = negotiate(&ask(8, 0, 0, false), &WISHES) else {
            panic!("not asked again")
        };
        assert_eq!((out.major, out.minor), (7, 45));
        for cut in 0..16 {
            assert_eq!(negotiate(&ask(7, 45, 0, false)[..cut], &WISHES), Answer::Malformed);
        }
    }

    #[test]
    fn pages_keep_to_every_limit() {
        let limit = |max_write, max_pages_limit| {
            agreed(&ask(7, 45, u64::MAX, true), &Wishes { max_write, max_pages_limit, ..WISHES })
                .1
                .max_io
        };
        assert_eq!(limit(1 << 20, 64), 64 * PAGE);
        assert_eq!(limit(1 << 16, 256), 1 << 16);
        assert_eq!(limit(0, 256), PAGE);
        assert_eq!(limit(u32::MAX, 0), PAGE);
        assert_eq!(limit(u32::MAX, u32::MAX), 65535 * PAGE);
    }
}
