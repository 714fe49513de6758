//! Examines what a kernel and Overcoat have together. Each function returns a word for the table in
//! `doc/OPERATIONS.md`, or panics where something is wrong.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use overcoat_tests::{Scratch, Spec, fsx, tool};
use rustix::fs::{OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, OpenTreeFlags};

/// All features, in the order of the table.
pub const NAMES: [&str; 8] = [
    "protocol",
    "transport",
    "passthrough",
    "birth-times",
    "tmpfile",
    "kill-priv",
    "idmapped",
    "resend",
];

pub const ENABLE_URING: &str = "/sys/module/fuse/parameters/enable_uring";

const LIMIT: Duration = Duration::from_secs(30);

/// Examines one feature.
///
/// # Panics
/// When something is wrong, which is neither "has it" nor "has it not".
pub fn examine(name: &str) -> String {
    let scratch = Scratch::new(name);
    match name {
        "protocol" => format!("7.{}", Offer::of_kernel(&scratch).minor),
        "transport" => transport(&scratch).into(),
        "passthrough" => yes_or_no(passthrough(&scratch)),
        "birth-times" => yes_or_no(birth_times(&scratch)),
        "tmpfile" => yes_or_no(tmpfile(&scratch)),
        "kill-priv" => yes_or_no(kill_priv(&scratch)),
        "idmapped" => yes_or_no(idmapped(&scratch)),
        "resend" => yes_or_no(Offer::of_kernel(&scratch).flags & 1 << 39 != 0),
        _ => panic!("no feature {name}"),
    }
}

fn yes_or_no(has: bool) -> String {
    if has { "yes" } else { "no" }.into()
}

pub fn uring_is_on() -> bool {
    std::fs::read_to_string(ENABLE_URING).is_ok_and(|value| value.trim() == "Y")
}

/// A mount with a log.
struct Logged {
    spec: Spec,
    log: PathBuf,
}

