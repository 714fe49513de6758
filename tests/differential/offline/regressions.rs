//! Differences that were found, as the shortened lists that showed them, and the plainest cases.

use super::check;
use super::step::Change::{
    CoarseCopy, Copy, Insert, Link, Mkdir as HostMkdir, Move, Remove, Replace, Symlink,
};
use super::step::Step::{Change as C, Op as O};
use crate::op::Op::*;
use crate::op::Rename as How;

const STAMP: i64 = 1_250_000_000;

#[test]
fn a_file_replaced_on_the_host_does_not_hide_its_change() {
    check(&[
        C(Replace(0, "d/a", 5000, STAMP)),
        C(Replace(0, "d/b", 5000, STAMP + 1)),
        O(Write("d/a", 0, 10_000, 1)),
        O(Chmod("d/b", 0o600)),
        C(Replace(0, "d/a", 5000, STAMP + 2)),
        C(Replace(0, "d/b", 4096, STAMP + 3)),
    ]);
}

#[test]
fn a_layer_put_on_top_does_not_hide_what_was_changed() {
    check(&[
        O(Write("a", 0, 4096, 1)),
        O(Create("d/x", 0o600)),
        O(Unlink("d/e/b")),
        O(Rename("f", "n/e/c", How::Replace)),
        C(Insert(0, 7)),
        C(Insert(0, 8)),
        O(Write("d/a", 1, 4096, 2)),
    ]);
}

#[test]
fn an_upper_goes_on_over_copies_of_its_layers() {
    check(&[
        C(Replace(0, "d/a", 30_000, STAMP)),
        O(Write("d/a", 8192, 1, 1)),
        O(Chmod("d/e/a", 0o640)),
        O(Rename("d/e", "n/x", How::Replace)),
        C(Copy(0)),
        C(Copy(1)),
        O(Append("d/a", 100, 2)),
        C(CoarseCopy(0)),
        C(CoarseCopy(1)),
        O(Truncate("d/a", 9_999)),
    ]);
}

#[test]
fn a_name_that_another_inode_got_shows_its_own_bytes() {
    check(&[
        C(Replace(0, "d/a", 5000, STAMP)),
        C(Replace(0, "d/b", 6000, STAMP + 1)),
        O(Write("d/a", 0, 4096, 1)),
        C(Remove(0, "d/a")),
        C(Move(0, "d/b", "d/a")),
        C(Replace(0, "d/c", 5000, STAMP + 2)),
    ]);
}

#[test]
fn a_directory_is_removed_by_names_whatever_the_layers_have_now() {
    check(&[
        C(HostMkdir(0, "n/x")),
        C(Replace(0, "n/x/a", 10, STAMP)),
        O(Unlink("n/x/a")),
        C(Remove(0, "n/x/a")),
        C(Replace(0, "n/x/b", 10, STAMP + 1)),
        O(Rmdir("n/x")),
        O(Unlink("n/x/b")),
        O(Rmdir("n/x")),
        C(Replace(1, "n/x/c", 10, STAMP + 2)),
    ]);
}

#[test]
fn a_file_where_there_was_a_directory_and_the_other_way_round() {
    check(&[
        O(Chmod("d/e", 0o700)),
        O(Write("d/e/a", 0, 100, 1)),
        O(Chmod("f/a", 0o600)),
        C(Replace(0, "d/e", 100, STAMP)),
        C(HostMkdir(0, "f/a")),
        C(Symlink(1, "d/e")),
        O(Readdir("d/e")),
        C(Remove(0, "d/e")),
        C(Remove(1, "d/e")),
        O(Rename("d/e", "n/c", How::Replace)),
    ]);
}

/// Removing one name of several is no change of the others.
#[test]
fn the_other_name_of_a_removed_one_goes_with_the_layers() {
    check(&[C(Link(0, "n/c", "d/x")), O(Unlink("n/c")), C(Remove(0, "d/x"))]);
}

#[test]
#[ignore = "not yet: removing a name of several writes an entry, with its attributes, for another name"]
fn the_other_name_of_a_removed_one_has_the_attributes_of_the_layers() {
    check(&[C(Link(0, "n/c", "f/e/c")), O(Unlink("n/c")), C(CoarseCopy(2))]);
}
