//! Sequences that once went wrong.

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

#[test]
fn a_directory_that_takes_the_place_of_one_nobody_knows_is_counted_once() {
    let mkdir = |dir, name| Op::Make {
        at: At { dir, name },
        what: Make::Dir,
        mode: 0o755,
        umask: 0,
        who: 0,
    };
    let (from, to) = (At { dir: 1, name: 0 }, At { dir: 1, name: 1 });
    let rename = Op::Rename { from, to, flags: 0 };
    went_wrong(&[mkdir(0, 200), mkdir(1, 201), mkdir(1, 202), Op::ForgetAll, rename]);
}
