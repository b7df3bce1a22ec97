//! Files of one directory tree, served to the clients of SSH: SFTP version 3
//! (draft-ietf-secsh-filexfer-02, with OpenSSH's extensions) and the older protocol of scp.
//!
//! A [`Root`] resolves every path beneath one directory, so nothing outside can be named. Each
//! [`split`] puts such a tree into the view of a server of its surroundings. Each
//! server is a [`BackendSession`](crate::backend::BackendSession) and knows nothing of where its
//! root comes from. What touches files blocks, and runs on threads that may, other than what
//! [`at_once`] answers.

mod access;
mod accounts;
mod at_once;
mod attributes;
mod error;
mod extensions;
mod framing;
mod glob;
mod handles;
mod listing;
mod real_path;
mod request;
mod room;
mod root;
pub mod scp;
mod server;
mod session;
mod sockets;
mod sparse;
pub mod split;
mod status;
mod unmounted;
mod wire;

#[cfg(test)]
mod tests;

pub use self::framing::{Frames, FramingError};
pub use self::request::{Malformed, Request};
pub use self::room::Room;
pub(crate) use self::root::is_within;
pub use self::root::{Owner, Root};
pub use self::session::serve;
pub use self::sockets::{BoundSocket, FoundSocket, PrivateDirectory};
pub use self::unmounted::unmounted;
