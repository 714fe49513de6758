//! Advisory locks.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use overcoat_tests::{Spec, fsx, mount_tests, tool};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

mount_tests! {
    fn flock_between_descriptors(scratch) {
        fsx::write(scratch.lower().join("f"), "x");
        let mount = Spec::of(scratch).mount();
        let (one, two) = (fsx::open_rw(mount.path("f")), fsx::open_rw(mount.path("f")));
        rustix::fs::flock(&one, FlockOperation::LockExclusive).unwrap();
        let attempt = || rustix::fs::flock(&two, FlockOperation::NonBlockingLockShared);
        assert_eq!(attempt(), Err(Errno::WOULDBLOCK));
        rustix::fs::flock(&one, FlockOperation::LockShared).unwrap();
        assert_eq!(attempt(), Ok(()));
        drop(one);
        rustix::fs::flock(&two, FlockOperation::NonBlockingLockExclusive).unwrap();
    }

    fn a_lock_survives_copy_up(scratch) {
        fsx::write(scratch.lower().join("f"), "x");
        // Not so with passthrough, where the two have an inode each in the kernel.
        let mount = Spec::of(scratch).option("passthrough=off").mount();
        let reader = fsx::open_ro(mount.path("f"));
        rustix::fs::flock(&reader, FlockOperation::LockExclusive).unwrap();
        let writer = fsx::open_rw(mount.path("f"));
        fsx::write_at(&writer, 0, b"y");
        let attempt = rustix::fs::flock(&writer, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(attempt, Err(Errno::WOULDBLOCK));
    }

    fn posix_locks_between_processes(scratch) {
        fsx::write(scratch.lower().join("f"), "x");
        let mount = Spec::of(scratch).mount();
        let file = fsx::open_rw(mount.path("f"));
        let program = "import fcntl,sys; f=open(sys.argv[1],'r+')\n\
                       try: fcntl.lockf(f, fcntl.LOCK_EX|fcntl.LOCK_NB)\n\
                       except OSError as e: sys.exit(e.errno)";
        let other = || {
            let mut command = Command::new("python3");
            command.arg0("python3").arg("-c").arg(program).arg(mount.path("f"));
            tool::output(&mut command).status.code()
        };
        assert_eq!(other(), Some(0));
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(other(), Some(11), "EAGAIN while it is locked");
        rustix::fs::fcntl_lock(&file, FlockOperation::Unlock).unwrap();
        assert_eq!(other(), Some(0));
        // A lock goes with any descriptor of its process that is closed.
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        drop(fsx::open_ro(mount.path("f")));
        assert_eq!(other(), Some(0));
    }

    fn sqlite_style_locking_works(scratch) {
        let mount = Spec::of(scratch).mount();
        // By one alone: of several who switch to WAL at once, sqlite lets some fail without waiting.
        let make = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); \
             c.execute('pragma journal_mode=wal'); c.execute('create table t(x)')";
        tool::run("python3", &["-c", make, mount.path("db").to_str().unwrap()]);
        let program = "import sqlite3,sys\n\
             c=sqlite3.connect(sys.argv[1],timeout=20)\n\
             for i in range(50):\n\
             \twith c: c.execute('insert into t values(?)',(i,))\n";
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    tool::run("python3", &["-c", program, mount.path("db").to_str().unwrap()]);
                });
            }
        });
        let count = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); \
             print(c.execute('select count(*) from t').fetchone()[0], \
             c.execute('pragma integrity_check').fetchone()[0])";
        let out = tool::run("python3", &["-c", count, mount.path("db").to_str().unwrap()]);
        assert_eq!(out, "150 ok\n");
    }
}
