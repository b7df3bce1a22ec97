//! Real parts to test the gateway against: OpenSSH and dropbear nodes, stock clients, terminals, a
//! WalT web API and a Docker engine. Everything that is started here ends with the value that
//! stands for it, and at the latest with the test's thread.

#![allow(dead_code, reason = "each test crate uses the parts it needs")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test bed that cannot be built fails the test"
)]

pub(crate) mod client;
pub(crate) mod engine;
pub(crate) mod gateway;
pub(crate) mod log;
pub(crate) mod node;
pub(crate) mod process;
pub(crate) mod terminal;
pub(crate) mod testbed;
pub(crate) mod walt_api;

use std::time::{Duration, Instant};

#[allow(unused_imports, reason = "each test crate uses the parts it needs")]
pub(crate) use self::{
    client::{Client, Finished},
    engine::{Engine, Image},
    gateway::{Gateway, GatewaySetup},
    node::Node,
    terminal::Terminal,
    testbed::Testbed,
    walt_api::WaltApi,
};

/// How long anything in a test may take that is not itself about time. Generous: the machine
/// may be busy, and only a failing test waits so long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for a condition that nothing announces.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "still not so after {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
