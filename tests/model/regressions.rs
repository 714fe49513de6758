//! Sequences that once went wrong.

use super::lowers::{Step, What};
use super::op::{At, Make, Op};
use super::{Ground, run};

fn went_wrong(ops: &[Op]) {
    if let Err(err) = run(&Ground::default(), ops) {
        panic!("{err}");
    }
}

fn make(name: u8, what: Make) -> Op {
    Op::Make { at: At { dir: 0, name }, what, mode: 0o644, umask: 0o22, who: 0 }
}

fn gone(name: u8) -> Op {
    Op::Unlink(At { dir: 0, name })
}

fn write(at: u64, len: u64) -> Op {
    Op::Write { file: 0, at, len, kill: false }
}

#[test]
fn a_file_copied_to_its_own_end_is_copied_once() {
    let copy = Op::Copy { from: 0, at: 0, to: 0, to_at: 16384, len: 12288 };
    went_wrong(&[make(200, Make::File), write(0, 8194), copy]);
}

#[test]
fn a_file_open_and_unlinked_at_the_end_of_a_mount_leaves_nothing() {
    for end in [Op::Remount, Op::Kill] {
        let twice = [end, Op::Remount];
        went_wrong(&[&[make(200, Make::File), write(0, 50_000), gone(0)][..], &twice].concat());
    }
}
