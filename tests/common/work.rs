//! Writers for power cuts, each beside what has to be true of its files afterwards. `ack` is called with a number once
//! what it stands for is durable.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::rng::bytes;

type Result<T> = std::io::Result<T>;

/// How a file is replaced by way of a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// The new file is synced before the rename, and the directory after it: durable.
    Durable,
    /// The new file is synced before the rename.
    Synced,
    /// Nothing is synced.
    Plain,
}

/// Replaces `root/file` for ever, from generation 1 on; generation 0 has to be there.
///
/// # Errors
/// What a system call failed with.
pub fn replace(root: &Path, how: Replace, mut ack: impl FnMut(u64)) -> Result<()> {
    for generation in 1.. {
        let mut new = File::create(root.join("new"))?;
        new.write_all(&replacement(generation))?;
        if how != Replace::Plain {
            new.sync_all()?;
        }
        drop(new);
        std::fs::rename(root.join("new"), root.join("file"))?;
        if how == Replace::Durable {
            File::open(root)?.sync_all()?;
            ack(generation);
        }
    }
    Ok(())
}

/// What `root/file` holds in a generation.
pub fn replacement(generation: u64) -> Vec<u8> {
    let len = 1000 + usize::try_from(generation * 7919 % 100_000).unwrap();
    let mut data = format!("{generation:>15}\n").into_bytes();
    data.extend(bytes(generation, len));
    data
}

/// It holds one generation whole, not one before the one acknowledged.
///
/// # Errors
/// What is wrong.
pub fn judge_replaced(root: &Path, acked: u64) -> std::result::Result<(), String> {
    let data = std::fs::read(root.join("file")).map_err(|error| error.to_string())?;
    let head = String::from_utf8_lossy(&data[..data.len().min(16)]).trim().to_owned();
    let generation: u64 =
        head.parse().map_err(|_| format!("{} bytes that begin with {head:?}", data.len()))?;
    let want = replacement(generation);
    if data != want {
        let at = data.iter().zip(&want).position(|(is, want)| is != want);
        return Err(format!(
            "generation {generation}: {} of {} bytes, wrong from {at:?}",
            data.len(),
            want.len()
        ));
    }
    if generation < acked {
        return Err(format!("generation {generation}, although {acked} was durable"));
    }
    Ok(())
}

/// Appends to `root/log` for ever, with an fsync each time.
///
/// # Errors
/// What a system call failed with.
pub fn append(root: &Path, mut ack: impl FnMut(u64)) -> Result<()> {
    let mut log = File::options().append(true).create(true).open(root.join("log"))?;
    for number in 1.. {
        log.write_all(&record(number))?;
        log.sync_data()?;
        ack(number);
    }
    Ok(())
}

fn record(number: u64) -> Vec<u8> {
    bytes(number, 10 + usize::try_from(number * 31 % 3000).unwrap())
}

/// It holds all records that were acknowledged, and what follows is a beginning of the next ones.
///
/// # Errors
/// What is wrong.
pub fn judge_appended(root: &Path, acked: u64) -> std::result::Result<(), String> {
    let data = match std::fs::read(root.join("log")) {
        Err(error) if acked == 0 && error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| error.to_string())?,
    };
    let durable: usize = (1..=acked).map(|number| record(number).len()).sum();
    let want: Vec<u8> = (1..=acked + 200).flat_map(record).take(data.len().max(durable)).collect();
    if data.len() < durable {
        return Err(format!("{} bytes, although {durable} were durable", data.len()));
    }
    match data.iter().zip(&want).position(|(is, want)| is != want) {
        None => Ok(()),
        Some(at) => Err(format!("wrong from byte {at} of {}, {durable} were durable", data.len())),
    }
}

/// Sets an attribute of `root/file` for ever: history that its tree does not grow with, so that checkpoints are due.
///
/// # Errors
/// What a system call failed with.
pub fn churn(root: &Path, mut ack: impl FnMut(u64)) -> Result<()> {
    let path = root.join("file");
    for number in 1.. {
        rustix::fs::setxattr(&path, CHURNED, &value(number), rustix::fs::XattrFlags::empty())?;
        if number % 64 == 0 {
            File::open(&path)?.sync_all()?;
            ack(number);
        }
    }
    Ok(())
}

const CHURNED: &str = "user.churned";

fn value(number: u64) -> Vec<u8> {
    let mut value = number.to_le_bytes().to_vec();
    value.extend(bytes(number, 3000));
    value
}

/// The attribute is one that was set, and not before the one acknowledged.
///
/// # Errors
/// What is wrong.
pub fn judge_churned(root: &Path, acked: u64) -> std::result::Result<(), String> {
    let found = match crate::fsx::get_xattr(root.join("file"), CHURNED) {
        Err(rustix::io::Errno::NODATA) if acked == 0 => return Ok(()),
        other => other.map_err(|error| error.to_string())?,
    };
    let number = found.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
    if number < acked || found != value(number) {
        return Err(format!("{number} of {} bytes, {acked} was durable", found.len()));
    }
    Ok(())
}

