//! The table of operations: how each is decoded and carried out, what it may wait for on the host, and
//! whether it is served once the file system was shut down.
//!
//! A further operation takes an opcode in `abi.rs`, a row here, and a handler in [`ops`]. An ioctl is no operation of its
//! own: its number goes into `abi.rs`, its arm into `ops::control::ioctl`.

use crate::errno::Result;
use crate::fuse::abi::Opcode;
use crate::fuse::context::{Call, Context};
use crate::fuse::decode;
use crate::fuse::ops::{attrs, control, data, dirs, layers, names, open};
use crate::fuse::reply::Payload;
use crate::fuse::request::Request;
use crate::metrics;

/// One operation.
pub struct Row {
    /// What it is counted as.
    pub metric: metrics::Operation,
    /// Decodes the arguments and drops them.
    #[cfg(test)]
    pub check: fn(&Request<'_>) -> Result<()>,
    /// Decodes the arguments, carries the operation out, and encodes the answer.
    pub run: fn(&Context, &Call<'_>, &mut Payload<'_>) -> Result<()>,
    pub host: Host,
    /// Whether the operation may ask a layer that does not answer for long. Only asked where there is one.
    pub layers: fn(&Context, &Request<'_>) -> bool,
    pub served: Served,
}

/// What carrying out an operation may wait for, where all layers are of this host.
#[derive(Clone, Copy)]
pub enum Host {
    /// Nothing but memory and the journal's append.
    Untouched,
    /// A system call on the host, for microseconds as a rule.
    Short,
    /// As [`Host::Short`]; for milliseconds where the function says so.
    Long(fn(&Context, &Request<'_>) -> bool),
}

/// When an operation is served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Until the file system is shut down; `EIO` after that.
    UntilShutdown,
    /// Always: it lets something go, or is needed for an unmount.
    Always,
    /// Always, and the kernel wants no answer.
    WithoutAnswer,
}

use Host::{Long, Short, Untouched};
use Served::{Always, UntilShutdown, WithoutAnswer};

macro_rules! rows {
    ($($opcode:ident $metric:ident $decode:path, $handler:path, $host:expr, $layers:path, $served:expr;)*) => {
        /// The row of an operation.
        pub fn row(opcode: Opcode) -> &'static Row {
            match opcode {
                $(Opcode::$opcode => &const { Row {
                    metric: metrics::Operation::$metric,
                    #[cfg(test)]
                    check: |request| $decode(request).map(drop),
                    run: |context, call, out| {
                        $handler(context, call, $decode(call.request)?, out)
                    },
                    host: $host,
                    layers: $layers,
                    served: $served,
                } },)*
            }
        }
    };
}

#[rustfmt::skip]
rows! {
//  opcode          metric        decoder                  handler                host                        layers           served
    Lookup          Lookup        decode::name,            names::lookup,         Short,                      layers::entry,   UntilShutdown;
    Forget          Forget        decode::forget,          names::forget,         Untouched,                  layers::none,    WithoutAnswer;
    BatchForget     Forget        decode::batch_forget,    names::batch_forget,   Untouched,                  layers::none,    WithoutAnswer;
    Symlink         Symlink       decode::symlink,         names::symlink,        Untouched,                  layers::entry,   UntilShutdown;
    Mknod           Mknod         decode::mknod,           names::mknod,          Untouched,                  layers::entry,   UntilShutdown;
    Mkdir           Mkdir         decode::mkdir,           names::mkdir,          Untouched,                  layers::entry,   UntilShutdown;
    Unlink          Unlink        decode::name,            names::unlink,         Untouched,                  layers::entry,   UntilShutdown;
    Rmdir           Rmdir         decode::name,            names::rmdir,          Untouched,                  layers::entry,   UntilShutdown;
    Rename          Rename        decode::rename,          names::rename,         Untouched,                  layers::rename,  UntilShutdown;
    Rename2         Rename        decode::rename2,         names::rename,         Untouched,                  layers::rename,  UntilShutdown;
    Link            Link          decode::link,            names::link,           Untouched,                  layers::link,    UntilShutdown;

    Getattr         Getattr       decode::nothing,         attrs::getattr,        Untouched,                  layers::none,    UntilShutdown;
    Statx           Statx         decode::nothing,         attrs::statx,          Untouched,                  layers::none,    UntilShutdown;
    Setattr         Setattr       decode::setattr,         attrs::setattr,        Untouched,                  layers::node,    UntilShutdown;
    Readlink        Readlink      decode::nothing,         attrs::readlink,       Untouched,                  layers::node,    UntilShutdown;
    Setxattr        Setxattr      decode::setxattr,        attrs::setxattr,       Untouched,                  layers::node,    UntilShutdown;
    Getxattr        Getxattr      decode::getxattr,        attrs::getxattr,       Untouched,                  layers::node,    UntilShutdown;
    Listxattr       Listxattr     decode::listxattr,       attrs::listxattr,      Untouched,                  layers::node,    UntilShutdown;
    Removexattr     Removexattr   decode::xattr_name,      attrs::removexattr,    Untouched,                  layers::node,    UntilShutdown;

    Open            Open          decode::open,            open::open,            Short,                      layers::node,    UntilShutdown;
    Create          Create        decode::create,          open::create,          Untouched,                  layers::entry,   UntilShutdown;
    Tmpfile         Tmpfile       decode::tmpfile,         open::tmpfile,         Untouched,                  layers::node,    UntilShutdown;
    Release         Release       decode::release,         open::release,         Untouched,                  layers::none,    Always;

    Read            Read          decode::read,            data::read,            Short,                      layers::node,    UntilShutdown;
    Write           Write         decode::write,           data::write,           Long(data::writes_much),    layers::node,    UntilShutdown;
    Fallocate       Fallocate     decode::fallocate,       data::fallocate,       Long(data::allocates_much), layers::node,    UntilShutdown;
    Lseek           Lseek         decode::lseek,           data::lseek,           Untouched,                  layers::node,    UntilShutdown;
    CopyFileRange   CopyFileRange decode::copy_file_range, data::copy_file_range, Long(data::copies_much),    layers::copy,    UntilShutdown;
    CopyFileRange64 CopyFileRange decode::copy_file_range, data::copy_file_range, Long(data::copies_much),    layers::copy,    UntilShutdown;

    Opendir         Opendir       decode::nothing,         dirs::opendir,         Untouched,                  layers::none,    UntilShutdown;
    Readdir         Readdir       decode::read,            dirs::readdir,         Short,                      layers::node,    UntilShutdown;
    Readdirplus     Readdirplus   decode::read,            dirs::readdirplus,     Short,                      layers::node,    UntilShutdown;
    Releasedir      Releasedir    decode::nothing,         dirs::releasedir,      Untouched,                  layers::none,    Always;

    Fsync           Fsync         decode::fsync,           control::fsync,        Long(control::is_durable),  layers::none,    UntilShutdown;
    Fsyncdir        Fsyncdir      decode::fsync,           control::fsyncdir,     Long(control::is_durable),  layers::none,    UntilShutdown;
    Syncfs          Syncfs        decode::nothing,         control::syncfs,       Long(control::is_durable),  layers::none,    UntilShutdown;
    Statfs          Statfs        decode::nothing,         control::statfs,       Untouched,                  layers::none,    Always;
    Ioctl           Ioctl         decode::ioctl,           control::ioctl,        Long(control::ioctl_waits), layers::none,    UntilShutdown;
    Destroy         Destroy       decode::nothing,         control::destroy,      Short,                      layers::none,    Always;

    Interrupt       Other         decode::unsupported,     control::refused,      Untouched,                  layers::none,    UntilShutdown;
    Flush           Other         decode::unsupported,     control::refused,      Untouched,                  layers::none,    UntilShutdown;
    Access          Other         decode::unsupported,     control::refused,      Untouched,                  layers::none,    UntilShutdown;
    Poll            Other         decode::unsupported,     control::refused,      Untouched,                  layers::none,    UntilShutdown;
    Init            Other         decode::out_of_place,    control::refused,      Untouched,                  layers::none,    UntilShutdown;
}
