//! The connection to an engine: found when first needed, forgotten when it breaks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::SystemInfo;
use bollard::{API_DEFAULT_VERSION, Docker};

use super::DockerEngine;
use super::hijack::Call;
use crate::backend::image::engine::{EngineError, EngineInfo, Lack, Limit};
use crate::error_chain::chain;

/// Where WalT's own podman answers.
const WALT_SOCKET: &str = "/run/walt/podman/podman.socket";
/// Where Docker answers.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// Where the system's podman answers.
const PODMAN_SOCKET: &str = "/run/podman/podman.sock";

/// For calls that take no longer than the engine's housekeeping.
pub(super) const CALL: Duration = Duration::from_secs(60);
/// How long a new connection may take; podman starts itself on the first one.
const CONNECT: Duration = Duration::from_secs(15);

/// What a connection library says of these tells a user nothing.
pub(super) const BROKEN: &str = "the connection broke, or what answers is no container engine";
pub(super) const NOT_AN_ANSWER: &str = "the answer is not one of a container engine";

/// An engine that answered.
pub(super) struct Connection {
    pub(super) docker: Docker,
    pub(super) info: EngineInfo,
    pub(super) podman: bool,
}

/// Where an engine usually answers, the most fitting first.
pub(super) fn usual_sockets() -> Vec<PathBuf> {
    [WALT_SOCKET, DOCKER_SOCKET, PODMAN_SOCKET].map(PathBuf::from).to_vec()
}

/// Whether an engine, or what starts it when needed, listens where one usually answers.
pub fn somebody_listens() -> bool {
    usual_sockets().iter().any(|socket| std::os::unix::net::UnixStream::connect(socket).is_ok())
}

/// The connection, or why there is none.
#[derive(Default)]
pub(super) struct Found {
    connection: Option<Arc<Connection>>,
    /// What the last attempt to find one tried in vain.
    tried: Vec<String>,
}

impl DockerEngine {
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, EngineError> {
        let failures_before = self.failures.load(Ordering::SeqCst);
        let mut found = self.found.lock().await;
        if let Some(connection) = &found.connection {
            return Ok(Arc::clone(connection));
        }
        if self.failures.load(Ordering::SeqCst) != failures_before {
            // Whoever came first has just waited in vain; one after the other would wait for minutes.
            return Err(EngineError::Unavailable { tried: found.tried.clone() });
        }
        let mut tried = Vec::new();
        for socket in &self.candidates {
            match connect(socket).await {
                Ok(new) => {
                    let new = Arc::new(new);
                    found.connection = Some(Arc::clone(&new));
                    return Ok(new);
                }
                Err(reason) => tried.push(format!("{}: {reason}", socket.display())),
            }
        }
        found.tried.clone_from(&tried);
        self.failures.fetch_add(1, Ordering::SeqCst);
        Err(EngineError::Unavailable { tried })
    }

    /// Makes sure that the engine still answers, as it should.
    pub(super) async fn ping(&self) -> Result<EngineInfo, EngineError> {
        let connection = self.connection().await?;
        match connection.docker.ping().await {
            Ok(_) => Ok(connection.info.clone()),
            Err(error) => {
                let reason = reason_of(&error, CALL);
                let tried = vec![format!("{}: {reason}", connection.info.place.display())];
                self.noticed(Err(EngineError::Unavailable { tried })).await
            }
        }
    }

    /// Makes one call, and forgets the connection when nobody answers any more.
    pub(super) async fn call<T, F>(
        &self,
        operation: &'static str,
        object: &str,
        call: impl FnOnce(Arc<Connection>) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let connection = self.connection().await?;
        let result = call(connection)
            .await
            .map_err(|error| error_of(Call { operation, object }, error, CALL));
        self.noticed(result).await
    }

    pub(super) async fn noticed<T>(
        &self,
        result: Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let Err(EngineError::Unavailable { tried }) = result else {
            return result;
        };
        self.found.lock().await.connection = None;
        Err(EngineError::Unavailable { tried })
    }
}

async fn connect(socket: &Path) -> Result<Connection, String> {
    let path = socket.to_str().ok_or("not a valid path")?;
    let docker = Docker::connect_with_unix(path, CONNECT.as_secs(), API_DEFAULT_VERSION)
        .map_err(|error| reason_of(&error, CONNECT))?
        .negotiate_version()
        .await
        .map_err(|error| reason_of(&error, CONNECT))?;
    let version = docker.version().await.map_err(|error| reason_of(&error, CONNECT))?;
    let podman = version
        .components
        .as_ref()
        .is_some_and(|components| components.iter().any(|part| part.name.starts_with("Podman")));
    let lacks = match docker.info().await {
        Ok(told) => lack_of(&told).into_iter().collect(),
        Err(error) => {
            tracing::debug!(%error, "what the container engine can limit");
            Vec::new()
        }
    };
    let info = EngineInfo {
        product: format!(
            "{} {}",
            if podman { "Podman" } else { "Docker" },
            version.version.unwrap_or_default()
        ),
        architecture: version.arch.unwrap_or_default(),
        place: socket.to_owned(),
        lacks,
    };
    tracing::info!(engine = info.product, socket = %socket.display(), "container engine answers");
    Ok(Connection { docker: docker.with_timeout(CALL), info, podman })
}

