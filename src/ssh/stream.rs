//! A TCP stream as russh reads it: it can be ended from outside, it reads ahead, and it
//! acknowledges what comes during a login at once.
//!
//! russh runs a connection in a task of its own, which ends only with its stream: while a key
//! exchange is under way, or the peer reads nothing, no message reaches it. And it reads each
//! packet in two pieces, its length and its rest, which would be a system call each.
//!
//! OpenSSH, at both ends, switches Nagle's algorithm off only once a session has begun. Until then
//! it holds a small packet back as long as its last one is not acknowledged, and the kernel puts
//! acknowledgements off for 40 ms when there is nothing to answer yet. In a key exchange both come
//! together.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustix::net::sockopt::set_tcp_quickack;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The fewest and the most bytes asked for at once. Packets of bulk data have 32 KiB.
const READ_AHEAD: (usize, usize) = (4 * 1024, 64 * 1024);
/// After how many reads a session has begun, whatever credentials were tried.
const READS_OF_A_LOGIN: u8 = 32;

/// Fails every read and write with `ConnectionAborted` once its token is cancelled.
pub(crate) struct CancellableStream {
    stream: TcpStream,
    /// Read, but not asked for yet. Has no memory while it is empty: most connections are idle.
    ahead: BytesMut,
    /// How much to ask for next.
    read_ahead: usize,
    /// Reads that are still to be acknowledged at once.
    login_reads: u8,
    // One each, as reader and writer are polled by different tasks' wakers.
    read_end: Pin<Box<WaitForCancellationFutureOwned>>,
    write_end: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl CancellableStream {
    /// Ties a stream to a token.
    pub(crate) fn new(stream: TcpStream, end: &CancellationToken) -> Self {
        Self {
            stream,
            ahead: BytesMut::new(),
            read_ahead: READ_AHEAD.0,
            login_reads: READS_OF_A_LOGIN,
            read_end: Box::pin(end.clone().cancelled_owned()),
            write_end: Box::pin(end.clone().cancelled_owned()),
        }
    }
}

/// Grows while more comes than was asked for, shrinks when little does.
fn next_read_ahead(asked: usize, came: usize) -> usize {
    let (fewest, most) = READ_AHEAD;
    if came >= asked {
        (asked * 4).min(most)
    } else if came < asked / 8 {
        (asked / 4).max(fewest)
    } else {
        asked
    }
}

fn ended(
    end: &mut Pin<Box<WaitForCancellationFutureOwned>>,
    cx: &mut Context<'_>,
) -> io::Result<()> {
    match end.as_mut().poll(cx) {
        Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
        Poll::Pending => Ok(()),
    }
}

impl AsyncRead for CancellableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ahead.is_empty() {
            ended(&mut this.read_end, cx)?;
            // Looked at before memory is taken for what may not come for hours.
            ready!(this.stream.poll_read_ready(cx))?;
            let mut ahead = BytesMut::with_capacity(this.read_ahead);
            ready!(poll_read_buf(Pin::new(&mut this.stream), cx, &mut ahead))?;
            if this.login_reads > 0 {
                this.login_reads -= 1;
                // Holds for this once, tcp(7).
                set_tcp_quickack(&this.stream, true)?;
            }
            this.read_ahead = next_read_ahead(this.read_ahead, ahead.len());
            this.ahead = ahead;
        }
        let len = this.ahead.len().min(buf.remaining());
        buf.put_slice(&this.ahead[..len]);
        this.ahead.advance(len);
        if this.ahead.is_empty() {
            this.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CancellableStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ended(&mut self.write_end, cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ended(&mut self.write_end, cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ended(&mut self.write_end, cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ended(&mut self.write_end, cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rustix::net::sockopt::tcp_quickack;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_busy_connection_reads_much_at_once_and_an_idle_one_little() {
        let busy = (0..5).fold(READ_AHEAD.0, |asked, _| next_read_ahead(asked, asked));
        assert_eq!(busy, READ_AHEAD.1);
        assert_eq!(next_read_ahead(busy, busy / 2), busy);
        let idle = (0..5).fold(busy, |asked, _| next_read_ahead(asked, 100));
        assert_eq!(idle, READ_AHEAD.0);
    }

    #[tokio::test]
    async fn what_comes_during_a_login_is_acknowledged_at_once() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let mut peer = peer.unwrap();
        let mut stream = CancellableStream::new(accepted.unwrap().0, &CancellationToken::new());
        for _ in 0..READS_OF_A_LOGIN {
            // Whoever answers is taken to answer always, and to need no acknowledgement before.
            set_tcp_quickack(&stream.stream, false).unwrap();
            peer.write_all(b"x").await.unwrap();
            stream.read_u8().await.unwrap();
            assert!(tcp_quickack(&stream.stream).unwrap());
        }
        set_tcp_quickack(&stream.stream, false).unwrap();
        peer.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        assert!(!tcp_quickack(&stream.stream).unwrap());
    }
}
