//! What cannot be mounted: an exit code, one line that names the fault, and nothing left behind.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use overcoat_tests::mount::{is_mounted, mounts_below};
use overcoat_tests::rng::{Rng, bytes};
use overcoat_tests::tool::Outcome;
use overcoat_tests::{Scratch, Spec, fsx, mount_tests, overcoat_only, store, tool};

const LIMIT: Duration = Duration::from_secs(20);

/// Asserts that this was one clear failure: `code`, one line that holds `word`, nothing left.
fn assert_refused(scratch: &Scratch, outcome: &Outcome, code: i32, word: &str) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "one line: {outcome:?}");
    assert!(outcome.stdout.is_empty(), "{outcome:?}");
    assert!(outcome.stderr.contains(word), "{word:?} is not named: {outcome:?}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome:?}");
    assert!(mounts_below(scratch.root()).is_empty(), "something is mounted: {outcome:?}");
    let left = tool::processes(tool::overcoat(), scratch.root());
    assert!(left.is_empty(), "{left:?} still run");
}

fn refuse(scratch: &Scratch, spec: &Spec, code: i32, word: &str) {
    let outcome = tool::overcoat_run(&spec.arguments(), LIMIT);
    assert_refused(scratch, &outcome, code, word);
}

/// A scratch directory whose filestore holds a few files; unmounted.
fn with_filestore(scratch: &Scratch) {
    let mount = Spec::of(scratch).mount();
    for number in 0..50 {
        fsx::write(mount.path(number.to_string()), bytes(number, 5000));
    }
    mount.unmount();
}

