//! What a layer is known by, also after it was moved, mounted elsewhere, or the host was started anew.

use super::super::number::mix;
use super::super::source::LayerIdentity;
use super::fs_kind::magic;
use crate::sys::fs_uuid::fs_uuid;
use rustix::fd::BorrowedFd;
use rustix::fs::{Statx, StatxFlags, fstatfs, fstatvfs};

/// The identity of the directory open as `root`, whose attributes are `st`. What the host cannot tell counts as zero.
pub(super) fn identity(root: BorrowedFd<'_>, st: &Statx) -> LayerIdentity {
    let fsid = fstatvfs(root).map_or(0, |fs| fs.f_fsid);
    // All subvolumes of btrfs have one UUID; `f_fsid` differs in each.
    let is_btrfs = fstatfs(root).is_ok_and(|fs| fs.f_type as u32 == magic::BTRFS);
    let has_btime = st.stx_mask & StatxFlags::BTIME.bits() != 0;
    let btime = if has_btime { (st.stx_btime.tv_sec, st.stx_btime.tv_nsec) } else { (0, 0) };
    let uuid = fs_uuid(root).ok();
    // `f_fsid` of xfs is a device number, which may be another one next time: the UUID is better where there is one.
    let fsid = if uuid.is_none() || is_btrfs { fsid } else { 0 };
    let (high, low) = halves(uuid.unwrap_or_default());
    let parts = [high, low, fsid, st.stx_ino, btime.0 as u64, u64::from(btime.1)];
    LayerIdentity(parts.into_iter().fold(0, |hash, part| mix(hash ^ part)))
}

fn halves(uuid: [u8; 16]) -> (u64, u64) {
    let whole = u128::from_be_bytes(uuid);
    ((whole >> 64) as u64, whole as u64)
}