impl Logged {
    /// # Errors
    /// What the mount printed when it failed.
    fn mount(scratch: &Scratch, option: &str) -> Result<Self, String> {
        let log = scratch.path("log");
        let spec = Spec::of(scratch).option(option);
        let mut arguments = spec.arguments();
        arguments.insert(1, "--log".into());
        arguments.insert(2, log.clone().into());
        let outcome = tool::overcoat_run(&arguments, LIMIT);
        match outcome.code {
            Some(0) => Ok(Self { spec, log }),
            Some(1) => Err(outcome.stderr),
            _ => panic!("{outcome:?}"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.spec.point.join(name)
    }

    /// Unmounts it. Returns the log, the last line of which counts the requests.
    fn end(self) -> String {
        rustix::mount::unmount(&self.spec.point, rustix::mount::UnmountFlags::empty()).unwrap();
        tool::eventually("the daemon's end", LIMIT, || {
            tool::processes(tool::overcoat(), &self.spec.point).is_empty()
        });
        std::fs::read_to_string(&self.log).unwrap()
    }
}

/// How many requests of a kind the log of a mount counts.
fn served(log: &str, request: &str) -> u64 {
    let line =
        log.lines().find_map(|line| line.split_once("served ")).expect("a count of requests").1;
    let mut counts = line.split(", ").filter_map(|count| count.split_once(' '));
    counts.find(|(kind, _)| *kind == request).map_or(0, |(_, count)| {
        let digits: String = count.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    })
}

/// What the kernel offers a FUSE daemon.
struct Offer {
    minor: u32,
    flags: u64,
}

impl Offer {
    /// Reads the first request of a FUSE mount and hangs up.
    fn of_kernel(scratch: &Scratch) -> Self {
        let mut device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let point = scratch.dir("probe");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount(
            "probe",
            &point,
            "fuse",
            MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .unwrap();
        let mut request = [0; 8192];
        let len = device.read(&mut request).unwrap();
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        // struct fuse_in_header (40 bytes), then struct fuse_init_in.
        assert_eq!((word(4), word(40)), (26, 7), "FUSE_INIT of protocol 7 comes first");
        let upper = if len >= 40 + 20 { word(40 + 16) } else { 0 };
        let minor = word(44);
        let flags = u64::from(word(40 + 12)) | u64::from(upper) << 32;
        drop(device);
        rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH).unwrap();
        Self { minor, flags }
    }
}

/// What serves a mount that takes the best there is.
fn transport(scratch: &Scratch) -> &'static str {
    let mount = Logged::mount(scratch, "transport=auto").unwrap();
    fsx::write(mount.path("file"), "data");
    if mount.end().contains("serving over io_uring") { "io_uring" } else { "/dev/fuse" }
}

/// Whether a file of a layer is read without the daemon.
fn passthrough(scratch: &Scratch) -> bool {
    let data = vec![b'x'; 1 << 20];
    fsx::write(scratch.lower().join("file"), &data);
    let mount = match Logged::mount(scratch, "passthrough=on") {
        Ok(mount) => mount,
        Err(line) => {
            assert!(line.contains("passthrough") && line.lines().count() == 1, "{line}");
            return false;
        }
    };
    assert!(fsx::read(mount.path("file")) == data);
    assert_eq!(served(&mount.end(), "read"), 0, "it was promised");
    true
}

/// Whether a file has the time at which it was made.
fn birth_times(scratch: &Scratch) -> bool {
    let mount = Spec::of(scratch).mount();
    fsx::write(scratch.path("before"), "");
    fsx::write(mount.path("file"), "");
    let (before, about) = (fsx::statx(scratch.path("before")), fsx::statx(mount.path("file")));
    if about.stx_mask & StatxFlags::BTIME.bits() == 0 {
        return false;
    }
    let age = about.stx_btime.tv_sec - before.stx_mtime.tv_sec;
    assert!((0..10).contains(&age), "born {age} s after the file before it");
    true
}

/// Whether an unnamed file can be made and named.
fn tmpfile(scratch: &Scratch) -> bool {
    let mount = Spec::of(scratch).mount();
    match fsx::tmpfile(mount.root(), OFlags::RDWR) {
        Ok(mut file) => {
            file.write_all(b"unnamed").unwrap();
            fsx::link_tmpfile(&file, mount.path("named")).unwrap();
            assert_eq!(fsx::read(mount.path("named")), b"unnamed");
            true
        }
        Err(Errno::OPNOTSUPP) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Whether the kernel leaves it to the daemon to clear setuid, setgid and capabilities. Otherwise it asks for the
/// file's capability before each write. They are cleared in both cases.
fn kill_priv(scratch: &Scratch) -> bool {
    const WRITES: u64 = 64;
    let mount = Logged::mount(scratch, "writeback=off").unwrap();
    let setuid = mount.path("setuid");
    fsx::write(&setuid, "#!");
    fsx::chmod(&setuid, 0o6777);
    let mut stranger = Command::new("/bin/busybox");
    stranger.args(["dd", "of=/proc/self/fd/1", "bs=1", "count=1", "if=/dev/zero", "conv=notrunc"]);
    let file = File::options().write(true).open(&setuid).unwrap();
    let status = stranger.uid(1000).gid(1000).stdout(file).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{status}");
    // With its descriptor of the file.
    drop(stranger);
    assert_eq!(
        std::fs::metadata(&setuid).unwrap().mode() & 0o7777,
        0o777,
        "setuid or setgid stayed"
    );
    let mut plain = File::create(mount.path("plain")).unwrap();
    for _ in 0..WRITES {
        plain.write_all(b"x").unwrap();
    }
    drop(plain);
    match served(&mount.end(), "getxattr") {
        0..8 => true,
        WRITES.. => false,
        asked => panic!("asked {asked} times for {WRITES} writes"),
    }
}

/// Whether the view can be mounted a second time with other ids.
fn idmapped(scratch: &Scratch) -> bool {
    let mount = Spec::of(scratch).mount();
    fsx::write(mount.path("of-root"), "");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, mount.root(), flags).unwrap();
    let mapped = map_ids(&tree, &user_namespace());
    match mapped {
        // Before Linux 5.12 there are none; before 6.12 not of FUSE.
        Err(Errno::NOSYS | Errno::INVAL) => return false,
        Err(error) => panic!("{error}"),
        Ok(()) => {}
    }
    let second = scratch.dir("second");
    let from_tree = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", rustix::fs::CWD, &second, from_tree).unwrap();
    assert_eq!(std::fs::metadata(second.join("of-root")).unwrap().uid(), 5000);
    let work = second.join("by-5000");
    let mut touch = Command::new("/bin/busybox");
    fsx::chmod(mount.root(), 0o777);
    let status = touch.arg("touch").arg(&work).uid(5000).gid(5000).status().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(
        std::fs::metadata(mount.path("by-5000")).unwrap().uid(),
        0,
        "made by root's other name"
    );
    drop(tree);
    rustix::mount::unmount(&second, rustix::mount::UnmountFlags::empty()).unwrap();
    true
}

/// A user namespace whose root is uid 5000 outside.
fn user_namespace() -> OwnedFd {
    let mut holder = Command::new("/bin/busybox");
    let mut holder = holder
        .args(["unshare", "-U", "/bin/busybox", "cat"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let proc = PathBuf::from(format!("/proc/{}", holder.id()));
    let own = std::fs::read_link("/proc/self/ns/user").unwrap();
    tool::eventually("a user namespace", LIMIT, || {
        std::fs::read_link(proc.join("ns/user")).is_ok_and(|namespace| namespace != own)
    });
    for map in ["uid_map", "gid_map"] {
        std::fs::write(proc.join(map), "0 5000 1\n").unwrap();
    }
    let namespace = File::open(proc.join("ns/user")).unwrap();
    drop(holder.stdin.take());
    holder.wait().unwrap();
    namespace.into()
}

fn map_ids(tree: &impl AsFd, namespace: &OwnedFd) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd() as u64,
    };
    // SAFETY: the descriptors are live, the path is an empty C string, and `attr` has the size given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
    }
}