mount_tests! {
    fn missing_things(scratch) {
        overcoat_only!();
        let spec = Spec::of(scratch).lowers(&[scratch.path("nolower")]);
        refuse(scratch, &spec, 1, "nolower");
        let mut spec = Spec::of(scratch);
        spec.lowers.push(scratch.path("nosecond"));
        refuse(scratch, &spec, 1, "nosecond");
        let mut spec = Spec::of(scratch);
        spec.upper = Some(scratch.path("noupper"));
        refuse(scratch, &spec, 1, "noupper");
        assert!(!fsx::exists(scratch.path("noupper")), "half done");
        refuse(scratch, &Spec::of(scratch).at(scratch.path("nopoint")), 1, "nopoint");
        assert!(fsx::names(scratch.upper()).is_empty(), "half done: {:?}", fsx::names(scratch.upper()));
    }

    fn files_for_directories(scratch) {
        overcoat_only!();
        let file = scratch.path("afile");
        fsx::write(&file, "x");
        refuse(scratch, &Spec::of(scratch).lowers(std::slice::from_ref(&file)), 1, "afile");
        let mut spec = Spec::of(scratch);
        spec.upper = Some(file.clone());
        refuse(scratch, &spec, 1, "afile");
        refuse(scratch, &Spec::of(scratch).at(file), 1, "afile");
        assert!(fsx::names(scratch.upper()).is_empty(), "half done");
    }

    fn upper_and_lower_within_each_other(scratch) {
        overcoat_only!();
        let inside = scratch.dir("lower/inside");
        let mut spec = Spec::of(scratch);
        spec.upper = Some(inside.clone());
        refuse(scratch, &spec, 1, "inside");
        assert!(fsx::names(&inside).is_empty(), "half done");
        let mut spec = Spec::of(scratch).lowers(&[scratch.dir("upper/within")]);
        spec.upper = Some(scratch.upper());
        refuse(scratch, &spec, 1, "within");
        let mut spec = Spec::of(scratch);
        spec.upper = Some(scratch.lower());
        refuse(scratch, &spec, 1, "lower");
    }

    fn a_mount_point_inside_a_layer_does_not_hang(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("f"), "x");
        for point in [scratch.dir("lower/mnt"), scratch.lower(), scratch.upper(), scratch.dir("upper/mnt")] {
            let spec = Spec::of(scratch).at(point.clone());
            let outcome = tool::overcoat_run(&spec.arguments(), LIMIT);
            if outcome.code == Some(0) {
                // The view may show the mount point itself, but must not go round in circles.
                let mut find = Command::new("find");
                find.arg(&point).args(["-xdev"]);
                let seen = tool::run_limited(&mut find, LIMIT);
                overcoat_tests::mount::unmount_below(scratch.root());
                assert_eq!(seen.code, Some(0), "{}: {seen:?}", point.display());
            } else {
                assert_refused(scratch, &outcome, 1, "");
            }
        }
    }

    fn unknown_and_malformed_options(scratch) {
        overcoat_only!();
        let refuse_option = |option: &str, word: &str| {
            refuse(scratch, &Spec::of(scratch).option(option), 2, word);
        };
        refuse_option("nonsense", "nonsense");
        refuse_option("nonsense=1", "nonsense");
        refuse_option("size=much", "size");
        refuse_option("size=-1", "size");
        refuse_option("size=99999999999999999999g", "size");
        refuse_option("nr_inodes=x", "nr_inodes");
        refuse_option("medium=paper", "medium");
        refuse_option("transport=pigeon", "transport");
        refuse_option("uidmapping=1:2", "uidmapping");
        refuse_option("threads=0", "threads");
        refuse_option("threads=100000000", "threads");
        let mut without_upper = Spec::of(scratch).option("medium=memory");
        without_upper.upper = None;
        refuse(scratch, &without_upper, 1, "upperdir=");
        assert!(fsx::names(scratch.upper()).is_empty(), "half done");
    }

    fn no_lower_and_no_mount_point(scratch) {
        overcoat_only!();
        let point = scratch.dir("mnt").into_os_string();
        let upper = format!("upperdir={}", scratch.upper().display());
        let outcome = tool::overcoat_run(&["mount".into(), "-o".into(), upper.into(), point], LIMIT);
        if outcome.code == Some(0) {
            // An upper alone is a view too.
            overcoat_tests::mount::unmount_below(scratch.root());
        } else {
            assert_eq!(outcome.code, Some(2), "{outcome:?}");
        }
        let outcome = tool::overcoat_run(&["mount", "-o", "lowerdir=/"], LIMIT);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(!outcome.stderr.is_empty());
    }

    fn without_dev_fuse(scratch) {
        overcoat_only!();
        let spec = Spec::of(scratch);
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"]);
        command.arg(tool::overcoat()).args(spec.arguments());
        let outcome = tool::run_limited(&mut command, LIMIT);
        assert_refused(scratch, &outcome, 1, "/dev/fuse");
    }

    fn damaged_superblock(scratch) {
        overcoat_only!();
        with_filestore(scratch);
        let path = store::path(&scratch.upper());
        let good = fsx::read(&path);
        let damaged = |slots: &[usize], at: usize, len: usize| {
            let mut bad = good.clone();
            slots.iter().for_each(|slot| bad[slot + at..][..len].copy_from_slice(&bytes(3, len)));
            bad
        };
        for (at, len) in [(0, 8), (0, 4096), (8, 8), (100, 64)] {
            let bad = damaged(&[0, 4096], at, len);
            fsx::write(&path, &bad);
            refuse(scratch, &Spec::of(scratch), 1, store::NAME);
            assert!(fsx::read(&path) == bad, "what cannot be read must not be changed");
            let check = tool::overcoat_run(&["check".as_ref(), path.as_os_str()], LIMIT);
            assert_eq!(check.code, Some(1), "{check:?}");
        }
        for slot in [0, 4096] {
            fsx::write(&path, damaged(&[slot], 0, 512));
            let check = tool::overcoat_run(&["check".as_ref(), path.as_os_str()], LIMIT);
            assert_eq!(check.code, Some(1), "a damaged copy is told: {check:?}");
            let mount = Spec::of(scratch).mount();
            for number in 0..50 {
                assert!(fsx::read(mount.path(number.to_string())) == bytes(number, 5000));
            }
            mount.unmount();
            store::assert_clean(&scratch.upper());
        }
        fsx::write(&path, &good);
        store::assert_clean(&scratch.upper());
    }

    fn truncated_filestore(scratch) {
        overcoat_only!();
        with_filestore(scratch);
        let path = store::path(&scratch.upper());
        let good = fsx::read(&path);
        for len in [1, 100, 4095, 4096, 8192, good.len() / 2] {
            fsx::write(&path, &good[..len]);
            let outcome = tool::overcoat_run(&Spec::of(scratch).arguments(), LIMIT);
            assert_refused(scratch, &outcome, 1, store::NAME);
            assert!(fsx::read(&path) == good[..len], "what cannot be read must not be changed");
        }
    }

    fn something_else_in_place_of_the_filestore(scratch) {
        overcoat_only!();
        let path = store::path(&scratch.upper());
        let victim = scratch.path("victim");
        fsx::write(&victim, "precious");
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        refuse(scratch, &Spec::of(scratch), 1, store::NAME);
        assert_eq!(fsx::read(&victim), b"precious");
        std::fs::remove_file(&path).unwrap();
        fsx::mkdir(&path);
        refuse(scratch, &Spec::of(scratch), 1, store::NAME);
        std::fs::remove_dir(&path).unwrap();
        fsx::mknod(&path, rustix::fs::FileType::Fifo, 0o600, (0, 0)).unwrap();
        refuse(scratch, &Spec::of(scratch), 1, store::NAME);
        std::fs::remove_file(&path).unwrap();
        fsx::write(&path, vec![b'x'; 100_000]);
        refuse(scratch, &Spec::of(scratch), 1, store::NAME);
    }

    fn check_of_what_is_no_filestore(scratch) {
        overcoat_only!();
        fsx::write(scratch.path("text"), "nothing of the kind");
        for path in [scratch.path("text"), scratch.path("missing"), scratch.lower()] {
            let outcome = tool::overcoat_run(&["check".as_ref(), path.as_os_str()], LIMIT);
            assert_eq!(outcome.code, Some(1), "{outcome:?}");
            assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        }
    }

    /// Random bytes of a good filestore are changed: mount and check say so in a line or go on, without a
    /// panic, a hang or an endless file. `OVERCOAT_TEST_FUZZ` sets the number of rounds.
    fn random_damage_is_told_or_survived(scratch) {
        overcoat_only!();
        with_filestore(scratch);
        let rounds = std::env::var("OVERCOAT_TEST_FUZZ").map_or(60, |text| text.parse().unwrap());
        let mut rng = Rng::from_env("fuzz");
        let path = store::path(&scratch.upper());
        let good = fsx::read(&path);
        // Where the metadata are, most likely; and anywhere.
        let interesting: Vec<usize> =
            (0..good.len()).filter(|offset| good[offset - offset % 64..].iter().take(64).any(|b| *b != 0)).collect();
        for round in 0..rounds {
            let mut bad = good.clone();
            for _ in 0..=rng.below(8) {
                let offset = *rng.pick(&interesting);
                bad[offset] = u8::try_from(rng.below(256)).unwrap();
            }
            if rng.one_in(8) {
                bad.truncate(usize::try_from(rng.below(good.len() as u64)).unwrap());
            }
            fsx::write(&path, &bad);
            assert_sane(scratch, round, &bad);
        }
    }
}

