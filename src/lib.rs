//! waltgate: one SSH server in front of a WalT testbed.
//!
//! # The life of a connection
//!
//! The modules are listed in the order in which a connection meets them; dependencies point down
//! this list only, and siblings share plain types.
//!
//! 1. [`gateway`] puts the parts together from a [`config::Config`].
//! 2. [`listener`] accepts TCP connections, within limits, and drains them at shutdown.
//! 3. [`workers`] runs each connection, with all it spawns, on one thread.
//! 4. [`server`] speaks SSH with the client.
//! 5. [`auth`] turns credentials into an [`auth::Identity`].
//! 6. [`target`] turns the username into a [`target::Target`].
//! 7. [`inventory`] knows which nodes and images there are.
//! 8. [`backend`] opens what was asked for: a node, or a container of an image.
//! 9. [`sftp`] serves the files of a directory tree, for backends whose files are on this host.
//! 10. [`rsync`] runs this machine's rsync, shut in such a tree.
//! 11. [`relay`] carries bytes between the client's channel and the backend's session.

pub mod accept_host_key;
pub mod auth;
pub mod backend;
pub mod check;
pub mod config;
pub mod demo;
mod error_chain;
pub mod gateway;
pub mod image_command;
pub mod inventory;
pub mod listener;
pub mod names;
pub mod relay;
pub mod rsync;
pub mod server;
pub mod sftp;
mod shell_words;
mod ssh;
pub mod target;
pub mod workers;
