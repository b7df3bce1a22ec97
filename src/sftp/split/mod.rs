//! One view of two file systems: a mounted root, served here, and what is around it, served by
//! another SFTP server.
//!
//! A [`Router`](router::Router) sends each request to one side by its paths or handles. Neither side
//! waits for the other, and the far one is not opened before it is needed. Answers go out as they
//! come; their identifiers are the client's own.

mod answers;
mod far;
mod offers;
mod output;
mod router;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::answers::Answers;
use self::far::Far;
use self::output::SplitOutput;
use self::router::Router;
use super::framing::Frames;
use super::root::Root;
use super::session::{self, SftpControl};
use crate::backend::{BackendSession, Console, Control, ExitStatus, Gone, Stdin, WindowSize};

/// What the router has to say that waits to be sent.
const EVENTS: usize = 16;

/// The files around a root.
#[async_trait]
pub trait Surroundings: Send + Sync {
    /// What they are the files of, for messages: `node rpi1`.
    fn name(&self) -> String;

    /// Starts an SFTP server over them. With `waits`, what is not there yet is waited for, and the
    /// console is told.
    ///
    /// # Errors
    /// Why there is none, in words for the user.
    async fn open(&self, waits: bool, console: &mut dyn Console) -> Result<BackendSession, String>;
}

/// Serves a mounted root, and passes what is not in it on to its surroundings, in one session.
///
/// As [`serve`](super::serve) it exits with 0 if all went well.
pub fn serve(root: Root, surroundings: Arc<dyn Surroundings>) -> std::io::Result<BackendSession> {
    let mount = root.mounted_at().unwrap_or_default();
    let entry = root.entry()?;
    let (near, near_control, near_output) = session::of_requests(root);
    let (events, came) = mpsc::channel(EVENTS);
    let cancelled = CancellationToken::new();
    let answers = Arc::new(Answers::new(mount, entry, near_control.mark()));
    let (offers, offered) = watch::channel(None);
    let far = Far::new(surroundings, Arc::clone(&answers), events.clone(), &cancelled, offered);
    let far = Arc::new(far);
    let router = Router::new(mount, near_control.mark(), near, Arc::clone(&far), events);
    Ok(BackendSession {
        stdin: Box::new(SplitInput { frames: Frames::default(), router }),
        control: Arc::new(SplitControl { near: near_control, far: Arc::clone(&far), cancelled }),
        output: Box::new(SplitOutput::new(near_output, far, answers, came, offers)),
        // Answers of the far side are bounded by what is asked of it.
        output_is_shared: false,
    })
}

struct SplitInput {
    frames: Frames,
    router: Router,
}

#[async_trait]
impl Stdin for SplitInput {
    async fn write(&mut self, data: Bytes) -> Result<(), Gone> {
        self.frames.feed_owned(data);
        loop {
            match self.frames.next_with_length() {
                Ok(Some(packet)) => self.router.route(packet).await?,
                Ok(None) => return Ok(()),
                // The near side ends the session over it, and says why.
                Err(_) => return self.router.pass_on(self.frames.take_rest()).await,
            }
        }
    }

    async fn eof(&mut self) -> Result<(), Gone> {
        let rest = self.frames.take_rest();
        if !rest.is_empty() {
            self.router.pass_on(rest).await?;
        }
        self.router.eof().await
    }
}

struct SplitControl {
    near: SftpControl,
    far: Arc<Far>,
    cancelled: CancellationToken,
}

#[async_trait]
impl Control for SplitControl {
    async fn window_change(&self, _size: WindowSize) -> Result<(), Gone> {
        Ok(())
    }

    async fn signal(&self, _name: &str) -> Result<(), Gone> {
        Ok(())
    }

    async fn ended_on_eof(&self) -> Option<ExitStatus> {
        let ended = self.near.ended_on_eof().await?;
        self.far.hang_up().await;
        Some(ended)
    }

    async fn hang_up(&self) {
        self.cancelled.cancel();
        self.far.hang_up().await;
        self.near.hang_up().await;
    }
}
