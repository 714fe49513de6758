//! What runs in a guest of the qemu tests, as the only child of its init. It prints lines for the host:
//!
//! ```text
//! feature NAME VALUE        what this kernel and Overcoat have together
//! failed NAME REASON        a feature that could not be examined, or is wrong
//! test NAME ... ok          of the mount tests
//! end                       all was run
//! ack WRITER NUMBER         a writer's work up to there is durable (see `power.rs`)
//! done WRITER NUMBER        it was done up to there
//! ```

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's failure")]

mod features;
mod power;

use std::process::{Command, Stdio};

/// The mount tests that run in a guest; one name a line.
const TESTS: &str = "/tests";

/// The mount tests' program.
const MOUNT_TESTS: &str = "/bin/mount-tests";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["kernel"] => {
            turn_uring_on();
            each_feature();
            mount_tests("transport=dev");
            if features::uring_is_on() {
                mount_tests("transport=uring");
            }
            println!("end");
        }
        ["power", seed, options] => power::work_until_cut(seed.parse().unwrap(), options),
        ["feature", name] => println!("{}", features::examine(name)),
        _ => panic!("{arguments:?}"),
    }
}

/// Older kernels have no such parameter.
fn turn_uring_on() {
    if std::path::Path::new(features::ENABLE_URING).exists() {
        std::fs::write(features::ENABLE_URING, "Y").unwrap();
    }
}

/// Examines each feature in a process of its own, so that a panic is one result among others.
fn each_feature() {
    for name in features::NAMES {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args(["feature", name]).stderr(Stdio::inherit()).output().unwrap();
        let value = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            println!("feature {name} {}", value.trim());
        } else {
            println!("failed {name} {}", output.status);
        }
    }
}

/// Runs the mount tests of the list with more mount options. They print their results themselves.
fn mount_tests(options: &str) {
    let list = std::fs::read_to_string(TESTS).unwrap();
    let mut command = Command::new(MOUNT_TESTS);
    command.args(["--test-threads=1", "--exact"]).args(list.lines());
    command.env("OVERCOAT_TEST_OPTIONS", options);
    println!("with {options}");
    println!("tests: {}", command.status().unwrap());
}
