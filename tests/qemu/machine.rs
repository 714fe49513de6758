//! One guest at a time: boots a kernel, listens to its second serial port, kills it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kernels::Kernel;

/// Emulation takes a whole core.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How a guest is started.
#[derive(Debug)]
pub struct Boot<'a> {
    pub kernel: &'a Kernel,
    pub initramfs: &'a Path,
    /// `/dev/vda` of the guest.
    pub disk: &'a Path,
    /// Where all writes and flushes of the disk are logged too (see `writelog.rs`).
    pub write_log: Option<&'a Path>,
    /// Where the kernel's console goes.
    pub console: PathBuf,
    /// The arguments of `overcoat-guest`.
    pub arguments: &'a [&'a str],
}

/// A line of the guest's second serial port.
#[derive(Clone, Debug)]
pub struct Line {
    pub text: String,
    /// How long the log of writes was when the line had come, in bytes.
    pub logged: u64,
}

/// A running guest. It is killed on drop.
pub struct Guest {
    qemu: Child,
    lines: Receiver<Line>,
    _alone: MutexGuard<'static, ()>,
}

impl Boot<'_> {
    /// Starts the guest.
    pub fn start(self) -> Guest {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = Command::new("setpriv");
        // The guest ends with the thread that started it.
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "768"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initramfs);
        let arguments = self.arguments.join(" ");
        command.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 -- {arguments}"));
        command.arg("-chardev").arg(format!("file,id=console,path={}", self.console.display()));
        command.args(["-chardev", "stdio,id=results,signal=off"]);
        command.args(["-serial", "chardev:console", "-serial", "chardev:results"]);
        command.arg("-blockdev").arg(self.block_device());
        command.args(["-device", "virtio-blk-pci,drive=disk,write-zeroes=off,discard=off"]);
        let mut qemu = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let results = BufReader::new(qemu.stdout.take().unwrap());
        let (send, lines) = channel();
        let log = self.write_log.map(Path::to_owned);
        std::thread::spawn(move || {
            for text in results.split(b'\n').map_while(Result::ok) {
                let logged =
                    log.as_deref().map_or(0, |log| log.metadata().map_or(0, |log| log.len()));
                let text = String::from_utf8_lossy(&text).trim_end().to_owned();
                if send.send(Line { text, logged }).is_err() {
                    return;
                }
            }
        });
        Guest { qemu, lines, _alone: alone }
    }

    /// `/dev/vda`: the host's page cache is the disk's platter, which a killed qemu leaves whole.
    fn block_device(&self) -> String {
        let file = format!("driver=file,filename={}", self.disk.display());
        match self.write_log {
            None => format!("{file},node-name=disk"),
            Some(log) => format!(
                "driver=blklogwrites,node-name=disk,log-sector-size=512,\
                 file.driver=file,file.filename={},log.driver=file,log.filename={}",
                self.disk.display(),
                log.display()
            ),
        }
    }
}

impl Guest {
    /// The next line, or `None` when the guest has ended or `deadline` has passed.
    pub fn line(&self, deadline: Instant) -> Option<Line> {
        self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// All lines until the guest ends or `limit` has passed.
    pub fn lines_until_end(&self, limit: Duration) -> Vec<Line> {
        let deadline = Instant::now() + limit;
        std::iter::from_fn(|| self.line(deadline)).collect()
    }

    /// Kills it: the power is cut. Returns what had come by then and was not read yet.
    pub fn cut(mut self) -> Vec<Line> {
        self.qemu.kill().unwrap();
        self.qemu.wait().unwrap();
        self.lines.iter().collect()
    }
}

/// The last lines of a console.
pub fn tail(console: &Path) -> String {
    let text = std::fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Both fail when it has ended and was waited for.
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}
