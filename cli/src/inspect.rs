//! Looking inside: what is used, and whether a filestore is sound.

use crate::args::{CheckArgs, InspectArgs};
use crate::failure::Failure;

pub fn usage(_args: &InspectArgs) -> Result<String, Failure> {
    Err(Failure::run_time("not built"))
}
pub fn check(_args: &CheckArgs) -> Result<String, Failure> {
    Err(Failure::run_time("not built"))
}