/// Which limits the engine's host cannot enforce, as far as the engine says so.
fn lack_of(told: &SystemInfo) -> Option<Lack> {
    let limits: Vec<_> = [
        (Limit::Memory, told.memory_limit),
        (Limit::Processes, told.pids_limit),
        (Limit::Processors, told.cpu_cfs_quota),
    ]
    .into_iter()
    .filter(|(_, has)| *has == Some(false))
    .map(|(limit, _)| limit)
    .collect();
    let reason = "the engine says that the control groups of its host lack them";
    (!limits.is_empty()).then_some(Lack::Limits { limits, reason })
}

/// Puts an error of bollard into the engine's words.
pub(super) fn error_of(call: Call<'_>, error: Error, deadline: Duration) -> EngineError {
    let operation = call.operation;
    let object = short(call.object);
    match error {
        Error::DockerResponseServerError { status_code: 404, .. } => {
            EngineError::NotFound { operation, object }
        }
        Error::DockerResponseServerError { .. } | Error::DockerStreamError { .. } => {
            let reason = reason_of(&error, deadline);
            EngineError::Refused { operation, object, reason }
        }
        Error::RequestTimeoutError => EngineError::TimedOut { operation, object, waited: deadline },
        Error::SocketNotFoundError(ref socket) => {
            let reason = reason_of(&error, deadline);
            EngineError::Unavailable { tried: vec![format!("{socket}: {reason}")] }
        }
        Error::HyperLegacyError { ref err } if err.is_connect() => {
            EngineError::Unavailable { tried: vec![reason_of(&error, deadline)] }
        }
        error => {
            let reason = reason_of(&error, deadline);
            EngineError::Protocol { operation, object, reason }
        }
    }
}

/// What happened, in one line.
fn reason_of(error: &Error, deadline: Duration) -> String {
    match error {
        Error::DockerResponseServerError { status_code, message } => refusal(*status_code, message),
        Error::DockerStreamError { error } => one_line(error),
        Error::RequestTimeoutError => format!("no answer within {} s", deadline.as_secs()),
        Error::SocketNotFoundError(_) => "no such socket".to_owned(),
        // "Connection refused (os error 111)"
        Error::HyperLegacyError { err } if err.is_connect() => one_line(&root_cause(err)),
        Error::HyperLegacyError { .. } | Error::HyperResponseError { .. } => BROKEN.to_owned(),
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } => NOT_AN_ANSWER.to_owned(),
        error => one_line(&chain(error)),
    }
}

/// The engine's own words for a status other than success, or else the status.
pub(super) fn refusal(status: u16, message: &str) -> String {
    match message.trim() {
        "" => format!("the answer is HTTP status {status}"),
        page if page.starts_with('<') => format!("the answer is HTTP status {status}"),
        message => one_line(message),
    }
}

/// What others wrote, made fit for a line of a message: not too long, and nothing that a terminal
/// would obey.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 400;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut characters = line.chars().filter(|character| !character.is_control());
    let mut short: String = characters.by_ref().take(LONGEST).collect();
    if characters.next().is_some() {
        short += "...";
    }
    short
}

/// The last of a chain of causes, which is the system's.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// An identifier as engines show it to people; a name as it is.
pub(super) fn short(object: &str) -> String {
    const SHOWN: usize = 12;
    let is_id = object.len() == 64 && object.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { object.chars().take(SHOWN).collect() } else { object.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_becomes_a_line() {
        assert_eq!(refusal(500, " no space\n\tleft \u{1b}[2J"), "no space left [2J");
        assert_eq!(refusal(500, ""), "the answer is HTTP status 500");
        assert_eq!(refusal(502, "<html>\nsorry"), "the answer is HTTP status 502");
        assert_eq!(refusal(500, &"x".repeat(1000)).len(), 403);
    }

    #[test]
    fn identifiers_are_shortened_and_names_are_not() {
        assert_eq!(short(&"0a".repeat(32)), "0a0a0a0a0a0a");
        assert_eq!(short("alice/pc:latest"), "alice/pc:latest");
    }
}
