//! The headline: 20 processes of 500 random operations each, ten rounds, as fsstress makes them.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};

use crate::Result;
use crate::figure::Unit;
use crate::image::Noise;
use crate::trial::Trial;

const PARAMETERS: &str = "-d /stress -n 500 -p 20 -s 1680153482 -X";

pub fn run(trial: &mut Trial<'_>) -> Result {
    let rounds = trial.size(10, 3);
    let view = trial.mount()?;
    trial.settle()?;
    let call = if trial.lower.join("generator.own").exists() {
        format!("{OWN} /stress")
    } else {
        PARAMETERS.to_owned()
    };
    let script = format!("mkdir -p /stress; /generator {call} -l {rounds} >/dev/null");
    trial.time("fsstress: run", Unit::Seconds, || view.shell(&script))?;
    // In a sandbox the tree is gone with the command.
    if trial.peer.shows_on_host() {
        trial.time("fsstress: rm -rf", Unit::Seconds, || view.shell("rm -rf /stress"))?;
    }
    view.unmount().map(drop)
}

/// The first argument that makes this program the generator.
const OWN: &str = "stress-generator";
const PROCESSES: u64 = 20;
const OPERATIONS: usize = 500;

/// Acts as the generator if called so.
pub fn hidden_command() -> Option<ExitCode> {
    let words: Vec<_> = std::env::args_os().collect();
    if words.get(1).map(|word| word.as_os_str()) != Some(OsStr::new(OWN)) {
        return None;
    }
    let dir = Path::new(words.get(2)?);
    let outcome = match words.get(3)?.to_str()? {
        "-l" => all(dir, words.get(4)?.to_str()?.parse().ok()?),
        seed => one(&dir.join(seed), seed.parse().ok()?),
    };
    Some(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn all(dir: &Path, rounds: u64) -> io::Result<()> {
    for round in 0..rounds {
        let children: Vec<_> = (0..PROCESSES)
            .map(|number| {
                let seed = (round * PROCESSES + number).to_string();
                Command::new(std::env::current_exe()?).arg(OWN).arg(dir).arg(seed).spawn()
            })
            .collect::<io::Result<_>>()?;
        for mut child in children {
            child.wait()?;
        }
    }
    Ok(())
}

/// One process: operations on a tree of its own; most of them fail now and then, which is part of it.
fn one(dir: &Path, seed: u64) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut noise = Noise(seed);
    let mut made = vec![dir.to_owned()];
    for number in 0..OPERATIONS {
        let known = made[noise.next() % made.len()].clone();
        let parent = if known.is_dir() { known.clone() } else { dir.to_owned() };
        let fresh = parent.join(format!("e{number}"));
        if operation(&mut noise, &known, &fresh).is_ok() && fresh.symlink_metadata().is_ok() {
            made.push(fresh);
        }
    }
    Ok(())
}

/// In the frequencies of fsstress, its rarer operations left out.
fn operation(noise: &mut Noise, known: &Path, fresh: &Path) -> io::Result<()> {
    let open = || std::fs::File::options().read(true).write(true).open(known);
    let offset = (noise.next() % (1 << 21)) as u64;
    let mut buffer = vec![7; noise.next() % (1 << 16)];
    match noise.next() % 34 {
        0..=1 => std::fs::File::create_new(fresh).map(drop),
        2..=3 => std::fs::create_dir(fresh),
        4..=5 => symlink("target", fresh),
        6..=7 => {
            rustix::fs::mknodat(CWD, fresh, FileType::Fifo, Mode::RUSR, 0).map_err(io::Error::from)
        }
        8 => std::fs::hard_link(known, fresh),
        9..=10 => std::fs::rename(known, fresh),
        11 => std::fs::remove_file(known),
        12 => std::fs::remove_dir(known),
        13..=16 => open()?.write_all_at(&buffer, offset),
        17..=18 => open()?.read_at(&mut buffer, offset).map(drop),
        19 => std::fs::File::options()
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(known)?
            .write_all_at(&buffer, offset),
        20..=21 => open()?.set_len(offset),
        22..=23 => open()?.sync_data(),
        24 => open()?.sync_all(),
        25 => std::fs::set_permissions(known, std::fs::Permissions::from_mode(0o700)),
        26 => std::fs::read_dir(known).map(|entries| entries.for_each(drop)),
        27 => std::fs::read_link(known).map(drop),
        28 => rustix::fs::setxattr(
            known,
            "user.stress",
            &buffer[..buffer.len().min(100)],
            XattrFlags::empty(),
        )
        .map_err(io::Error::from),
        29 => std::os::unix::fs::chown(known, Some(offset as u32 % 100), None),
        _ => known.symlink_metadata().map(drop),
    }
}
