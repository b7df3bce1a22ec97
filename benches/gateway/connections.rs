//! Connections a second: key exchange and public key authentication, with a light client, so that
//! the server is what is measured.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use russh::client;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate, load_secret_key};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::Effort;
use crate::routes::Bed;
use crate::table::{Table, Values, median};

/// Connections that are set up at the same time.
const PARALLEL: usize = 8;
const CONNECTIONS: usize = 200;

struct AnyHostKey;

impl client::Handler for AnyHostKey {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _presented: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

pub(crate) fn measure(bed: &Bed, effort: &Effort, table: &mut Table) {
    let runtime = Runtime::new().unwrap();
    let key = Arc::new(load_secret_key(bed.identity(), None).unwrap());
    let servers = [(bed.node.address(), "root"), (bed.gateway.address(), "node")];
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..effort.rounds {
        for ((address, user), rates) in servers.into_iter().zip(&mut rates) {
            let started = Instant::now();
            runtime.block_on(connect_often(address, user, &key));
            rates.push(CONNECTIONS as f64 / started.elapsed().as_secs_f64());
        }
    }
    let [direct, gateway] = rates.map(|rates| Some(median(&rates)));
    table.add(
        format!("logins a second, {PARALLEL} at a time"),
        "/s",
        Values { direct, gateway, jump: None },
    );
}

async fn connect_often(address: SocketAddr, user: &'static str, key: &Arc<PrivateKey>) {
    let mut clients = JoinSet::new();
    for _ in 0..PARALLEL {
        let key = Arc::clone(key);
        clients.spawn(async move {
            for _ in 0..CONNECTIONS / PARALLEL {
                connect(address, user, &key).await.unwrap();
            }
        });
    }
    clients.join_all().await;
}

async fn connect(
    address: SocketAddr,
    user: &str,
    key: &Arc<PrivateKey>,
) -> Result<(), russh::Error> {
    let mut config = client::Config::default();
    config.preferred.kex = Cow::Borrowed(&[russh::kex::CURVE25519]);
    config.preferred.cipher = Cow::Borrowed(&[russh::cipher::AES_256_GCM]);
    let mut session = client::connect(Arc::new(config), address, AnyHostKey).await?;
    let key = PrivateKeyWithHashAlg::new(Arc::clone(key), None);
    let result = session.authenticate_publickey(user, key).await?;
    assert!(result.success(), "{address} refuses the key");
    session.disconnect(russh::Disconnect::ByApplication, "", "").await?;
    // Until its task has ended, the connection still is.
    match session.await {
        Ok(()) | Err(russh::Error::Disconnect) => Ok(()),
        Err(error) => Err(error),
    }
}
