//! The options that a call to mount comes to.

use std::ffi::OsStr;
use std::path::Path;

use crate::args::MountCall;
use crate::failure::Failure;
use crate::options::Options;

/// The options, with what the source stands for.
pub fn read(call: &MountCall) -> Result<Options, Failure> {
    let mut options = Options::parse(&call.options)?;
    if let Some(source) = call.source.as_deref() {
        derive_layers(&mut options, source);
    }
    Ok(options)
}

/// Refuses unknown options, or names them where an engine or mount(8) calls. A remount would not do what they ask for.
pub fn tell_unknown(call: &MountCall, options: &Options) -> Result<(), Failure> {
    for unknown in &options.unknown {
        if !call.tolerant || options.remount {
            return Err(Failure::usage(format!("unknown option '{unknown}'")));
        }
        eprintln!("overcoat: ignoring unknown option '{}'", Failure::usage(unknown).line());
    }
    Ok(())
}

/// A source directory that holds `lower` and `upper` stands for `lowerdir` and `upperdir`, where neither
/// was given.
fn derive_layers(options: &mut Options, source: &OsStr) {
    let source = Path::new(source);
    let (lower, upper) = (source.join("lower"), source.join("upper"));
    let told = !options.lowers.is_empty() || options.upper.is_some();
    if !told && lower.is_dir() && upper.is_dir() {
        options.lowers = vec![lower];
        options.upper = Some(upper);
    }
}