/// One damaged filestore, checked, mounted and walked.
fn assert_sane(scratch: &Scratch, round: u64, bad: &[u8]) {
    let path = store::path(&scratch.upper());
    let keep = || {
        let kept = scratch.path(&format!("damaged-{round}"));
        fsx::write(&kept, bad);
        kept
    };
    let check = tool::overcoat_run(&["check".as_ref(), path.as_os_str()], LIMIT);
    let told = matches!(check.code, Some(0 | 1)) && !check.stderr.contains("panicked");
    assert!(told, "round {round}: check: {check:?}; kept in {}", keep().display());
    let spec = Spec::of(scratch);
    let outcome = tool::overcoat_run(&spec.arguments(), LIMIT);
    match outcome.code {
        Some(0) => {
            let walk = walk(&spec.point);
            overcoat_tests::mount::unmount_below(scratch.root());
            tool::eventually("the daemon's end", LIMIT, || {
                tool::processes(tool::overcoat(), scratch.root()).is_empty()
            });
            // Data and whole operations have no second copy: a bad one reads as an error or as it
            // is. What must not happen is that the daemon goes down or hangs.
            let alive = walk.code.is_some() && !walk.stderr.contains("not connected");
            assert!(alive, "round {round}: {walk:?}; kept in {}", keep().display());
        }
        Some(1) => {
            let quiet = outcome.stderr.lines().count() == 1 && !is_mounted(&spec.point);
            assert!(quiet, "round {round}: {outcome:?}; kept in {}", keep().display());
        }
        _ => panic!("round {round}: {outcome:?}; kept in {}", keep().display()),
    }
}

fn walk(root: &Path) -> Outcome {
    let script =
        "find . -ls >/dev/null; cat * >/dev/null; echo x >new; rm -f new 0 1 2; ls >/dev/null";
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).current_dir(root);
    command.env("LC_ALL", "C");
    tool::run_limited(&mut command, LIMIT)
}

#[test]
fn usage_errors() {
    if overcoat_tests::Driver::from_env() != overcoat_tests::Driver::Overcoat {
        return;
    }
    for arguments in [&["--nonsense"][..], &["mount"], &["nonsense"], &["check"]] {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let outcome = tool::overcoat_run(&arguments, LIMIT);
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {outcome:?}");
        assert!(!outcome.stderr.is_empty(), "{arguments:?}");
    }
}
