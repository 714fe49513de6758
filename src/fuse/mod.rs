//! The wire: FUSE between the kernel and the overlay.
//!
//! ```text
//! dev, uring ─→ decode ─→ dispatch ─→ overlay
//!    ↑                        ↓
//!    └──────── reply ←────────┘        init, mount: how a connection comes about; session: all of it,
//!                                   notify: what the kernel is told unasked
//! ```
//!
//! Nothing of the kernel's structs leaves this module. A transport (the `/dev/fuse` loop in
//! [`dev`], the queues of [`uring`]) takes requests apart into header, argument and payload and gives [`dispatch`] an area for the
//! reply; it knows no operation.

mod abi;
mod courtesy;
mod decode;
mod dev;
mod dispatch;
mod init;
mod listings;
mod mount;
mod notify;
mod passthrough;
mod reply;
mod session;
mod uring;

pub use mount::{Atime, MountError, MountOptions};
pub use reply::Validity;
pub use session::{Mounted, Session, Settings, Transport, Unmounter};
