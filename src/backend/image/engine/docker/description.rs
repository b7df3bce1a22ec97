//! One container, as the engine describes it.
//!
//! Read as it comes, like the list of all: bollard fails on states that it does not know, and Podman
//! has one for a container that is about to end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Deserialize;

use super::connection::NOT_AN_ANSWER;
use super::hijack::Call;
use super::{DockerEngine, exit_code, hijack, version_prefix};
use crate::backend::image::engine::{ContainerDetails, EngineError, ProcessState};

/// Podman's state of a container that was told to end and has not yet.
const STOPPING: &str = "stopping";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Description {
    #[serde(default)]
    state: State,
    created: Option<String>,
    graph_driver: Option<GraphDriver>,
    /// Only if it was asked for.
    size_rw: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: Option<String>,
    running: Option<bool>,
    pid: Option<i64>,
    exit_code: Option<i64>,
    finished_at: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriver {
    name: String,
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
}

/// Asks about the container that `call` is about; its size takes longer.
pub(super) async fn describe(
    engine: &DockerEngine,
    call: Call<'_>,
    with_size: bool,
) -> Result<Description, EngineError> {
    let connection = engine.connection().await?;
    let prefix = version_prefix(&connection.docker);
    let path = format!("{prefix}/containers/{}/json?size={with_size}", call.object);
    let document = hijack::document(&connection.info.place, &path, call).await;
    let document = engine.noticed(document).await?;
    serde_json::from_value(document).map_err(|_| call.protocol(NOT_AN_ANSWER))
}

impl Description {
    fn is_running(&self) -> bool {
        self.state.running == Some(true) || self.state.status.as_deref() == Some(STOPPING)
    }

    /// Where process 1 stands.
    pub(super) fn state(&self) -> ProcessState {
        if self.is_running() {
            let pid = self.state.pid.and_then(|pid| i32::try_from(pid).ok());
            ProcessState::Running { host_pid: pid.filter(|pid| *pid > 0) }
        } else {
            ProcessState::Exited(exit_code(self.state.exit_code.unwrap_or_default()))
        }
    }

    pub(super) fn details(&self) -> ContainerDetails {
        // One that never ran has ended in the year 1.
        let ended = self.state.finished_at.as_deref().and_then(time_of);
        ContainerDetails {
            is_running: self.is_running(),
            last_used: ended
                .or_else(|| self.created.as_deref().and_then(time_of))
                .unwrap_or_else(SystemTime::now),
        }
    }

    /// How many bytes its files take on top of its image's.
    pub(super) fn written_bytes(&self) -> u64 {
        self.size_rw.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
    }

    /// Where overlayfs keeps what it wrote, if the engine uses that and it is within reach.
    pub(super) fn upper_directory(&self) -> Option<PathBuf> {
        let driver = self.graph_driver.as_ref()?;
        let upper = PathBuf::from(driver.data.as_ref()?.get("UpperDir")?);
        (driver.name.starts_with("overlay") && upper.is_dir()).then_some(upper)
    }
}

/// A time as the engine prints it (RFC 3339), unless it stands for none.
fn time_of(text: &str) -> Option<SystemTime> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    (time.timestamp() > 0).then(|| time.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(text: &str) -> Description {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_container_that_is_about_to_end_still_runs() {
        let stopping = r#"{"State": {"Status": "stopping", "Running": false, "Pid": 7}}"#;
        let stopping = described(stopping);
        assert!(stopping.details().is_running);
        assert_eq!(stopping.state(), ProcessState::Running { host_pid: Some(7) });
        let ended = r#"{"State": {"Status": "never heard of", "Running": false, "ExitCode": 3}}"#;
        assert_eq!(described(ended).state(), ProcessState::Exited(3));
    }

    #[test]
    fn one_that_never_ran_was_last_used_when_it_was_made() {
        let made = r#"{"Created": "2020-01-02T03:04:05.5Z", "State": {"FinishedAt": "0001-01-01T00:00:00Z"}}"#;
        let made = described(made);
        assert_eq!(Some(made.details().last_used), time_of("2020-01-02T03:04:05.5Z"));
        assert_eq!((made.written_bytes(), made.upper_directory()), (0, None));
    }
}
