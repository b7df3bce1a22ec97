//! The client's input, copied to all nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::backend::{Gone, Stdin};

/// Pieces, of up to 32 KiB each, that wait for one node.
const PIECES: usize = 16;
/// How long the others wait for a node whose program takes nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// What ctrl-C sends on a terminal.
const INTERRUPT_KEY: u8 = 3;

/// A piece of input.
pub(super) enum Piece {
    Bytes(Bytes),
    Eof,
}

/// A node's end.
pub(super) struct MemberInput {
    pub(super) pieces: mpsc::Receiver<Piece>,
    /// To be set when the node's program runs.
    pub(super) runs: Arc<AtomicBool>,
    /// Cancelled when the node took too long, and gets no more.
    pub(super) lost: CancellationToken,
    /// Cancelled when the user pressed ctrl-C: who still waits for its node gives up.
    pub(super) interrupted: CancellationToken,
}

/// The client's end.
pub(super) struct SetStdin {
    nodes: Vec<NodeEnd>,
    has_terminal: bool,
    interrupted: CancellationToken,
}

struct NodeEnd {
    pieces: mpsc::Sender<Piece>,
    runs: Arc<AtomicBool>,
    lost: CancellationToken,
}

impl SetStdin {
    pub(super) fn new(has_terminal: bool) -> Self {
        Self { nodes: Vec::new(), has_terminal, interrupted: CancellationToken::new() }
    }

    pub(super) fn add(&mut self) -> MemberInput {
        let (sender, pieces) = mpsc::channel(PIECES);
        let (runs, lost) = (Arc::<AtomicBool>::default(), CancellationToken::new());
        self.nodes.push(NodeEnd { pieces: sender, runs: Arc::clone(&runs), lost: lost.clone() });
        MemberInput { pieces, runs, lost, interrupted: self.interrupted.clone() }
    }

    /// Copies a piece to all; nodes that take none any more are left out from then on.
    async fn copy(&mut self, piece: impl Fn() -> Piece) -> Result<(), Gone> {
        let taken = join_all(self.nodes.iter().map(|node| node.take(piece()))).await;
        let mut taken = taken.into_iter();
        self.nodes.retain(|_| taken.next() == Some(true));
        if self.nodes.is_empty() { Err(Gone) } else { Ok(()) }
    }
}

impl NodeEnd {
    /// Whether the node goes on taking input.
    async fn take(&self, piece: Piece) -> bool {
        let place = loop {
            let ran = self.runs.load(Ordering::Relaxed);
            match timeout(PATIENCE, self.pieces.reserve()).await {
                Ok(Ok(place)) => break place,
                // Its program reads no more, as head(1) does after some lines.
                Ok(Err(_)) => return false,
                Err(_) if ran => {
                    self.lost.cancel();
                    return false;
                }
                // It is waited for while it boots, within its own bound.
                Err(_) => {}
            }
        };
        place.send(piece);
        true
    }
}

#[async_trait]
impl Stdin for SetStdin {
    async fn write(&mut self, data: Bytes) -> Result<(), Gone> {
        if self.has_terminal && data.contains(&INTERRUPT_KEY) {
            self.interrupted.cancel();
        }
        self.copy(|| Piece::Bytes(data.clone())).await
    }

    async fn eof(&mut self) -> Result<(), Gone> {
        self.copy(|| Piece::Eof).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_takes_nothing_is_given_up_and_the_others_get_all() {
        let mut stdin = SetStdin::new(false);
        let (mut reads, stuck) = (stdin.add(), stdin.add());
        stuck.runs.store(true, Ordering::Relaxed);
        let reading = tokio::spawn(async move {
            let mut taken = 0;
            while let Some(Piece::Bytes(bytes)) = reads.pieces.recv().await {
                taken += bytes.len();
            }
            taken
        });
        for _ in 0..3 * PIECES {
            stdin.write(Bytes::from_static(b"0123456789")).await.unwrap();
        }
        assert!(stuck.lost.is_cancelled());
        stdin.eof().await.unwrap();
        assert_eq!(reading.await.unwrap(), 3 * PIECES * 10);
    }

    #[tokio::test(start_paused = true)]
    async fn several_nodes_that_take_nothing_hold_the_others_up_no_longer_than_one() {
        let mut stdin = SetStdin::new(false);
        let nodes: Vec<_> = (0..5).map(|_| stdin.add()).collect();
        for node in &nodes {
            node.runs.store(true, Ordering::Relaxed);
        }
        let started = tokio::time::Instant::now();
        for _ in 0..PIECES {
            stdin.write(Bytes::from_static(b"x")).await.unwrap();
        }
        assert_eq!(stdin.write(Bytes::from_static(b"x")).await, Err(Gone));
        assert_eq!(started.elapsed(), PATIENCE);
        assert!(nodes.iter().all(|node| node.lost.is_cancelled()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_boots_is_waited_for() {
        let mut stdin = SetStdin::new(false);
        let mut boots = stdin.add();
        let writing = tokio::spawn(async move {
            for _ in 0..=PIECES {
                stdin.write(Bytes::from_static(b"x")).await.unwrap();
            }
        });
        tokio::time::sleep(4 * PATIENCE).await;
        assert!(!boots.lost.is_cancelled() && !writing.is_finished());
        boots.runs.store(true, Ordering::Relaxed);
        for _ in 0..=PIECES {
            assert!(matches!(boots.pieces.recv().await, Some(Piece::Bytes(_))));
        }
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn a_program_that_reads_no_more_is_not_waited_for() {
        let mut stdin = SetStdin::new(false);
        drop(stdin.add());
        assert_eq!(stdin.write(Bytes::from_static(b"x")).await, Err(Gone));
    }
}
