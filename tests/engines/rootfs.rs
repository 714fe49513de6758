//! A whole Debian in a mount: packages, a compiler, git and a database at work in it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use overcoat_tests::{
    Manifest, Mount, Spec, fsx, manifest, mount_tests, overcoat_only, store, tool,
};
use rustix::fs::FileType;

/// How long one step may take.
const LIMIT: Duration = Duration::from_secs(600);

/// The lower: a minimal Debian, made once and kept beside the build. It is nothing but packages, so a later
/// run may as well have it.
fn debian() -> PathBuf {
    let os = String::from_utf8(fsx::read("/etc/os-release")).unwrap();
    let codename = os.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = codename.unwrap_or("stable");
    let cache = tool::target_dir().join("test-cache");
    let root = cache.join(format!("debian-{suite}"));
    if !root.exists() {
        let unfinished = cache.join(format!("debian-{suite}.{}", std::process::id()));
        std::fs::create_dir_all(&unfinished).unwrap();
        let mut command = Command::new("debootstrap");
        command.args(["--variant=minbase", suite]).arg(&unfinished).args(mirror());
        let outcome = tool::run_limited(&mut command, LIMIT);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        std::fs::rename(unfinished, &root).unwrap();
    }
    root
}

/// Where this machine has its packages from; `None`: debootstrap knows.
fn mirror() -> Option<String> {
    let places = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
    let texts = places.iter().filter_map(|place| std::fs::read_to_string(place).ok());
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).find_map(|line| {
        let told = line.starts_with("URIs:") || line.starts_with("deb ");
        line.split_whitespace().find(|word| told && word.starts_with("http")).map(str::to_owned)
    })
}

/// Gives the root this machine's sources of packages, names of hosts and certificates.
fn connect(root: &Path) {
    let script = "cp -aT /etc/apt $0/etc/apt
        cp -a /usr/share/keyrings/. $0/usr/share/keyrings/
        cp -L /etc/hosts /etc/resolv.conf $0/etc/
        [ ! -d /etc/ssl/certs ] || { mkdir -p $0/etc/ssl && cp -rL /etc/ssl/certs $0/etc/ssl/; }";
    tool::run("bash", &["-ec".as_ref(), script.as_ref(), root.as_os_str()]);
}

/// Runs a script in the root, in a namespace of mounts and processes of its own: nothing of it stays.
#[track_caller]
fn inside(mount: &Mount, script: &str) -> String {
    let mut proc = std::ffi::OsString::from("--mount-proc=");
    proc.push(mount.path("proc"));
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child"]).arg(proc);
    command.arg("chroot").arg(mount.root()).args(["/bin/sh", "-ec", script]);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root").env("LC_ALL", "C");
    command.env("DEBIAN_FRONTEND", "noninteractive").env_remove("TMPDIR");
    let outcome = tool::run_limited(&mut command, LIMIT);
    assert_eq!(outcome.code, Some(0), "{script}\n{}\n{}", outcome.stdout, outcome.stderr);
    outcome.stdout
}

const INSTALL: &str = "apt-get -q update
    apt-get -qy install --no-install-recommends gcc libc6-dev git python3 make";

const COMPILE: &str = r#"mkdir /work && cd /work
    printf '#include <stdio.h>\nint answer(void);\nint main(void) { printf("%%d\\n", answer()); }\n' >main.c
    printf 'int answer(void) { return 42; }\n' >answer.c
    printf 'program: main.o answer.o\n\t$(CC) -o $@ $^\n' >Makefile
    make -s
    ./program"#;

const GIT: &str = "cd /work && cp -r /usr/include include
    git init -q -b main . && git config user.name t && git config user.email t@example.org
    git add . && git commit -q -m one
    git checkout -q -b other && git rm -q -r include/linux && echo 'int x;' >>answer.c && git commit -q -am two
    git checkout -q main && git diff --exit-code main -- && cmp include/linux/fuse.h /usr/include/linux/fuse.h
    git gc -q && git fsck --strict && git status --porcelain";

