//! The `overcoat` command.

mod args;
mod call_options;
mod failure;
mod inspect;
mod log;
mod mount;
mod options;
mod preflight;
mod remount;
mod run;
mod settings;
mod text;
mod unmount;

use std::io::Write;
use std::process::ExitCode;

use args::Call;
use failure::Failure;

fn main() -> ExitCode {
    // First of all, while every open descriptor is the caller's.
    let inherited = overcoat::daemon::inherited_descriptors();
    match dispatch(inherited) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("overcoat: {}", failure.line());
            ExitCode::from(failure.code())
        }
    }
}

fn dispatch(inherited: Vec<std::os::fd::RawFd>) -> Result<u8, Failure> {
    match args::parse(std::env::args_os().collect())? {
        Call::Mount(call) => mount::run(call, inherited).map(|()| 0),
        Call::Run(args) => run::run(args),
        Call::Usage(args) => print(&inspect::usage(&args.place)?).map(|()| 0),
        Call::Check(args) => {
            let (findings, whole) = inspect::check(&args.file)?;
            print(&findings).map(|()| u8::from(!whole))
        }
        Call::Unmount(call) => unmount::run(&call).map(|()| 0),
        Call::Print(text) => print(&text).map(|()| 0),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::run_time(format!("stdout: {error}")))
}
