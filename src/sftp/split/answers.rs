//! What the far side was asked, and what its answers become for the client.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

use super::router::is_the_top;
use crate::sftp::handles::Mark;
use crate::sftp::request::{Extension, Request};
use crate::sftp::server::{self, answer};
use crate::sftp::status::Refusal;
use crate::sftp::wire::{Reader, Writer};

/// What may be asked of the far side and not be answered, in packets of its transport: less than
/// what is kept of a channel that nobody reads, so that no other channel has to wait.
const MOST_OWED: usize = 60;
/// Data in one packet of the transport.
const PACKET_BYTES: u32 = 32 * 1024;
/// A part of a directory, in packets.
const ENTRIES: u32 = 4;

/// Who waits for an answer.
pub(super) enum Asker {
    Client,
    /// The client, who opens `/`.
    ClientOfTop,
    /// The client, who reads `/` by this handle.
    ReaderOfTop(Bytes),
    /// The gateway.
    Gateway(oneshot::Sender<Bytes>),
}

/// The requests that the far side owes an answer to.
pub(super) struct Answers {
    mount: &'static [u8],
    /// The mounted root as an entry of `/`.
    entry: Vec<u8>,
    /// Of handles of the near side.
    near: Mark,
    owed: Mutex<Owed>,
    room: Semaphore,
}

#[derive(Default)]
struct Owed {
    by_id: HashMap<u32, (Asker, u32)>,
    /// Handles of `/`, and whether the root was among its entries.
    of_top: HashMap<Bytes, bool>,
    /// Why no more answers will come.
    lost: Option<String>,
}

impl Answers {
    pub(super) fn new(mount: &'static [u8], entry: Vec<u8>, near: Mark) -> Self {
        Self { mount, entry, near, owed: Mutex::default(), room: Semaphore::new(MOST_OWED) }
    }

    /// Who will wait for the answer to a request of the client.
    pub(super) fn asker(&self, request: &Request<'_>) -> Asker {
        match request {
            Request::Opendir { path } if is_the_top(path) => Asker::ClientOfTop,
            Request::Readdir { handle } => match self.lock().of_top.get_key_value(*handle) {
                Some((handle, _)) => Asker::ReaderOfTop(handle.clone()),
                None => Asker::Client,
            },
            Request::Close { handle } => {
                self.lock().of_top.remove(*handle);
                Asker::Client
            }
            _ => Asker::Client,
        }
    }

    /// Waits until as much may be asked as a request asks for. Returns why nothing may any more.
    pub(super) async fn expect(
        &self,
        id: u32,
        request: &Request<'_>,
        asker: Asker,
    ) -> Result<(), String> {
        let cost = cost(request);
        // Never closed.
        if let Ok(permit) = self.room.acquire_many(cost).await {
            permit.forget();
        }
        let mut owed = self.lock();
        if let Some(reason) = &owed.lost {
            return Err(reason.clone());
        }
        if let Some((_, cost)) = owed.by_id.insert(id, (asker, cost)) {
            // The client uses an identifier twice; it gets one answer.
            self.room.add_permits(cost as usize);
        }
        Ok(())
    }

    /// An identifier that nothing is owed under.
    pub(super) fn unused_id(&self) -> u32 {
        let owed = self.lock();
        (0..=u32::MAX).rev().find(|id| !owed.by_id.contains_key(id)).unwrap_or(u32::MAX)
    }

    /// What the client gets for an answer of the far side, with its length.
    pub(super) fn take(&self, packet: Bytes) -> Option<Bytes> {
        let body = packet.slice(4..);
        let mut reader = Reader::new(&body);
        let (kind, id) = (reader.byte().ok()?, reader.uint32().ok()?);
        let mut owed = self.lock();
        let (asker, cost) = owed.by_id.remove(&id)?;
        self.room.add_permits(cost as usize);
        if kind == answer::HANDLE {
            let handle = reader.string().ok()?;
            if self.near.is_on(handle) {
                let refusal = Refusal::failure("the node's handle passes for one of the gateway");
                return Some(server::refused(id, &refusal).into());
            }
            if let Asker::ClientOfTop = asker {
                owed.of_top.insert(Bytes::copy_from_slice(handle), false);
            }
        }
        match asker {
            Asker::Client | Asker::ClientOfTop => Some(packet),
            Asker::Gateway(asker) => {
                if asker.send(body).is_err() {
                    tracing::debug!("nobody waits for an answer any more");
                }
                None
            }
            Asker::ReaderOfTop(handle) => {
                let has_mount = owed.of_top.get_mut(&handle);
                match (kind, has_mount) {
                    (answer::NAME, Some(has_mount)) => {
                        *has_mount |= has_name(&mut reader, self.mount).unwrap_or(false);
                    }
                    (answer::STATUS, Some(has_mount))
                        if !*has_mount
                            && reader.uint32().ok() == Some(Refusal::end_of_file().code) =>
                    {
                        *has_mount = true;
                        return Some(self.mount_alone(id).into());
                    }
                    _ => {}
                }
                Some(packet)
            }
        }
    }

    /// No more will come: the answers that the client gets for what is still owed.
    pub(super) fn lose(&self, reason: &str) -> Vec<Bytes> {
        let mut owed = self.lock();
        owed.lost.get_or_insert_with(|| reason.to_owned());
        let unanswered = owed.by_id.drain();
        let refusal = Refusal::failure(reason);
        unanswered
            .filter_map(|(id, (asker, cost))| {
                self.room.add_permits(cost as usize);
                match asker {
                    Asker::Gateway(_) => None,
                    _ => Some(server::refused(id, &refusal).into()),
                }
            })
            .collect()
    }

    /// An answer with the mounted root as the only entry.
    pub(super) fn mount_alone(&self, id: u32) -> Vec<u8> {
        let mut answer = Writer::answer(answer::NAME, id);
        answer.uint32(1);
        answer.bytes().extend(&self.entry);
        answer.finish()
    }

    fn lock(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many packets the answer may need.
fn cost(request: &Request<'_>) -> u32 {
    match request {
        Request::Read { length, .. } => 1 + (*length).min(server::MOST_DATA).div_ceil(PACKET_BYTES),
        Request::Readdir { .. } | Request::Extended(Extension::UsersGroupsById { .. }) => ENTRIES,
        _ => 1,
    }
}

/// Whether a list of entries has one of this name.
fn has_name(reader: &mut Reader<'_>, name: &[u8]) -> Option<bool> {
    for _ in 0..reader.uint32().ok()? {
        let found = reader.string().ok()? == name;
        reader.string().ok()?;
        crate::sftp::attributes::Attributes::read(reader).ok()?;
        if found {
            return Some(true);
        }
    }
    Some(false)
}
