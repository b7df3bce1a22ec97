//! An engine that answers wrongly, slowly or not at all for as long as a test wants it to, and is a
//! real one otherwise.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manners {
    /// The real engine gets it.
    Faithful,
    /// The real engine gets it after a while.
    Slow,
    /// It is answered with what is no HTTP.
    Garbage,
    /// It is answered with an error and no reason.
    ServerError,
    /// It is answered with an error page of several lines.
    ErrorPage,
    /// It is answered with the beginning of a document.
    Truncated,
    /// It is answered with a document about something else.
    AnotherDocument,
    /// The connection is closed.
    HangsUp,
    /// Nothing happens.
    Silent,
}

/// All that have an answer of their own.
pub(crate) const WRONG: [Manners; 6] = [
    Manners::Garbage,
    Manners::ServerError,
    Manners::ErrorPage,
    Manners::Truncated,
    Manners::AnotherDocument,
    Manners::HangsUp,
];

impl Manners {
    /// What is answered, before the connection is closed.
    fn answer(self) -> Option<String> {
        let document = |status: &str, length: usize, body: &str| {
            format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            )
        };
        match self {
            Self::Faithful | Self::Slow | Self::Silent => None,
            Self::Garbage => Some("\u{1}\u{2}SSH-2.0-what\r\n\u{1b}[2J".to_owned()),
            Self::ServerError => Some(document("500 Internal Server Error", 0, "")),
            Self::ErrorPage => {
                let page = format!("<html>\n\u{1b}[2J{}\n</html>\n", "sorry ".repeat(2000));
                Some(document("502 Bad Gateway", page.len(), &page))
            }
            Self::Truncated => Some(document("200 OK", 1000, "{\"Version\": \"20")),
            Self::AnotherDocument => Some(document("200 OK", 12, "[1, \"x\", {}]")),
            Self::HangsUp => Some(String::new()),
        }
    }
}

/// The socket of such an engine.
pub(crate) struct Misbehaving {
    pub(crate) socket: PathBuf,
    manners: Arc<Mutex<Manners>>,
    connections: Arc<AtomicUsize>,
    _directory: tempfile::TempDir,
    _serving: JoinSet<()>,
}

impl Misbehaving {
    /// In front of the engine at `real`.
    pub(crate) fn before(real: &Path, manners: Manners) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let manners = Arc::new(Mutex::new(manners));
        let connections = Arc::new(AtomicUsize::new(0));
        let mut serving = JoinSet::new();
        let (real, now, count) = (real.to_owned(), Arc::clone(&manners), Arc::clone(&connections));
        serving.spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                clients.spawn(serve(client, real.clone(), Arc::clone(&now)));
            }
        });
        Self { socket, manners, connections, _directory: directory, _serving: serving }
    }

    /// From the next request on.
    pub(crate) fn turn(&self, manners: Manners) {
        *self.manners.lock().unwrap() = manners;
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Serves one connection. A request that makes it a stream is the last one that is looked at.
async fn serve(mut client: UnixStream, real: PathBuf, manners: Arc<Mutex<Manners>>) {
    // Either side may go first.
    let Ok(mut engine) = UnixStream::connect(real).await else { return };
    let mut is_stream = false;
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let passed = tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(read @ 1..) = read else { break };
                let request = &asked[..read];
                let now = *manners.lock().unwrap();
                if !is_stream {
                    if let Some(answer) = now.answer() {
                        let _ = client.write_all(answer.as_bytes()).await;
                        return;
                    }
                    match now {
                        Manners::Silent => std::future::pending().await,
                        Manners::Slow => tokio::time::sleep(Duration::from_millis(200)).await,
                        _ => {}
                    }
                    is_stream = request.windows(9).any(|part| part.eq_ignore_ascii_case(b"upgrade: "));
                }
                engine.write_all(request).await
            }
            read = engine.read(&mut answered) => {
                let Ok(read @ 1..) = read else { return };
                client.write_all(&answered[..read]).await
            }
        };
        if passed.is_err() {
            return;
        }
    }
    // The client has said all it wants to; the end of a stream still comes.
    let _ = engine.shutdown().await;
    let _ = tokio::io::copy(&mut engine, &mut client).await;
}
