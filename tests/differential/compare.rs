//! Runs one list of operations on both views and finds the first difference.

use overcoat_tests::mount::OVERLAYFS;
use overcoat_tests::{Disk, Driver, Scratch, Spec, manifest, store};
use rustix::fs::{FileType, Gid, Uid};
use rustix::io::{Errno, Result};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::lowers;
use crate::op::{Op, Rename, Slot};
use crate::view::{Value, View};

/// What to do about a difference in what an operation came to.
pub enum Verdict {
    /// It is a fault.
    Fault,
    /// `doc/SEMANTICS.md` wants it, and nothing that can be seen differs afterwards but what is behind this
    /// descriptor.
    Close(Slot),
    /// `doc/SEMANTICS.md` wants it, and nothing differs afterwards.
    Fine,
}

/// The wanted differences. Each is a row of the table in `doc/SEMANTICS.md`.
pub fn verdict(op: &Op, ours: &Result<Value>, theirs: &Result<Value>) -> Verdict {
    match (op, ours, theirs) {
        // overlayfs cannot copy up what has lost its last name when it keeps an index.
        (
            Op::FdChmod(slot, _)
            | Op::FdSetXattr(slot, ..)
            | Op::FdUtimens(slot, ..)
            | Op::FdTruncate(slot, _),
            Ok(_),
            Err(Errno::EXIST | Errno::NOENT | Errno::STALE),
        ) => Verdict::Close(*slot),
        // Both refuse; which of two reasons comes first is nobody's business.
        (Op::Rename(..), Err(Errno::NOTEMPTY), Err(Errno::EXIST)) => Verdict::Fine,
        // The same of a link into a directory that may not be written to: the kernel looks at the file first, and
        // at its mode as it last heard of it.
        (Op::Link(..), Err(Errno::PERM), Err(Errno::ACCESS)) => Verdict::Fine,
        // A chown of no id by a stranger is not told from a write.
        (Op::Chown(_, None, None), Ok(_), Err(Errno::PERM)) => Verdict::Fine,
        // To overlayfs an ACL that a lower's file does not have is an error, to ext4 it is not.
        (
            Op::RemoveXattr(_, "system.posix_acl_access" | "system.posix_acl_default"),
            Ok(_),
            Err(Errno::NODATA),
        ) => Verdict::Fine,
        // The last name of something of a layer is gone: overlayfs may still count it.
        (Op::FdStat(_), Ok(ours), Ok(theirs)) if is_unlinked(ours, theirs) => Verdict::Fine,
        _ => Verdict::Fault,
    }
}

/// Operations whose difference is wanted and would stay in the trees.
pub fn is_left_out(op: &Op, ours: &View, user: u32) -> bool {
    match *op {
        // A FIFO or a device of a layer that has lost its name gets one again on overlayfs.
        Op::LinkTmpfile(slot, _) => ours.is_unlinked_node(slot),
        // Root keeps what root may keep at a write, and this is not told from one.
        Op::Chown(path, None, None) => user == 0 && ours.is_set_id(path),
        // Where the target is not empty, overlayfs moves the time of the directory around the source.
        Op::Rename(from, to, Rename::Replace) => ours.has_entries(from) && ours.has_entries(to),
        _ => false,
    }
}

/// Whether these are the attributes of the same thing, with no link and with one.
fn is_unlinked(ours: &Value, theirs: &Value) -> bool {
    let mut counted = ours.clone();
    match &mut counted {
        Value::Attributes { nlink, mode, .. } if *nlink == 0 => {
            *nlink = 1;
            let is_directory = FileType::from_raw_mode((*mode).into()) == FileType::Directory;
            !is_directory && counted == *theirs
        }
        _ => false,
    }
}

/// Whether two results are the same. Long data are not printed, so this is a comparison of its own.
pub fn describe(result: &Result<Value>) -> String {
    match result {
        Ok(Value::Bytes(data)) => {
            let shown = &data[..data.len().min(40)];
            format!("{} bytes {shown:02x?}…", data.len())
        }
        other => format!("{other:?}"),
    }
}

/// Makes the calling thread this user's.
pub fn become_user(uid: u32) {
    // Back to root first: only root may go elsewhere.
    set_thread_res_uid(None, Uid::ROOT, None).unwrap();
    set_thread_res_gid(None, Gid::from_raw(uid), None).unwrap();
    set_thread_res_uid(None, Uid::from_raw(uid), None).unwrap();
}

/// Whether the kernel holds written data back: two roads through its FUSE client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writeback {
    On,
    Off,
}

