//! GET requests to the WalT server's web API.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::inventory::InventoryError;

/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Where the API is.
#[derive(Debug)]
pub(super) struct Api {
    /// As configured, for messages.
    url: String,
    host: String,
    port: u16,
    /// What the `Host` header says.
    authority: String,
    /// What the paths of all requests start with.
    path: String,
    deadline: Duration,
}

impl Api {
    /// Reads the base of the API's addresses; `deadline` bounds each request.
    pub(super) fn new(url: &str, deadline: Duration) -> Result<Self, InventoryError> {
        const EXAMPLE: &str = "write it like http://localhost/api/v1";
        let refused = |reason: String| InventoryError::ApiUrl { url: url.to_owned(), reason };
        let uri: Uri = url.parse().map_err(|error| refused(format!("{error}; {EXAMPLE}")))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(refused(format!(
                    "the WalT server's API speaks plain HTTP only; {EXAMPLE}"
                )));
            }
            _ => return Err(refused(format!("not an http:// address; {EXAMPLE}"))),
        }
        let Some(authority) = uri.authority() else {
            return Err(refused(format!("no host in it; {EXAMPLE}")));
        };
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(refused(format!("neither a user nor a query is possible; {EXAMPLE}")));
        }
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: authority.to_string(),
            path: uri.path().trim_end_matches('/').to_owned(),
            deadline,
        })
    }

    /// The body of the answer to `GET BASE/resource`.
    pub(super) async fn read(&self, resource: &str) -> Result<Bytes, InventoryError> {
        tokio::time::timeout(self.deadline, self.exchange(resource))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {:?}", self.deadline)))
            .map_err(|reason| self.error(resource, reason))
    }

    /// An answer that cannot be used, or none.
    pub(super) fn error(&self, resource: &str, reason: String) -> InventoryError {
        InventoryError::Http { url: format!("{}/{resource}", self.url), reason }
    }

    async fn exchange(&self, resource: &str) -> Result<Bytes, String> {
        let request = Request::get(format!("{}/{resource}", self.path))
            .header(HOST, &self.authority)
            .header(ACCEPT, "application/json")
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| io_reason(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| http_reason(&error))?;
        let mut connection = pin!(connection);
        let mut answer = pin!(async move {
            let answer = sender.send_request(request).await.map_err(|error| http_reason(&error))?;
            if answer.status() != StatusCode::OK {
                return Err(format!("HTTP {}", answer.status()));
            }
            Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
                .collect()
                .await
                .map(|body| body.to_bytes())
                .map_err(|error| body_reason(error.as_ref()))
        });
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            // What it delivered before it ended, also an error, waits in `answer`.
            _ = &mut connection => answer.await,
        }
    }
}

fn io_reason(error: &io::Error) -> String {
    match error.kind() {
        // The kind says it better than the system's text with its number.
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::TimedOut => error.kind().to_string(),
        _ => error.to_string(),
    }
}

fn http_reason(error: &hyper::Error) -> String {
    match io_error(error) {
        Some(error) => io_reason(error),
        None => format!("not an HTTP answer: {error}"),
    }
}

fn body_reason(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    if error.is::<LengthLimitError>() {
        return format!("the answer is longer than {MAX_ANSWER_BYTES} bytes");
    }
    match error.downcast_ref().and_then(io_error) {
        Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the answer was cut short".to_owned()
        }
        Some(error) => io_reason(error),
        None => format!("the answer could not be read: {error}"),
    }
}

/// What hyper wraps when the connection itself failed.
fn io_error(error: &hyper::Error) -> Option<&io::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        Api::new(url, Duration::from_secs(1)).unwrap_err().to_string()
    }

    #[test]
    fn https_is_refused_with_the_reason() {
        let message = refusal("https://walt/api/v1");
        assert!(
            message.starts_with("[walt] api = \"https://walt/api/v1\"")
                && message.contains("plain HTTP only")
                && message.contains("http://localhost/api/v1"),
            "{message}"
        );
    }

    #[test]
    fn other_addresses_are_refused() {
        for url in [
            "",
            "walt",
            "ftp://walt/api",
            "http://",
            "/api/v1",
            "http://me:secret@walt/api",
            "http://walt/api?x=1",
        ] {
            assert!(refusal(url).contains("http://localhost/api/v1"), "{url}");
        }
    }

    #[test]
    fn host_and_port_are_found() {
        for (url, host, port, path) in [
            ("http://walt/api/v1", "walt", 80, "/api/v1"),
            ("http://walt:8080/api/v1/", "walt", 8080, "/api/v1"),
            ("http://[::1]:8080", "::1", 8080, ""),
        ] {
            let api = Api::new(url, Duration::from_secs(1)).unwrap();
            assert_eq!((api.host.as_str(), api.port, api.path.as_str()), (host, port, path));
        }
    }
}
