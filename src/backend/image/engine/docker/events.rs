//! What happened to a container before.

use std::time::{SystemTime, UNIX_EPOCH};

use super::connection::Connection;
use super::hijack::{self, Call, encoded};
use super::version_prefix;
use crate::backend::image::engine::EngineError;

/// Whether an event of this kind happened to a container so far.
///
/// An engine goes on telling what happens until a time that it is given. Docker takes the present for
/// that and ends its answer at once. Podman 4.3 begins to read its notes and stops when that time has
/// come, in the middle of them: only asked for no stream does it tell all.
pub(super) async fn has_past(
    connection: &Connection,
    container: &str,
    event: &str,
) -> Result<bool, EngineError> {
    let call = Call { operation: "asking about container", object: container };
    let filters = serde_json::json!({ "container": [container], "event": [event] }).to_string();
    let end = if connection.podman {
        "stream=false".to_owned()
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("until={}.{:09}", now.as_secs(), now.subsec_nanos())
    };
    let prefix = version_prefix(&connection.docker);
    let path = format!("{prefix}/events?since=1&{end}&filters={}", encoded(&filters));
    let answer = hijack::answer(&connection.info.place, &path, call).await?;
    Ok(!answer.trim_ascii().is_empty())
}