const PARTS: u64 = 32;
const PART: usize = 128 << 10;

/// Writes files of 4 MiB below `root` for ever, and removes them; nothing is synced.
///
/// # Errors
/// What a system call failed with.
pub fn bulk(root: &Path) -> Result<()> {
    for number in 0.. {
        let mut file = File::create(root.join(number.to_string()))?;
        for part in 0..PARTS {
            file.write_all(&bytes(number * PARTS + part, PART))?;
        }
        drop(file);
        if number >= 8 {
            std::fs::remove_file(root.join((number - 8).to_string()))?;
        }
    }
    Ok(())
}

/// Each file is a beginning of what was written. With `held_back` it may have holes: the kernel sends what it holds
/// back in several requests side by side, and one of them may not have arrived.
///
/// # Errors
/// What is wrong.
pub fn judge_bulk(root: &Path, held_back: bool) -> std::result::Result<(), String> {
    for entry in std::fs::read_dir(root).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let number: u64 = name.parse().map_err(|_| format!("{name:?} is there"))?;
        let data = std::fs::read(&path).map_err(|error| format!("{name}: {error}"))?;
        let file = File::open(&path).map_err(|error| format!("{name}: {error}"))?;
        let ranges = crate::fsx::data_ranges(&file);
        let want: Vec<u8> =
            (0..PARTS).flat_map(|part| bytes(number * PARTS + part, PART)).collect();
        let is_data =
            |at: usize| ranges.iter().any(|(from, to)| (*from..*to).contains(&(at as u64)));
        let wrong = |at: &usize| {
            data.get(*at) != want.get(*at) && !(held_back && data[*at] == 0 && !is_data(*at))
        };
        if let Some(at) = (0..data.len()).find(wrong) {
            let zeros = data[at..].iter().take_while(|byte| **byte == 0).count();
            return Err(format!("{name}: wrong from byte {at} of {} ({zeros} zeros)", data.len()));
        }
    }
    Ok(())
}

/// Commits rows to `root/db` for ever with the program `sqlite3`, in a journal mode of SQLite's. With
/// `synchronous=EXTRA` a commit is durable in each of them: the directory is synced after the journal's removal.
///
/// # Errors
/// What starting or talking to the program failed with, or its end.
pub fn sqlite(root: &Path, journal: &str, mut ack: impl FnMut(u64)) -> Result<()> {
    let mut command = Command::new("sqlite3");
    command.arg("-batch").arg(root.join("db")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = command.spawn()?;
    let (Some(mut input), Some(output)) = (program.stdin.take(), program.stdout.take()) else {
        return Err(std::io::Error::other("no pipes"));
    };
    let mut output = BufReader::new(output).lines();
    writeln!(
        input,
        ".bail on\nPRAGMA journal_mode={journal};\nPRAGMA synchronous=EXTRA;\n\
         CREATE TABLE t(n INTEGER PRIMARY KEY, data BLOB);\nPRAGMA wal_autocheckpoint=20;\n.print begin"
    )?;
    for number in 1u64.. {
        loop {
            let line = output.next().ok_or_else(|| std::io::Error::other("sqlite3 ended"))??;
            if line == "begin"
                || line.parse().is_ok_and(|done: u64| done == number - 1 && line.len() == 8)
            {
                break;
            }
        }
        if number > 1 {
            ack(number - 1);
        }
        writeln!(
            input,
            "INSERT INTO t VALUES({number}, hex(zeroblob({}))||'{number}');\n.print {number:08}",
            number * 97 % 3000
        )?;
    }
    Ok(())
}

/// The database is sound and has every row that was acknowledged, in order.
///
/// # Errors
/// What is wrong.
pub fn judge_sqlite(root: &Path, acked: u64) -> std::result::Result<(), String> {
    if acked == 0 {
        return Ok(());
    }
    let sql = "PRAGMA integrity_check; SELECT count(*), max(n), \
               sum(data <> hex(zeroblob(n * 97 % 3000)) || n) FROM t;";
    let mut command = Command::new("sqlite3");
    let output = command.arg("-batch").arg(root.join("db")).arg(sql).output();
    let output = output.map_err(|error| error.to_string())?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let fault = || {
        format!("{acked} rows were durable: {printed}{}", String::from_utf8_lossy(&output.stderr))
    };
    let rest = printed.strip_prefix("ok\n").ok_or_else(fault)?;
    let numbers: Vec<u64> =
        rest.trim().split('|').filter_map(|number| number.parse().ok()).collect();
    match numbers.as_slice() {
        [count, last, 0] if count == last && *last >= acked => Ok(()),
        _ => Err(fault()),
    }
}