impl Writeback {
    pub fn option(self) -> &'static str {
        match self {
            Writeback::On => "on",
            Writeback::Off => "off",
        }
    }
}

/// Runs `ops` on both; the first difference in words.
pub fn run(ops: &[Op], writeback: Writeback) -> std::result::Result<(), String> {
    std::thread::scope(|scope| {
        // On a thread of its own, as it changes its user.
        let thread = scope.spawn(|| run_here(ops, writeback));
        thread.join().unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(format!("panic: {}", text.unwrap_or_default()))
        })
    })
}

fn run_here(ops: &[Op], writeback: Writeback) -> std::result::Result<(), String> {
    set_thread_groups(&[]).unwrap();
    let scratch = Scratch::new("differential");
    // Overlayfs syncs its upper's file system at every unmount: in memory that costs nothing.
    let disk = Disk::in_memory(&scratch, 256);
    let lowers = lowers::make(&disk.dir("layers"));
    let before: Vec<_> = lowers.iter().map(|lower| manifest::of_layer(lower)).collect();
    let spec = |name: &str, driver| Spec {
        driver,
        lowers: lowers.clone(),
        upper: Some(disk.dir(&format!("{name}-upper"))),
        point: scratch.dir(&format!("{name}-mnt")),
        options: vec!["noatime".to_owned(), format!("writeback={}", writeback.option())],
        log: None,
        descriptors: None,
        overlayfs: OVERLAYFS,
    };
    let mut ours = View::new(spec("ours", Driver::from_env()));
    let mut theirs = View::new(spec("theirs", Driver::Overlayfs));
    let result = run_on(ops, &mut ours, &mut theirs);
    become_user(0);
    ours.end();
    theirs.end();
    result?;
    for (lower, before) in lowers.iter().zip(before) {
        let difference = before.difference(&manifest::of_layer(lower));
        if !difference.is_empty() {
            return Err(format!("the lower {} has been changed:\n{difference}", lower.display()));
        }
    }
    if Driver::from_env() == Driver::Overcoat {
        store::assert_clean(&disk.dir("ours-upper"));
    }
    Ok(())
}

fn run_on(ops: &[Op], ours: &mut View, theirs: &mut View) -> std::result::Result<(), String> {
    let mut user = 0;
    for (number, op) in ops.iter().enumerate() {
        match op {
            Op::As(uid) => {
                become_user(*uid);
                user = *uid;
                continue;
            }
            Op::Remount | Op::Kill => {
                become_user(0);
                ours.remount(*op == Op::Kill);
                theirs.remount(false);
                become_user(user);
                continue;
            }
            op if is_left_out(op, ours, user) => continue,
            _ => {}
        }
        let (our_result, their_result) = (ours.run(op), theirs.run(op));
        if our_result == their_result {
            continue;
        }
        match verdict(op, &our_result, &their_result) {
            Verdict::Fine => {}
            Verdict::Close(slot) => {
                ours.close(slot);
                theirs.close(slot);
            }
            Verdict::Fault => {
                return Err(format!(
                    "step {number} {op:?}:\n  ours      {}\n  overlayfs {}",
                    describe(&our_result),
                    describe(&their_result)
                ));
            }
        }
    }
    become_user(0);
    compare_trees(ours, theirs, "at the end")?;
    ours.remount(false);
    theirs.remount(false);
    compare_trees(ours, theirs, "after a remount")
}

fn compare_trees(ours: &View, theirs: &View, when: &str) -> std::result::Result<(), String> {
    let difference = ours.manifest().difference(&theirs.manifest());
    if difference.is_empty() {
        Ok(())
    } else {
        Err(format!("the trees differ {when} (ours | overlayfs):\n{difference}"))
    }
}

/// A shorter list that still differs, tried for a while, and its difference.
pub fn shrink(mut ops: Vec<Op>, writeback: Writeback, mut fault: String) -> (Vec<Op>, String) {
    let mut budget = 300;
    let mut chunk = ops.len().div_ceil(2);
    while chunk > 0 && budget > 0 {
        let mut start = 0;
        while start < ops.len() && budget > 0 {
            let mut fewer = ops.clone();
            fewer.drain(start..ops.len().min(start + chunk));
            budget -= 1;
            match run(&fewer, writeback) {
                Err(found) => {
                    ops = fewer;
                    fault = found;
                }
                Ok(()) => start += chunk,
            }
        }
        chunk /= 2;
    }
    (ops, fault)
}
