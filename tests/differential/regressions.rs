//! Lists that have once come to a difference, or that are worth running every time.

use crate::compare::{self, Writeback};
use crate::op::Node::*;
use crate::op::Op::{self, *};
use crate::op::{Falloc, Open, Rename as How};

fn check(ops: &[Op]) {
    if !overcoat_tests::can_mount() {
        return;
    }
    for writeback in [Writeback::On, Writeback::Off] {
        if let Err(fault) = compare::run(ops, writeback) {
            panic!("{fault}\nwriteback: {writeback:?}");
        }
    }
}

#[test]
fn nothing() {
    check(&[]);
}

#[test]
fn merged_directories_move_and_come_back() {
    check(&[
        Rename("d0", "n0", How::Replace),
        Mkdir("d0", 0o755),
        Readdir("d0"),
        Rename("n0", "d0", How::Replace),
        Readdir("d0"),
        Rename("d0", "d1/e", How::NoReplace),
        Rename("d1", "d2", How::Exchange),
        Remount,
        Readdir("d2"),
        Readdir("d1"),
    ]);
}

#[test]
fn hard_links_from_below() {
    check(&[
        Write("hard0", 100, 100, 1),
        Read("d1/hard2"),
        Link("hard1", "d0/n"),
        Unlink("hard0"),
        Stat("d0/n"),
        Rename("hard1", "d1/hard2", How::Replace),
        Stat("d1/hard2"),
        Kill,
        Chmod("d0/n", 0o600),
        Stat("d1/hard2"),
    ]);
}

#[test]
fn opaque_and_whited_out_names_are_used_again() {
    check(&[
        Create("d0/b", 0o644),
        Mkdir("b", 0o755),
        Readdir("b"),
        Unlink("m"),
        Mkdir("m", 0o755),
        Readdir("m"),
        Mkdir("d1/e", 0o700),
        Readdir("d1/e"),
        Rename("d2", "d1/e", How::Replace),
        Readdir("d1/e"),
    ]);
}

#[test]
fn descriptors_through_copy_up_and_unlink() {
    check(&[
        Open(0, "big", Open::Read),
        Open(1, "big", Open::ReadWrite),
        FdWrite(1, 4096, 10_000, 3),
        FdRead(0, 0, 150_000),
        Rename("big", "n", How::Replace),
        FdTruncate(1, 70_000),
        FdStat(0),
        Unlink("n"),
        FdWrite(1, 0, 100, 4),
        FdRead(0, 0, 10_000),
        Tmpfile(2, "d0"),
        FdWrite(2, 10, 100, 5),
        LinkTmpfile(2, "d0/n"),
        Read("d0/n"),
    ]);
}

#[test]
fn ranges_of_a_lower_file() {
    check(&[
        Fallocate("big", Falloc::Punch, 4095, 10_000),
        Fallocate("big", Falloc::ZeroKeepSize, 70_000, 4096),
        Fallocate("c", Falloc::Zero, 4096, 10_000),
        Fallocate("sparse", Falloc::Allocate, 70_000, 4096),
        Truncate("hard0", 4095),
        Truncate("hard1", 70_000),
        CopyRange("sparse", "big", 0, 8192, 150_000),
        CopyRange("big", "big", 0, 1 << 20, 150_000),
        Read("big"),
        Kill,
        Read("big"),
    ]);
}

#[test]
fn another_user() {
    check(&[
        As(1000),
        Write("suid", 0, 10, 1),
        Stat("suid"),
        Create("t/n", 0o600),
        Unlink("t/b"),
        Rename("t/a", "t/n", How::Replace),
        Create("d1/n", 0o2755),
        Mkdir("d1/x", 0o755),
        Chmod("u/a", 0o6755),
        Chown("u/a", None, Some(1001)),
        Link("a", "u/n"),
        Mknod("u/e", Char(1, 3), 0o600),
        Mknod("u/h", Fifo, 0o600),
        SetXattr("u/a", "trusted.a", 3),
        Utimens("a", 0, 0),
        Readdir("d0"),
    ]);
}

#[test]
fn a_chown_of_no_id_takes_setuid_of_what_is_ones_own() {
    check(&[
        As(1000),
        Chmod("u/a", 0o6755),
        Chown("u/a", None, None),
        Stat("u/a"),
        Chmod("u/b", 0o2745),
        Chown("u/b", None, None),
        Stat("u/b"),
        Chown("suid", None, None),
        As(0),
        Stat("suid"),
    ]);
}

#[test]
fn a_link_of_what_lost_setuid_is_refused() {
    check(&[As(1000), Write("suid", 0, 1, 35), Link("suid", "n0"), Stat("suid")]);
}

#[test]
fn what_was_opened_and_unlinked_gets_no_name() {
    check(&[
        Open(0, "fifo", Open::Path),
        Open(1, "null", Open::Path),
        Unlink("fifo"),
        Unlink("null"),
        FdStat(0),
        LinkTmpfile(0, "n0"),
        LinkTmpfile(1, "n0"),
        Open(2, "b", Open::Read),
        Unlink("b"),
        LinkTmpfile(2, "n0"),
        Open(2, "c", Open::Read),
        Unlink("c"),
        LinkTmpfile(2, "n0"),
        Stat("n0"),
        Open(3, "d0/e/n", Open::Read),
        Unlink("d0/e/n"),
        FdStat(3),
    ]);
}

#[test]
fn the_last_block_of_a_lower_file_is_data_to_its_end() {
    check(&[
        Truncate("big", 100),
        Truncate("big", 8192),
        SeekData("big"),
        Truncate("big", 4095),
        SeekData("big"),
        Truncate("m", 4096),
        SeekData("m"),
        Truncate("sparse", 100),
        Truncate("sparse", 4096),
        SeekData("sparse"),
    ]);
}

#[test]
fn preallocated_space_is_a_hole() {
    check(&[
        Create("n", 0o644),
        Fallocate("n", Falloc::Allocate, 0, 150_000),
        SeekData("n"),
        Write("n", 145_000, 5000, 1),
        SeekData("n"),
        Fallocate("n", Falloc::Zero, 140_000, 10_000),
        SeekData("n"),
        Fallocate("big", Falloc::Allocate, 310_000, 10_000),
        SeekData("big"),
        Remount,
        SeekData("n"),
        SeekData("big"),
    ]);
}

#[test]
fn zeroing_a_part_of_a_block_makes_it_data() {
    check(&[
        Fallocate("m", Falloc::Zero, 0, 4095),
        SeekData("m"),
        Fallocate("c", Falloc::Zero, 4096, 100),
        SeekData("c"),
        Fallocate("a", Falloc::ZeroKeepSize, 4095, 10_000),
        SeekData("a"),
        Fallocate("x", Falloc::Zero, 100, 10_000),
        SeekData("x"),
    ]);
}
