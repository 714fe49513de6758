//! `fsx`: random operations on one file, each read compared with what should be there.
//!
//! `OVERCOAT_TEST_FSX_OPS` sets how many operations a run has (100,000 by default),
//! `OVERCOAT_TEST_FSX_SEED` the first seed.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use overcoat_tests::{Disk, Scratch, Spec, mount_tests, tool};

use crate::installed;

/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Everything the program can do to a file.
const ALL: &str = "\
flen = 1048576
[opsize]
max = 65536
[weights]
close_open = 2
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 4
fsync = 0.5
fdatasync = 0.5
posix_fallocate = 3
punch_hole = 5
sendfile = 5
posix_fadvise = 2
copy_file_range = 5
";

/// Whole blocks only: ranges meet at their ends. No posix_fallocate: fsx 0.3.2, told to align, asks for no bytes at
/// all, which is EINVAL on every file system.
const BLOCKS: &str = "\
flen = 262144
[opsize]
min = 4096
max = 32768
align = 4096
[weights]
read = 10
write = 10
mapread = 10
mapwrite = 10
truncate = 10
punch_hole = 20
copy_file_range = 20
";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// Runs the program on the file `name` of a fresh mount whose syncs reach a disk in memory.
fn exercise(scratch: &Scratch, config: &str, name: &str, run: u64) {
    let Some(program) = installed("fsx", "OVERCOAT_FSX") else { return };
    let disk = Disk::in_memory(scratch, 256);
    let mut spec = Spec::of(scratch);
    spec.upper = Some(disk.dir("upper"));
    let mount = spec.mount();
    run_fsx(&program, scratch, config, &mount.path(name), run);
    mount.unmount();
    if spec.driver == overcoat_tests::Driver::Overcoat {
        let check =
            tool::overcoat_run(&[OsStr::new("check"), disk.dir("upper").as_os_str()], LIMIT);
        assert_eq!(check.code, Some(0), "{check:?}");
    }
}

fn run_fsx(program: &Path, scratch: &Scratch, config: &str, file: &Path, run: u64) {
    let settings = scratch.path("fsx.toml");
    std::fs::write(&settings, config).unwrap();
    let seed = number("OVERCOAT_TEST_FSX_SEED", 1) + run;
    let mut command = Command::new(program);
    command.arg("-f").arg(&settings).arg("-P").arg(scratch.dir("artifacts"));
    command.args(["-N", &number("OVERCOAT_TEST_FSX_OPS", 100_000).to_string()]);
    command.args(["-S", &seed.to_string()]).arg(file);
    let outcome = tool::run_limited(&mut command, LIMIT);
    assert_eq!(outcome.code, Some(0), "seed {seed}: {outcome:?}");
    assert!(outcome.stdout.contains("All operations completed"), "seed {seed}: {outcome:?}");
}

mount_tests! {
    fn everything_on_a_new_file(scratch) {
        exercise(scratch, ALL, "new", 0);
    }

    /// Truncated by the program's open; what the layer holds may not come back when it grows again.
    fn everything_on_a_file_of_a_layer(scratch) {
        std::fs::write(scratch.lower().join("old"), vec![0xA5; 700_001]).unwrap();
        exercise(scratch, ALL, "old", 1);
    }

    fn whole_blocks(scratch) {
        exercise(scratch, BLOCKS, "new", 2);
    }
}
