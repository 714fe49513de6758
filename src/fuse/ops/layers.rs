//! Whether an operation may ask a layer that does not answer for long: by the inodes that it is about. A request
//! that cannot be decoded asks none.

use crate::fuse::context::Context;
use crate::fuse::decode;
use crate::fuse::request::Request;

/// Of an operation that asks no layer.
pub fn none(_: &Context, _: &Request<'_>) -> bool {
    false
}

/// Of an operation on the request's inode.
pub fn node(d: &Context, request: &Request<'_>) -> bool {
    d.overlay.may_wait_for_layer(d.nodes.number(request.node()))
}

/// Of an operation on a name in the request's directory.
pub fn entry(d: &Context, request: &Request<'_>) -> bool {
    let parent = d.nodes.number(request.node());
    decode::name(request).is_ok_and(|name| d.overlay.may_wait_for_layer_at(parent, name))
}

/// Of RENAME and RENAME2.
pub fn rename(d: &Context, request: &Request<'_>) -> bool {
    let Ok((new_parent, new_name)) = decode::rename_target(request) else { return false };
    entry(d, request) || d.overlay.may_wait_for_layer_at(d.nodes.number(new_parent), new_name)
}

/// Of LINK.
pub fn link(d: &Context, request: &Request<'_>) -> bool {
    let Ok((linked, _)) = decode::link(request) else { return false };
    entry(d, request) || d.overlay.may_wait_for_layer(d.nodes.number(linked))
}

/// Of a copy between two files.
pub fn copy(d: &Context, request: &Request<'_>) -> bool {
    let Ok(copy) = decode::copy_file_range(request) else { return false };
    node(d, request) || d.overlay.may_wait_for_layer(d.nodes.number(copy.to))
}
