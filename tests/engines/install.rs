//! `make install`, and mounting with what it puts in place.

use std::process::Command;
use std::time::Duration;

use overcoat_tests::{Scratch, Spec, fsx, mount_tests, overcoat_only, tool};

const LIMIT: Duration = Duration::from_secs(60);

/// Makes `/sbin`, where mount(8) looks for its helpers, an empty directory but for those of FUSE itself, installs
/// there, and goes on with the script that follows. `$1` is the scratch directory, `$2` the binary, `$3` the options.
const INSTALLED: &str = r#"
    mkdir -p $1/sbin $1/mnt
    cp -P /sbin/mount.fuse* $1/sbin/
    mount --bind $1/sbin /sbin
    rm -f /sbin/mount.fuse.overcoat
    make -s install BINARY=$2 PREFIX=$1/prefix
    export PATH=$1/prefix/bin:$PATH
"#;

/// Runs a script in a mount namespace of its own, at the root of the sources.
#[track_caller]
fn installed(scratch: &Scratch, script: &str) -> String {
    let options =
        format!("lowerdir={},upperdir={}", scratch.lower().display(), scratch.upper().display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-euc", &format!("{INSTALLED}{script}"), "bash"]);
    command.arg(scratch.root()).arg(tool::overcoat()).arg(options);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let outcome = tool::run_limited(&mut command, LIMIT);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    tool::eventually("the daemon's end", LIMIT, || {
        tool::processes(tool::overcoat(), scratch.root()).is_empty()
    });
    outcome.stdout
}

mount_tests! {
    fn installing_into_a_staging_directory(scratch) {
        let stage = scratch.path("stage");
        let mut command = Command::new("make");
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        command.args(["-s", "install", "PREFIX=/usr", "SBINDIR=/usr/sbin"]);
        command.arg(format!("BINARY={}", tool::overcoat().display()));
        command.arg(format!("DESTDIR={}", stage.display()));
        let outcome = tool::run_limited(&mut command, LIMIT);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(fsx::read(stage.join("usr/bin/overcoat")), fsx::read(tool::overcoat()));
        let helper = std::fs::read_link(stage.join("usr/sbin/mount.fuse.overcoat")).unwrap();
        assert_eq!(helper.to_str(), Some("/usr/bin/overcoat"));
        let helper = std::fs::read_link(stage.join("usr/sbin/umount.fuse.overcoat")).unwrap();
        assert_eq!(helper.to_str(), Some("/usr/bin/overcoat"));
    }

    fn mount_8_finds_the_helper(scratch) {
        overcoat_only!();
        let said = installed(scratch, r#"
            mount -t fuse.overcoat a-source $1/mnt -o "$3,noatime"
            findmnt -no SOURCE,FSTYPE $1/mnt; echo x >$1/mnt/f; umount $1/mnt"#);
        assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["a-source", "fuse.overcoat"]);
        assert_eq!(fsx::names(Spec::of(scratch).mount().root()), ["f"]);
    }

    fn the_helper_of_fuse_finds_the_program(scratch) {
        overcoat_only!();
        let said = installed(scratch, r#"
            mount.fuse3 a-source $1/mnt -o "$3" -t overcoat
            findmnt -no SOURCE,FSTYPE $1/mnt; echo x >$1/mnt/f; umount $1/mnt
            # mount(8) starts it with the usual PATH only.
            rm /sbin/mount.fuse.overcoat; cp $2 /sbin/overcoat
            mount -t fuse.overcoat b-source $1/mnt -o "$3"
            findmnt -no SOURCE,FSTYPE $1/mnt; cat $1/mnt/f; umount $1/mnt"#);
        let expected = ["a-source", "fuse.overcoat", "b-source", "fuse.overcoat", "x"];
        assert_eq!(said.split_whitespace().collect::<Vec<_>>(), expected);
    }

    fn an_fstab_line_and_a_source_with_both_layers(scratch) {
        overcoat_only!();
        fsx::write(scratch.lower().join("f"), "x");
        installed(scratch, r#"
            echo "$1 $1/mnt fuse.overcoat noauto,nofail,x-systemd.automount,nosuid 0 0" >$1/fstab
            mount -T $1/fstab $1/mnt; test "$(cat $1/mnt/f)" = x
            findmnt -no OPTIONS $1/mnt | grep -q nosuid
            test -z "$(mount -T $1/fstab -o remount,ro $1/mnt 2>&1)"
            findmnt -no OPTIONS $1/mnt | grep -q ^ro,; umount $1/mnt"#);
    }
}
