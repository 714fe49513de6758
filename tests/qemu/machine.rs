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
    /// Where the kernel's console goes.
    pub console: PathBuf,
    /// The arguments of `overcoat-guest`.
    pub arguments: &'a [&'a str],
}

/// A running guest. It is killed on drop.
pub struct Guest {
    qemu: Child,
    lines: Receiver<String>,
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
        let disk = format!("driver=file,node-name=disk,filename={}", self.disk.display());
        command.arg("-blockdev").arg(disk);
        command.args(["-device", "virtio-blk-pci,drive=disk"]);
        let mut qemu = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let results = BufReader::new(qemu.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in results.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Guest { qemu, lines, _alone: alone }
    }
}

impl Guest {
    /// All lines until the guest ends or `limit` has passed.
    pub fn lines_until_end(&self, limit: Duration) -> Vec<String> {
        let deadline = Instant::now() + limit;
        let next = || self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        std::iter::from_fn(|| next().ok()).collect()
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
