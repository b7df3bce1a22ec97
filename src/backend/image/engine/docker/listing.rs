//! All containers that carry a label.
//!
//! Read as it comes: bollard fails on the whole list when one container is in a state that it does
//! not know, and Podman has such states.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::connection::{Connection, NOT_AN_ANSWER};
use super::hijack::Call;
use super::{hijack, version_prefix, without_algorithm};
use crate::backend::image::engine::{ContainerSummary, EngineError};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default, rename = "ImageID")]
    image_id: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

pub(super) async fn containers(
    connection: &Connection,
    label: &str,
    value: &str,
) -> Result<Vec<ContainerSummary>, EngineError> {
    let call = Call { operation: "listing", object: "containers" };
    let filters = serde_json::json!({ "label": [format!("{label}={value}")] }).to_string();
    let prefix = version_prefix(&connection.docker);
    let path = format!("{prefix}/containers/json?all=true&filters={}", encoded(&filters));
    let document = hijack::document(&connection.info.place, &path, call).await?;
    let listed: Vec<Listed> =
        serde_json::from_value(document).map_err(|_| call.protocol(NOT_AN_ANSWER))?;
    let summary = |container: Listed| ContainerSummary {
        id: container.id,
        name: container
            .names
            .unwrap_or_default()
            .first()
            .map(|name| name.trim_start_matches('/').to_owned())
            .unwrap_or_default(),
        image_id: without_algorithm(&container.image_id),
        labels: container.labels.unwrap_or_default(),
    };
    Ok(listed.into_iter().map(summary).collect())
}

/// As a value in a query, RFC 3986 section 2.1.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_encoded_and_any_state_is_read() {
        assert_eq!(encoded("{\"a\":[\"b=c\"]}"), "%7B%22a%22%3A%5B%22b%3Dc%22%5D%7D");
        let listed = r#"{"Id": "1", "State": "never heard of", "ImageID": "sha256:2"}"#;
        let listed: Listed = serde_json::from_str(listed).unwrap();
        assert_eq!((listed.id.as_str(), listed.image_id.as_str()), ("1", "sha256:2"));
    }
}
