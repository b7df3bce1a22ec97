//! Connections that stop being HTTP: the streams of attach and exec.
//!
//! bollard's decoder takes the first bytes of a terminal's output for a frame header when they
//! look like one, so these two calls are made here, over a connection of their own.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::net::UnixStream;

use super::connection::{BROKEN, NOT_AN_ANSWER, refusal, short};
use super::frames::FrameDecoder;
use crate::backend::image::engine::{EngineError, OutputChunk, ProcessOutput, ProcessStreams};

/// For the engine's answer; the stream after it has no limit in time.
const ANSWER: Duration = Duration::from_secs(60);
/// The largest answer that is not a stream: an error message, an image's description.
const ANSWER_BYTES: usize = 16 << 20;
const READ_BUFFER: usize = 64 << 10;

/// What is asked, of what: for error messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) operation: &'static str,
    pub(super) object: &'a str,
}

impl Call<'_> {
    pub(super) fn protocol(&self, reason: impl ToString) -> EngineError {
        EngineError::Protocol {
            operation: self.operation,
            object: short(self.object),
            reason: reason.to_string(),
        }
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> EngineError {
        let operation = self.operation;
        let object = short(self.object);
        if status == StatusCode::NOT_FOUND {
            return EngineError::NotFound { operation, object };
        }
        let message = serde_json::from_slice::<serde_json::Value>(body)
            .ok()
            .and_then(|value| Some(value.get("message")?.as_str()?.to_owned()));
        let reason = refusal(status.as_u16(), &message.unwrap_or_default());
        EngineError::Refused { operation, object, reason }
    }
}

/// Makes a call that turns its connection into the streams of a process.
pub(super) async fn upgrade(
    socket: &Path,
    path: &str,
    body: String,
    tty: bool,
    call: Call<'_>,
) -> Result<ProcessStreams, EngineError> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, "localhost")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "tcp")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| call.protocol(error))?;
    let upgraded = within_deadline(call, async {
        let response = send(socket, request, call).await?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body = collect(response, call).await?;
            return Err(call.refused(status, &body));
        }
        hyper::upgrade::on(response).await.map_err(|error| call.protocol(error))
    })
    .await?;
    let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
    Ok(ProcessStreams {
        stdin: Box::new(writer),
        output: Box::new(Streams {
            reader,
            read: BytesMut::new(),
            frames: (!tty).then(FrameDecoder::default),
        }),
    })
}

/// Gets a JSON document as it is, with what bollard's types leave out.
pub(super) async fn document(
    socket: &Path,
    path: &str,
    call: Call<'_>,
) -> Result<serde_json::Value, EngineError> {
    let request = Request::builder()
        .uri(path)
        .header(HOST, "localhost")
        .body(Full::new(Bytes::new()))
        .map_err(|error| call.protocol(error))?;
    within_deadline(call, async {
        let response = send(socket, request, call).await?;
        let status = response.status();
        let body = collect(response, call).await?;
        if !status.is_success() {
            return Err(call.refused(status, &body));
        }
        serde_json::from_slice(&body).map_err(|_| call.protocol(NOT_AN_ANSWER))
    })
    .await
}

async fn within_deadline<T>(
    call: Call<'_>,
    answer: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(|_| {
        Err(EngineError::TimedOut {
            operation: call.operation,
            object: short(call.object),
            waited: ANSWER,
        })
    })
}

async fn send(
    socket: &Path,
    request: Request<Full<Bytes>>,
    call: Call<'_>,
) -> Result<Response<Incoming>, EngineError> {
    let stream = UnixStream::connect(socket).await.map_err(|error| EngineError::Unavailable {
        tried: vec![format!("{}: {error}", socket.display())],
    })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|_| call.protocol(BROKEN))?;
    // Ends with the exchange, or hands the connection to the upgrade.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to the container engine");
        }
    });
    sender.send_request(request).await.map_err(|_| call.protocol(BROKEN))
}

async fn collect(response: Response<Incoming>, call: Call<'_>) -> Result<Bytes, EngineError> {
    Limited::new(response.into_body(), ANSWER_BYTES)
        .collect()
        .await
        .map(|body| body.to_bytes())
        .map_err(|_| call.protocol(BROKEN))
}

struct Streams {
    reader: ReadHalf<TokioIo<Upgraded>>,
    read: BytesMut,
    frames: Option<FrameDecoder>,
}

#[async_trait]
impl ProcessOutput for Streams {
    async fn next(&mut self) -> Option<OutputChunk> {
        loop {
            if let Some(frames) = &mut self.frames {
                match frames.next() {
                    Ok(Some(chunk)) => return Some(chunk),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, "unreadable stream from the container engine");
                        return None;
                    }
                }
            }
            self.read.reserve(READ_BUFFER);
            match self.reader.read_buf(&mut self.read).await {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "stream from the container engine ended");
                    return None;
                }
            }
            let data = self.read.split().freeze();
            match &mut self.frames {
                Some(frames) => frames.push(&data),
                None => return Some(OutputChunk::Stdout(data)),
            }
        }
    }
}
