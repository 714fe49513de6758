//! Names: look-up, and what makes, moves or removes an entry.

use std::ffi::OsStr;

use crate::attr::InodeNo;
use crate::errno::Result;
use crate::fuse::context::{Call, Context};
use crate::fuse::decode::{Forgets, NewEntry, Rename};
use crate::fuse::reply::{self, Payload};

pub fn lookup(d: &Context, call: &Call<'_>, name: &OsStr, out: &mut Payload<'_>) -> Result<()> {
    match d.overlay.lookup(call.ino, name)? {
        Some(entry) => out.put(&d.entry_out(&entry)),
        None => out.put(&reply::negative_out(&d.valid)),
    }
}

pub fn forget(d: &Context, call: &Call<'_>, count: u64, _: &mut Payload<'_>) -> Result<()> {
    d.nodes.forget(call.node, count, &d.overlay);
    Ok(())
}

pub fn batch_forget(
    d: &Context,
    _: &Call<'_>,
    items: Forgets<'_>,
    _: &mut Payload<'_>,
) -> Result<()> {
    items.iter().for_each(|(node, count)| d.nodes.forget(node, count, &d.overlay));
    Ok(())
}

pub fn symlink(
    d: &Context,
    call: &Call<'_>,
    (name, target): (&OsStr, &OsStr),
    out: &mut Payload<'_>,
) -> Result<()> {
    out.put(&d.entry_out(&d.overlay.symlink(call.ino, name, target, &call.caller)?))
}

pub fn mknod(d: &Context, call: &Call<'_>, new: NewEntry<'_>, out: &mut Payload<'_>) -> Result<()> {
    let NewEntry { name, mode, umask, rdev } = new;
    out.put(&d.entry_out(&d.overlay.mknod(call.ino, name, mode, rdev, umask, &call.caller)?))
}

pub fn mkdir(d: &Context, call: &Call<'_>, new: NewEntry<'_>, out: &mut Payload<'_>) -> Result<()> {
    let NewEntry { name, mode, umask, .. } = new;
    out.put(&d.entry_out(&d.overlay.mkdir(call.ino, name, mode, umask, &call.caller)?))
}

pub fn unlink(d: &Context, call: &Call<'_>, name: &OsStr, _: &mut Payload<'_>) -> Result<()> {
    d.overlay.unlink(call.ino, name)
}

pub fn rmdir(d: &Context, call: &Call<'_>, name: &OsStr, _: &mut Payload<'_>) -> Result<()> {
    d.overlay.rmdir(call.ino, name)
}

pub fn rename(d: &Context, call: &Call<'_>, names: Rename<'_>, _: &mut Payload<'_>) -> Result<()> {
    let Rename { name, new_parent, new_name, flags } = names;
    d.overlay.rename(call.ino, name, new_parent, new_name, flags, &call.caller)
}

/// The request's node is the new directory.
pub fn link(
    d: &Context,
    call: &Call<'_>,
    (old, name): (InodeNo, &OsStr),
    out: &mut Payload<'_>,
) -> Result<()> {
    let linked = d.nodes.number(old);
    let entry = d.nodes.change(old, true, || d.overlay.link(linked, call.ino, name))?;
    out.put(&d.entry_out(&entry))
}
