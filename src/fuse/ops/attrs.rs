//! Attributes, xattrs, and what a symbolic link holds.

use std::ffi::OsStr;

use crate::attr::SetAttr;
use crate::errno::Result;
use crate::fuse::context::{Call, Context};
use crate::fuse::decode::Setxattr;
use crate::fuse::reply::{self, Payload};

pub fn getattr(d: &Context, call: &Call<'_>, (): (), out: &mut Payload<'_>) -> Result<()> {
    out.put(&reply::attr_out(&d.overlay.getattr(call.ino)?, d.validity(call.node)))
}

pub fn statx(d: &Context, call: &Call<'_>, (): (), out: &mut Payload<'_>) -> Result<()> {
    out.put(&reply::statx_out(&d.overlay.getattr(call.ino)?, d.validity(call.node)))
}

pub fn setattr(d: &Context, call: &Call<'_>, set: SetAttr, out: &mut Payload<'_>) -> Result<()> {
    let change = || d.overlay.setattr(call.ino, &set, &call.caller);
    let attr = d.nodes.change(call.node, set.size.is_some(), change)?;
    out.put(&reply::attr_out(&attr, &d.valid))
}

pub fn readlink(d: &Context, call: &Call<'_>, (): (), out: &mut Payload<'_>) -> Result<()> {
    out.bytes(&d.overlay.readlink(call.ino)?)
}

pub fn setxattr(
    d: &Context,
    call: &Call<'_>,
    set: Setxattr<'_>,
    _: &mut Payload<'_>,
) -> Result<()> {
    let Setxattr { name, value, flags, kill_sgid } = set;
    let change = || d.overlay.setxattr(call.ino, name, value, flags, kill_sgid);
    d.nodes.change(call.node, false, change)
}

pub fn getxattr(
    d: &Context,
    call: &Call<'_>,
    (name, size): (&OsStr, u32),
    out: &mut Payload<'_>,
) -> Result<()> {
    out.sized(&d.overlay.getxattr(call.ino, name)?, size)
}

pub fn listxattr(d: &Context, call: &Call<'_>, size: u32, out: &mut Payload<'_>) -> Result<()> {
    out.sized(&d.overlay.listxattr(call.ino, &call.caller)?, size)
}

pub fn removexattr(d: &Context, call: &Call<'_>, name: &OsStr, _: &mut Payload<'_>) -> Result<()> {
    d.nodes.change(call.node, false, || d.overlay.removexattr(call.ino, name))
}
