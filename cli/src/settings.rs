//! What the command line's options mean for serving a mount.

use std::ffi::OsString;

use overcoat::{Atime, MountOptions, Settings};
use rustix::mount::MountFlags;

use crate::options::Options;

/// How a mount with `options` is served. `read_only`: there is no upper directory.
pub fn of(options: &Options, source: OsString, read_only: bool) -> Settings {
    let has = |flag| options.flags.contains(flag);
    let mount = MountOptions {
        source,
        read_only: read_only || has(MountFlags::RDONLY),
        nosuid: has(MountFlags::NOSUID),
        nodev: has(MountFlags::NODEV),
        noexec: has(MountFlags::NOEXEC),
        atime: atime(options.flags),
        nodiratime: has(MountFlags::NODIRATIME),
        sync: has(MountFlags::SYNCHRONOUS),
        dirsync: has(MountFlags::DIRSYNC),
        allow_other: true,
    };
    let usual = Settings::default();
    Settings {
        mount,
        transport: options.transport,
        passthrough: options.passthrough,
        threads: options.threads.map_or(usual.threads, |threads| threads as usize),
        writeback_cache: options.writeback,
        ..usual
    }
}

/// As mount(2) reads the flags.
fn atime(flags: MountFlags) -> Atime {
    if flags.contains(MountFlags::STRICTATIME) {
        Atime::Strictatime
    } else if flags.contains(MountFlags::NOATIME) {
        Atime::Noatime
    } else {
        Atime::Relatime
    }
}
