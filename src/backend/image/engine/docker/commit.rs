//! A container's files under its base image's configuration.
//!
//! The engine's commit mixes the container's own configuration into the image: its labels always,
//! and on Podman its environment, command and working directory as well. So the commit is only an
//! intermediate step, which puts the files into a layer. The image that gets the name is loaded
//! from an archive: the base image's configuration, and the layers by their digests. The engine
//! has these layers and does not read the archive's, so those are left empty.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bollard::Docker;
use bollard::body_full;
use bollard::models::ContainerConfig;
use bollard::query_parameters::{
    BuildImageOptionsBuilder, CommitContainerOptionsBuilder, ImportImageOptionsBuilder,
};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::hijack::{self, Call};
use super::{archive, error_of, history, without_algorithm};
use crate::backend::image::engine::{EngineError, Publication};

/// A container of many gigabytes on a slow disk.
const DEADLINE: Duration = Duration::from_secs(3600);
/// Of SHA-256 in hexadecimal.
const ID_DIGITS: usize = 64;

pub(super) async fn commit(docker: &Docker, container: &str) -> Result<String, EngineError> {
    let call = Call { operation: "saving container", object: container };
    let docker = docker.clone().with_timeout(DEADLINE);
    let options = CommitContainerOptionsBuilder::new().container(container).pause(true).build();
    let committed = docker
        .commit_container(options, ContainerConfig::default())
        .await
        .map_err(|error| error_of(call, error, DEADLINE))?;
    Ok(without_algorithm(&committed.id))
}

/// Has the engine's builder copy all files of an image into an empty one. The builder reads the
/// image itself. A container of it would not do: what the engine puts into every container, such
/// as an empty /etc/hosts, would replace the image's own.
pub(super) async fn flatten(
    docker: &Docker,
    image: &str,
    labels: &BTreeMap<String, String>,
) -> Result<String, EngineError> {
    let call = Call { operation: "merging the layers of image", object: image };
    let docker = docker.clone().with_timeout(DEADLINE);
    // In this order, the image that the builder makes of the first step has the labels as well.
    let labels: String = labels.iter().map(|(label, value)| format!(" {label}={value}")).collect();
    let script = format!("FROM scratch\nLABEL{labels}\nCOPY --from=sha256:{image} / /\n");
    let context = archive::of_files(&[("Dockerfile", script.as_bytes())]);
    let options =
        BuildImageOptionsBuilder::new().rm(true).forcerm(true).nocache(true).q(true).build();
    let mut steps =
        std::pin::pin!(docker.build_image(options, None, Some(body_full(context.into()))));
    let mut built = None;
    while let Some(step) = steps.next().await {
        let step = step.map_err(|error| error_of(call, error, DEADLINE))?;
        // Said last, alone on a line; Podman leaves the algorithm out.
        built = step
            .aux
            .and_then(|image| image.id)
            .or(step.stream)
            .map(|text| without_algorithm(text.trim()))
            .filter(|text| text.len() == ID_DIGITS && text.bytes().all(|c| c.is_ascii_hexdigit()))
            .or(built);
    }
    built.ok_or_else(|| call.protocol("the engine did not say which image it built"))
}

pub(super) async fn publish(
    docker: &Docker,
    socket: &Path,
    publication: &Publication,
) -> Result<String, EngineError> {
    let call = Call { operation: "saving", object: &publication.reference };
    let docker = &docker.clone().with_timeout(DEADLINE);
    let base = describe(docker, socket, &publication.base, "json", call).await?;
    let files = describe(docker, socket, &publication.files, "json", call).await?;
    let history = describe(docker, socket, &publication.base, "history", call).await?;
    let (archive, layers) =
        image_archive(&base, &history, &files, publication).ok_or_else(|| {
            call.protocol("the engine's description of the committed image has no layers")
        })?;
    let options = ImportImageOptionsBuilder::new().quiet(true).build();
    let mut progress =
        std::pin::pin!(docker.import_image(options, body_full(archive.into()), None));
    while let Some(step) = progress.next().await {
        step.map_err(|error| error_of(call, error, DEADLINE))?;
    }
    let saved = describe(docker, socket, &publication.reference, "json", call).await?;
    if saved.pointer("/RootFS/Layers") != Some(&layers) {
        return Err(call.protocol("the engine did not take the new image"));
    }
    saved
        .get("Id")
        .and_then(Value::as_str)
        .map(without_algorithm)
        .ok_or_else(|| call.protocol("the engine's description of the image has no identifier"))
}

async fn describe(
    docker: &Docker,
    socket: &Path,
    image: &str,
    resource: &str,
    call: Call<'_>,
) -> Result<Value, EngineError> {
    let path = format!("{}/images/{image}/{resource}", super::version_prefix(docker));
    hijack::document(socket, &path, call).await
}

/// The archive to load, and the list of layers that the loaded image has.
fn image_archive(
    base: &Value,
    base_history: &Value,
    files: &Value,
    publication: &Publication,
) -> Option<(Vec<u8>, Value)> {
    let layers = files.pointer("/RootFS/Layers")?.clone();
    let created = files.get("Created")?;
    let mut history = history::of_layers(base_history, layers.as_array()?.len().saturating_sub(1));
    history.push(json!({
        "created": created,
        "created_by": publication.created_by,
        "author": publication.author,
        "comment": publication.comment,
    }));
    let mut config = json!({
        "rootfs": { "type": "layers", "diff_ids": layers },
        "created": created,
        "config": base.get("Config")?,
        "history": history,
    });
    let fields = config.as_object_mut()?;
    for (from, to) in [
        ("Architecture", "architecture"),
        ("Variant", "variant"),
        ("Os", "os"),
        ("Author", "author"),
    ] {
        if let Some(value) = base.get(from).filter(|value| *value != "") {
            fields.insert(to.to_owned(), value.clone());
        }
    }
    let names: Vec<String> =
        (0..layers.as_array()?.len()).map(|number| format!("layer{number}.tar")).collect();
    let manifest = json!([{
        "Config": "config.json",
        "RepoTags": [publication.reference],
        "Layers": names,
    }]);
    let config = config.to_string();
    let manifest = manifest.to_string();
    let mut files: Vec<(&str, &[u8])> = vec![("config.json", config.as_bytes())];
    files.extend(names.iter().map(|name| (name.as_str(), &b""[..])));
    files.push(("manifest.json", manifest.as_bytes()));
    Some((archive::of_files(&files), layers))
}
