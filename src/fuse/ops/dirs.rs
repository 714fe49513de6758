//! Directories are opened and listed.

use crate::attr::DirCookie;
use crate::errno::{Errno, Result};
use crate::fuse::abi::{self, fopen};
use crate::fuse::context::{Call, Context};
use crate::fuse::decode::Read;
use crate::fuse::reply::{self, Payload};

/// `ENOSYS` makes the kernel open directories by itself from then on, with the same flags.
pub fn opendir(d: &Context, _: &Call<'_>, (): (), out: &mut Payload<'_>) -> Result<()> {
    if d.agreed.no_opendir() {
        return Err(Errno::NOSYS);
    }
    let open_flags = fopen::CACHE_DIR | fopen::KEEP_CACHE;
    out.put(&abi::OpenOut { open_flags, ..Default::default() })
}

pub fn releasedir(_: &Context, _: &Call<'_>, (): (), _: &mut Payload<'_>) -> Result<()> {
    Ok(())
}

pub fn readdir(d: &Context, call: &Call<'_>, read: Read, out: &mut Payload<'_>) -> Result<()> {
    let from = DirCookie(read.offset);
    let end = d.listing_ends.end(call.ino, from, d.overlay.listing_end(call.ino));
    let mut dirents = out.dirents(read.size);
    let listed = d.overlay.readdir(call.ino, from..end, &mut |entry| dirents.push(&entry));
    entries_or_error(listed, out)
}

pub fn readdirplus(d: &Context, call: &Call<'_>, read: Read, out: &mut Payload<'_>) -> Result<()> {
    let from = DirCookie(read.offset);
    let end = d.listing_ends.end(call.ino, from, d.overlay.listing_end(call.ino));
    let mut dirents = out.dirents(read.size);
    let listed = d.overlay.readdirplus(call.ino, from..end, &mut |entry, found| {
        let looked_up = match found {
            Some(found) => d.entry_out(found),
            None => reply::no_entry(entry.ino, entry.dtype),
        };
        dirents.push_plus(&looked_up, &entry)
    });
    entries_or_error(listed, out)
}

/// Entries already packed are delivered whatever came after: their lookups are counted. The error
/// comes back when the kernel goes on reading.
fn entries_or_error(listed: Result<()>, out: &Payload<'_>) -> Result<()> {
    if out.is_empty() { listed } else { Ok(()) }
}
