//! The wire: FUSE between the kernel and the overlay.
//!
//! ```text
//! dev, uring ─→ request ─→ dispatch ─→ operations ─→ decode, ops ─→ overlay
//!    ↑                        │                          │
//!    └────────────────────────┴────────── reply ←────────┘
//! ```
//!
//! Nothing of the kernel's structs leaves this module. A transport (the `/dev/fuse` loop in [`dev`], the
//! queues of [`uring`]) takes requests apart into header, argument and payload ([`request`]) and gives
//! [`dispatch`] an area for the reply; it knows no operation. [`operations`] is the table of operations:
//! decoder, handler, what it may wait for. Handlers are in [`ops`]. [`mount`] and [`init`] bring a connection
//! about, [`session`] runs it, [`notify`] tells the kernel what it must no longer cache.

mod abi;
mod context;
mod decode;
mod dev;
mod dispatch;
mod handshake;
mod init;
mod listing_ends;
mod mount;
mod notify;
mod operations;
mod ops;
mod passthrough;
mod reply;
mod request;
mod sched_idle;
mod session;
mod settings;
mod shutdown;
mod threads;
mod unmounter;
mod uring;

pub use mount::{Atime, MountError, MountOptions, unmount_by_helper};
pub use reply::Validity;
pub use session::{Mounted, Session};
pub use settings::{Settings, Transport};
pub use unmounter::Unmounter;
