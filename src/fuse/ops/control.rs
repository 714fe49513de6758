//! The file system as a whole: syncs, figures, ioctls, its end.

use zerocopy::FromBytes;

use crate::errno::{Errno, Result};
use crate::fuse::abi;
use crate::fuse::context::{Call, Context};
use crate::fuse::decode::{self, Ioctl};
use crate::fuse::reply::{self, Payload};
use crate::fuse::request::Request;

pub fn fsync(d: &Context, call: &Call<'_>, datasync: bool, _: &mut Payload<'_>) -> Result<()> {
    d.overlay.fsync(call.ino, datasync)
}

pub fn fsyncdir(d: &Context, call: &Call<'_>, datasync: bool, _: &mut Payload<'_>) -> Result<()> {
    d.overlay.fsyncdir(call.ino, datasync)
}

pub fn syncfs(d: &Context, _: &Call<'_>, (): (), _: &mut Payload<'_>) -> Result<()> {
    d.overlay.syncfs()
}

/// Whether a sync waits for the host's disk.
pub fn is_durable(d: &Context, _: &Request<'_>) -> bool {
    d.overlay.is_durable()
}

pub fn statfs(d: &Context, _: &Call<'_>, (): (), out: &mut Payload<'_>) -> Result<()> {
    out.put(&reply::statfs_out(&d.overlay.statfs()?))
}

/// `ENOTTY` for a command that means nothing here.
pub fn ioctl(d: &Context, call: &Call<'_>, ioctl: Ioctl<'_>, out: &mut Payload<'_>) -> Result<()> {
    match ioctl.cmd {
        abi::ioctl::SHUTDOWN => {
            d.overlay.shut_down(&call.caller)?;
            d.shutdown.begin();
            out.put(&abi::IoctlOut::default())
        }
        // The VFS leaves this question to the file system.
        abi::ioctl::TRIM if d.read_only => Err(Errno::ROFS),
        abi::ioctl::TRIM => {
            let range = abi::TrimRange::read_from_bytes(ioctl.data).map_err(|_| Errno::IO)?;
            let len = d.overlay.trim(range.start, range.len, range.minlen, &call.caller)?;
            out.put(&abi::IoctlOut::default())?;
            out.put(&abi::TrimRange { len, ..range })
        }
        // There are none, and none can be set: the kernel would not enforce them.
        abi::ioctl::GET_FLAGS => {
            out.put(&abi::IoctlOut::default())?;
            out.put(&0u32)
        }
        _ => Err(Errno::NOTTY),
    }
}

/// Whether an ioctl may take long.
pub fn ioctl_waits(_: &Context, request: &Request<'_>) -> bool {
    decode::ioctl(request)
        .is_ok_and(|ioctl| matches!(ioctl.cmd, abi::ioctl::SHUTDOWN | abi::ioctl::TRIM))
}

pub fn destroy(d: &Context, _: &Call<'_>, (): (), _: &mut Payload<'_>) -> Result<()> {
    d.destroy();
    Ok(())
}

/// Never reached: the decoder refuses.
pub fn refused(_: &Context, _: &Call<'_>, (): (), _: &mut Payload<'_>) -> Result<()> {
    Err(Errno::NOSYS)
}
