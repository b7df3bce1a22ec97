//! What the server and the client side of SSH share.

pub(crate) mod algorithms;
pub(crate) mod peer_watch;
pub(crate) mod signal;
pub(crate) mod stream;
