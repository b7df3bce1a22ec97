//! The connection to an engine: found when first needed, forgotten when it breaks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
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

impl DockerEngine {
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, EngineError> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok(Arc::clone(connection));
        }
        let mut tried = Vec::new();
        for socket in &self.candidates {
            match connect(socket).await {
                Ok(new) => {
                    let new = Arc::new(new);
                    *connection = Some(Arc::clone(&new));
                    return Ok(new);
                }
                Err(reason) => tried.push(format!("{}: {reason}", socket.display())),
            }
        }
        Err(EngineError::Unavailable { tried })
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
        *self.connection.lock().await = None;
        Err(EngineError::Unavailable { tried })
    }
}

async fn connect(socket: &Path) -> Result<Connection, String> {
    let path = socket.to_str().ok_or("not a valid path")?;
    let docker = Docker::connect_with_unix(path, CONNECT.as_secs(), API_DEFAULT_VERSION)
        .map_err(|error| match error {
            Error::SocketNotFoundError(_) => "no such socket".to_owned(),
            error => error.to_string(),
        })?
        .negotiate_version()
        .await
        .map_err(|error| root_cause(&error))?;
    let version = docker.version().await.map_err(|error| root_cause(&error))?;
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

/// The last of a chain of causes, which is the system's: "Connection refused (os error 111)".
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Puts an error of bollard into the engine's words.
pub(super) fn error_of(call: Call<'_>, error: Error, deadline: Duration) -> EngineError {
    let operation = call.operation;
    let object = call.object.to_owned();
    match error {
        Error::DockerResponseServerError { status_code: 404, .. } => {
            EngineError::NotFound { operation, object }
        }
        Error::DockerResponseServerError { message, .. }
        | Error::DockerStreamError { error: message } => {
            EngineError::Refused { operation, object, reason: message }
        }
        Error::RequestTimeoutError => EngineError::TimedOut { operation, object, waited: deadline },
        Error::SocketNotFoundError(socket) => {
            EngineError::Unavailable { tried: vec![format!("{socket}: no such socket")] }
        }
        Error::HyperLegacyError { err } if err.is_connect() => {
            EngineError::Unavailable { tried: vec![root_cause(&err)] }
        }
        // What its own connection library says tells a user nothing.
        Error::HyperLegacyError { .. } | Error::HyperResponseError { .. } => {
            EngineError::Protocol {
                operation,
                object,
                reason: "the connection to the container engine broke".to_owned(),
            }
        }
        error => EngineError::Protocol { operation, object, reason: chain(&error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_an_engine_denies_are_lacks_and_those_it_does_not_mention_are_none() {
        let told = SystemInfo {
            memory_limit: Some(false),
            pids_limit: Some(true),
            cpu_cfs_quota: Some(false),
            ..SystemInfo::default()
        };
        assert_eq!(
            lack_of(&told).unwrap().to_string(),
            "containers have no limits of memory and processor time: the engine says that the \
             control groups of its host lack them"
        );
        assert_eq!(lack_of(&SystemInfo::default()), None);
    }
}
