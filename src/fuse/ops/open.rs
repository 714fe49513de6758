//! Files are opened, made and opened at once, and closed.
//!
//! Where INIT agreed on it (`no_open`), OPEN is answered with `ENOSYS`, and the kernel opens files by
//! itself from then on, with the flags of [`opened_file`]. CREATE is answered likewise, and the kernel
//! sends MKNOD instead: there is no RELEASE then. The kernel keeps the directory locked meanwhile, so that
//! nobody else makes the name (fs/fuse/dir.c, fuse_atomic_open).

use std::ffi::OsStr;

use crate::errno::{Errno, Result};
use crate::fuse::abi::{self, fopen};
use crate::fuse::context::{Call, Context};
use crate::fuse::decode::{Create, Open};
use crate::fuse::ops::data::notify_lost_setid;
use crate::fuse::passthrough::Opened;
use crate::fuse::reply::Payload;
use crate::overlay::Entry;

pub fn open(d: &Context, call: &Call<'_>, open: Open, out: &mut Payload<'_>) -> Result<()> {
    if d.agreed.no_open() {
        return Err(Errno::NOSYS);
    }
    let Open { flags, kill_suidgid } = open;
    let opened = d.nodes.open(call.node, flags, &d.overlay)?;
    let done = notify_lost_setid(d, call.node, kill_suidgid, || {
        d.overlay.open(call.ino, flags, kill_suidgid, &call.caller)
    });
    let done = done.and_then(|()| out.put(&opened_file(d, opened)));
    done.inspect_err(|_| _ = d.nodes.release(call.node, opened))
}

pub fn create(
    d: &Context,
    call: &Call<'_>,
    (name, create): (&OsStr, Create),
    out: &mut Payload<'_>,
) -> Result<()> {
    if d.agreed.no_open() {
        return Err(Errno::NOSYS);
    }
    let Create { flags, mode, umask } = create;
    created(d, &d.overlay.create(call.ino, name, flags, mode, umask, &call.caller)?, out)
}

pub fn tmpfile(d: &Context, call: &Call<'_>, create: Create, out: &mut Payload<'_>) -> Result<()> {
    let Create { flags, mode, umask } = create;
    created(d, &d.overlay.tmpfile(call.ino, flags, mode, umask, &call.caller)?, out)
}

pub fn release(
    d: &Context,
    call: &Call<'_>,
    (handle, flags): (u64, u32),
    _: &mut Payload<'_>,
) -> Result<()> {
    if d.nodes.release(call.node, Opened::of_handle(handle)) {
        d.overlay.release(call.ino, flags);
    }
    Ok(())
}

/// The answer for a file that was made and opened at once.
fn created(d: &Context, entry: &Entry, out: &mut Payload<'_>) -> Result<()> {
    let opened = d.nodes.created(entry.attr.ino);
    out.put(&d.entry_out(entry))?;
    out.put(&opened_file(d, opened))
}

/// Data stay cached from open to open: nothing but this mount changes them. Without the writeback cache
/// a close has nothing to write out.
fn opened_file(d: &Context, opened: Opened) -> abi::OpenOut {
    let writes_back = d.agreed.writeback_cache();
    let noflush = if writes_back { 0 } else { fopen::NOFLUSH };
    let fh = opened.handle();
    let (kind, backing_id) = match opened.through {
        Some(id) => (fopen::PASSTHROUGH, id.0),
        None => (fopen::KEEP_CACHE, 0),
    };
    abi::OpenOut { fh, open_flags: kind | noflush, backing_id }
}
