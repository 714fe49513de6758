//! What files hold.

use crate::attr::InodeNo;
use crate::errno::Result;
use crate::fuse::abi::{self, Opcode};
use crate::fuse::context::{Call, Context};
use crate::fuse::decode::{self, CopyFileRange, Fallocate, Lseek, Read, Write};
use crate::fuse::reply::Payload;
use crate::fuse::request::Request;
use crate::metrics::Counter;
use crate::overlay::Writer;

/// A WRITE or a copy of so many bytes may take long: the host may make its writer wait.
const LONG_WRITE_BYTES: usize = 64 << 10;

/// A FALLOCATE of so many bytes may take long: the host writes next to nothing for it, but may have to
/// look for room.
const LONG_FALLOCATE_BYTES: u64 = 1 << 20;

/// Setuid and setgid.
const SETID: u32 = 0o6000;

pub fn read(d: &Context, call: &Call<'_>, read: Read, out: &mut Payload<'_>) -> Result<()> {
    out.fill(read.size as usize, |room| d.overlay.read(call.ino, read.offset, room))?;
    d.metrics.add(Counter::BytesRead, out.len() as u64);
    Ok(())
}

pub fn write(d: &Context, call: &Call<'_>, write: Write<'_>, out: &mut Payload<'_>) -> Result<()> {
    let Write { offset, data, cached, kill_suidgid } = write;
    let by = match (cached, kill_suidgid) {
        (true, _) => Writer::PageCache { keeps_times: d.agreed.writeback_cache() },
        (false, true) => Writer::Unprivileged(&call.caller),
        (false, false) => Writer::Privileged,
    };
    let may_lose = matches!(by, Writer::Unprivileged(_));
    let write = || d.overlay.write(call.ino, offset, data, by);
    let written = notify_lost_setid(d, call.node, may_lose, write)?;
    d.metrics.add(Counter::BytesWritten, written as u64);
    out.put(&abi::WriteOut { size: written as u32, padding: 0 })
}

/// Whether a WRITE may take long.
pub fn writes_much(_: &Context, request: &Request<'_>) -> bool {
    request.payload.len() >= LONG_WRITE_BYTES
}

pub fn fallocate(d: &Context, call: &Call<'_>, args: Fallocate, _: &mut Payload<'_>) -> Result<()> {
    let Fallocate { offset, len, mode } = args;
    notify_lost_setid(d, call.node, true, || {
        d.overlay.fallocate(call.ino, offset, len, mode, &call.caller)
    })
}

/// Whether a FALLOCATE may take long.
pub fn allocates_much(_: &Context, request: &Request<'_>) -> bool {
    decode::fallocate(request).is_ok_and(|args| args.len >= LONG_FALLOCATE_BYTES)
}

pub fn lseek(d: &Context, call: &Call<'_>, seek: Lseek, out: &mut Payload<'_>) -> Result<()> {
    out.put(&abi::LseekOut { offset: d.overlay.lseek(call.ino, seek.offset, seek.whence)? })
}

/// COPY_FILE_RANGE, and COPY_FILE_RANGE_64, which differs in the width of its answer. No copy is too long for 32 bits.
pub fn copy_file_range(
    d: &Context,
    call: &Call<'_>,
    args: CopyFileRange,
    out: &mut Payload<'_>,
) -> Result<()> {
    let CopyFileRange { offset, to: to_node, to_offset, len } = args;
    let is_wide = call.request.opcode == Some(Opcode::CopyFileRange64);
    let to = d.nodes.number(to_node);
    let copied = notify_lost_setid(d, to_node, true, || {
        d.overlay.copy_file_range(call.ino, offset, to, to_offset, len, &call.caller)
    })?;
    if is_wide {
        return out.put(&abi::CopyFileRangeOut { bytes_copied: copied as u64 });
    }
    out.put(&abi::WriteOut { size: copied as u32, padding: 0 })
}

/// Whether a copy may take long. Programs ask for more than there is: as much as a call takes.
pub fn copies_much(d: &Context, request: &Request<'_>) -> bool {
    let Ok(args) = decode::copy_file_range(request) else { return false };
    let ino = d.nodes.number(request.node());
    let size = d.overlay.getattr(ino).map_or(0, |attr| attr.size);
    args.len.min(size.saturating_sub(args.offset)) >= LONG_WRITE_BYTES as u64
}

/// Changes data by `change`. Where the change clears setuid or setgid, which it may if `may_lose`, the
/// kernel is notified: it would go on using the mode that it caches.
pub fn notify_lost_setid<T>(
    d: &Context,
    node: InodeNo,
    may_lose: bool,
    change: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let ino = d.nodes.number(node);
    let setid = || d.overlay.getattr(ino).map_or(0, |attr| attr.mode & SETID);
    let before = if may_lose { setid() } else { 0 };
    let done = change();
    if before != 0 && setid() != before {
        d.notifier.attributes_changed(node);
    }
    done
}