const SQLITE: &str = r#"python3 -c '
import sqlite3
db = sqlite3.connect("/srv/db")
db.execute("create table t (n integer primary key, v blob)")
for n in range(300):
    db.execute("insert into t values (?, randomblob(1000))", (n,))
    db.commit()
'"#;

/// What is right after all of that, in this mount and in the next one.
const LOOK: &str = r#"cd /work && ./program && git fsck --strict && git status --porcelain
    python3 -c '
import sqlite3
db = sqlite3.connect("/srv/db")
print(*db.execute("pragma integrity_check").fetchone(), *db.execute("select count(*), sum(n) from t").fetchone())
'"#;

/// The bytes that files of `after` take of the disk and which are none of `before`.
fn new_bytes(before: &Manifest, after: &Manifest) -> u64 {
    let old: HashMap<u64, _> =
        before.0.values().map(|node| (node.ino, (node.hash, node.size))).collect();
    let mut seen = HashSet::new();
    let files = after.0.values().filter(|node| {
        FileType::from_raw_mode(node.mode.into()) == FileType::RegularFile
            && old.get(&node.ino) != Some(&(node.hash, node.size))
            && seen.insert(node.ino)
    });
    files.map(|node| node.blocks * 512).sum()
}

/// A figure of `overcoat usage`, in bytes.
fn usage(upper: &Path, what: &str) -> u64 {
    let outcome = tool::overcoat_run(&["usage".as_ref(), upper.as_os_str()], LIMIT);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let line = outcome.stdout.lines().find(|line| line.starts_with(what));
    let bytes = line.and_then(|line| line.split_once('(')?.1.split_once(" bytes")?.0.parse().ok());
    bytes.unwrap_or_else(|| panic!("no {what}: {outcome:?}"))
}

#[track_caller]
fn assert_close(left: u64, right: u64, what: &str) {
    let allowed = right / 100 + (1 << 20);
    assert!(left.abs_diff(right) <= allowed, "{what}: {left} | {right}, {allowed} allowed");
}

mount_tests! {
    fn a_debian_root_at_work(scratch) {
        overcoat_only!();
        if !overcoat_tests::have(&["debootstrap", "unshare", "chroot"]) {
            return;
        }
        let lower = debian();
        let before = manifest::of_layer(&lower);
        let spec = Spec::of(scratch).lowers(std::slice::from_ref(&lower));
        let mount = spec.mount();
        let untouched = Manifest::of(mount.root());

        connect(mount.root());
        inside(&mount, INSTALL);
        let said = inside(&mount, "dpkg --audit; dpkg --verify | grep -v ' c /' || true");
        assert_eq!(said, "", "dpkg finds files that are not its own");
        assert_eq!(inside(&mount, COMPILE), "42\n");
        assert_eq!(inside(&mount, GIT), "");
        inside(&mount, SQLITE);
        inside(&mount, "rm -rf /usr/share && ! ls /usr/share 2>/dev/null && mkdir /usr/share && echo x >/usr/share/x");
        assert_eq!(inside(&mount, LOOK), "42\nok 300 44850\n");
        let now = Manifest::of(mount.root());
        mount.unmount();

        let mount = spec.mount();
        now.assert_same(&Manifest::of(mount.root()), "what the next mount shows");
        assert_eq!(inside(&mount, LOOK), "42\nok 300 44850\n");
        assert_eq!(fsx::names(mount.path("usr/share")), ["x"]);
        mount.unmount();

        before.assert_same(&manifest::of_layer(&lower), "the lower, before and after");
        let upper = scratch.upper();
        store::assert_clean(&upper);
        let data = usage(&upper, "data");
        assert_close(data, new_bytes(&untouched, &now), "data in the filestore | of new files");
        let du = tool::run("du", &["-s".as_ref(), "-B1".as_ref(), upper.as_os_str()]);
        let du = du.split_whitespace().next().unwrap().parse().unwrap();
        assert_close(du, data + usage(&upper, "journal"), "du of the upperdir | live");
    }
}
