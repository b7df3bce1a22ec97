//! Which side a request is for.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::far::{Far, LONE_ROOT};
use super::output::Event;
use crate::backend::{Gone, Stdin as _};
use crate::sftp::handles::Mark;
use crate::sftp::real_path::{joined, names};
use crate::sftp::request::{Extension, Request};
use crate::sftp::root::below;
use crate::sftp::server;
use crate::sftp::session::SftpInput;
use crate::sftp::status::Refusal;

/// A side, with the paths that the request must have there if they are not its own.
enum Side {
    Near(Option<Vec<Vec<u8>>>),
    Far(Option<Vec<Vec<u8>>>),
    /// The answer is known.
    Neither(Vec<u8>),
}

/// Where one path is.
enum Placed {
    Near(Option<Vec<u8>>),
    Far(Option<Vec<u8>>),
}

/// Sends requests to where their files are.
pub(super) struct Router {
    mount: &'static [u8],
    /// Of handles of the near side.
    mark: Mark,
    near: SftpInput,
    far: Arc<Far>,
    events: mpsc::Sender<Event>,
    /// Where relative paths start, once somebody told.
    home: Option<Vec<u8>>,
    /// The far side is waited for only by a client that has no use for the near one.
    waits: bool,
}

impl Router {
    pub(super) fn new(
        mount: &'static [u8],
        mark: Mark,
        near: SftpInput,
        far: Arc<Far>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self { mount, mark, near, far, events, home: None, waits: true }
    }

    /// Sends a packet, with its length, to its side.
    pub(super) async fn route(&mut self, packet: Bytes) -> Result<(), Gone> {
        let (id, request) = Request::parse(packet.get(4..).unwrap_or_default());
        let (Some(id), Ok(request)) = (id, request) else {
            return self.near.write(packet).await;
        };
        let with = |paths: Option<Vec<Vec<u8>>>| match paths {
            Some(paths) => request.with_paths(&packet[4..], &paths).map(Bytes::from),
            None => Some(packet.clone()),
        };
        match self.side_of(id, &request).await {
            Side::Near(paths) => self.near.write(with(paths).ok_or(Gone)?).await,
            Side::Far(paths) => {
                let waits = self.waits;
                self.far.send(with(paths).ok_or(Gone)?, waits).await
            }
            Side::Neither(answer) => self.answer(answer).await,
        }
    }

    /// Gives the near side what is no packet.
    pub(super) async fn pass_on(&mut self, bytes: Bytes) -> Result<(), Gone> {
        self.near.write(bytes).await
    }

    pub(super) async fn eof(&mut self) -> Result<(), Gone> {
        self.far.eof().await;
        self.near.eof().await
    }

    async fn answer(&self, answer: Vec<u8>) -> Result<(), Gone> {
        self.events.send(Event::Answer(answer.into())).await.map_err(|_| Gone)
    }

    async fn side_of(&mut self, id: u32, request: &Request<'_>) -> Side {
        match request {
            Request::Extended(Extension::HomeDirectory { .. }) => return Side::Far(None),
            Request::Extended(Extension::ExpandPath { path }) if path.starts_with(b"~") => {
                return Side::Far(None);
            }
            // Not worth opening the far side for.
            Request::Extended(Extension::UsersGroupsById { .. }) if self.far.is_open() => {
                return Side::Far(None);
            }
            Request::Realpath { path: b"" | b"." } => return self.where_it_starts(id).await,
            _ => {}
        }
        let (mut near, mut far) = (0, 0);
        for handle in request.handles() {
            *if self.mark.is_on(handle) { &mut near } else { &mut far } += 1;
        }
        let mut paths = Vec::new();
        let mut are_changed = false;
        for (path, _) in request.paths() {
            let changed = match self.place(path).await {
                Placed::Near(changed) => {
                    near += 1;
                    self.waits = false;
                    changed
                }
                Placed::Far(changed) => {
                    far += 1;
                    changed
                }
            };
            are_changed |= changed.is_some();
            paths.push(changed.unwrap_or_else(|| path.to_owned()));
        }
        let paths = are_changed.then_some(paths);
        match (near, far) {
            (_, 0) => Side::Near(paths),
            (0, _) => Side::Far(paths),
            // As between two file systems of one machine.
            _ => Side::Neither(server::refused(id, &Refusal::from(Errno::XDEV))),
        }
    }

    /// Where relative paths start: at `/`, if nobody is there to tell.
    async fn where_it_starts(&mut self, id: u32) -> Side {
        self.waits = false;
        let home = match self.home().await {
            Some(home) => home,
            None => self.home.insert(b"/".to_vec()).clone(),
        };
        Side::Neither(server::name(id, &home).finish())
    }

    async fn home(&mut self) -> Option<Vec<u8>> {
        if self.home.is_none() {
            self.home = self.far.real_path(b".", self.waits).await;
        }
        self.home.clone()
    }

    async fn place(&mut self, path: &[u8]) -> Placed {
        let absolute = if path.starts_with(b"/") {
            Cow::Borrowed(path)
        } else {
            match self.home().await {
                Some(home) if !path.is_empty() => {
                    Cow::Owned([home.as_slice(), b"/", path].concat())
                }
                _ => return Placed::Far(None),
            }
        };
        let changed = |path: Cow<'_, [u8]>| match path {
            Cow::Owned(path) => Some(path),
            Cow::Borrowed(_) => None,
        };
        if below(&absolute, self.mount).is_some() {
            return Placed::Near(changed(absolute));
        }
        match self.back_from_outside(&absolute).await {
            Some(path) => Placed::Near(Some(path)),
            None => Placed::Far(changed(absolute)),
        }
    }

    /// The path from the root on, of a path that leads there from elsewhere over `..`.
    async fn back_from_outside(&self, path: &[u8]) -> Option<Vec<u8>> {
        let names = Vec::from(names(path));
        let mut depth = 0_usize;
        let at = names.iter().position(|name| {
            if depth == 0 && name == self.mount {
                return true;
            }
            depth = if name == b".." { depth.saturating_sub(1) } else { depth + 1 };
            false
        })?;
        let (before, behind) = names.split_at(at);
        // Where `..` of a link is only the far side can tell.
        let leads_to_top = match self.far.real_path(&joined(before), false).await {
            Some(before) => before == b"/",
            None => !self.far.is_open(),
        };
        leads_to_top.then(|| joined(behind))
    }
}

/// Takes `..` out as if there were no links.
fn without_dots(names: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for name in names {
        if name == b".." {
            found.pop();
        } else {
            found.push(name.clone());
        }
    }
    found
}

/// Whether a path is `/`, in whatever form.
pub(super) fn is_the_top(path: &[u8]) -> bool {
    path.starts_with(b"/") && without_dots(&Vec::from(names(path))).is_empty()
}

/// Whether a handle is that of `/` without its surroundings.
pub(super) fn is_lone_root(handle: &[u8]) -> bool {
    handle == LONE_ROOT
}
