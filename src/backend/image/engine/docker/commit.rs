//! A container's files under its base image's configuration.
//!
//! The engine's commit mixes the container's own configuration into the image: its labels always,
//! and on Podman its environment, command and working directory as well. So the commit is only an
//! intermediate step, which puts the files into a layer. The image that gets the name is loaded
//! from an archive: the base image's configuration, and the layers by their digests. The engine
//! has these layers and does not read the archive's, so those are left empty.

use std::path::Path;
use std::time::Duration;

use bollard::Docker;
use bollard::body_full;
use bollard::models::ContainerConfig;
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, ImportImageOptionsBuilder, RemoveImageOptionsBuilder,
};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::hijack::{self, Call};
use super::{archive, error_of, without_algorithm};
use crate::backend::image::engine::EngineError;

/// A container of many gigabytes on a slow disk.
const DEADLINE: Duration = Duration::from_secs(3600);

pub(super) async fn commit(
    docker: &Docker,
    socket: &Path,
    container: &str,
    base: &str,
    reference: &str,
) -> Result<String, EngineError> {
    let docker = docker.clone().with_timeout(DEADLINE);
    let call = Call { operation: "saving", object: reference };
    let base_image = describe(&docker, socket, base, call).await?;
    let options = CommitContainerOptionsBuilder::new().container(container).pause(true).build();
    let layered = docker
        .commit_container(options, ContainerConfig::default())
        .await
        .map_err(|error| error_of(call, error, DEADLINE))?
        .id;
    let named = name(&docker, socket, &base_image, &layered, reference, call).await;
    // Only the intermediate image's record goes: the layers belong to the named image as well.
    let options = RemoveImageOptionsBuilder::new().noprune(true).build();
    if let Err(error) = docker.remove_image(&layered, Some(options), None).await {
        tracing::warn!(image = layered, %error, "intermediate image is left behind");
    }
    named
}

async fn name(
    docker: &Docker,
    socket: &Path,
    base_image: &Value,
    layered: &str,
    reference: &str,
    call: Call<'_>,
) -> Result<String, EngineError> {
    let layered = describe(docker, socket, layered, call).await?;
    let (archive, layers) = image_archive(base_image, &layered, reference).ok_or_else(|| {
        call.protocol("the engine's description of the committed image has no layers")
    })?;
    let options = ImportImageOptionsBuilder::new().quiet(true).build();
    let mut progress =
        std::pin::pin!(docker.import_image(options, body_full(archive.into()), None));
    while let Some(step) = progress.next().await {
        step.map_err(|error| error_of(call, error, DEADLINE))?;
    }
    let saved = describe(docker, socket, reference, call).await?;
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
    call: Call<'_>,
) -> Result<Value, EngineError> {
    let path = format!("{}/images/{image}/json", super::version_prefix(docker));
    hijack::document(socket, &path, call).await
}

/// The archive to load, and the list of layers that the loaded image has.
fn image_archive(base: &Value, layered: &Value, reference: &str) -> Option<(Vec<u8>, Value)> {
    let layers = layered.pointer("/RootFS/Layers")?.clone();
    let mut config = json!({
        "rootfs": { "type": "layers", "diff_ids": layers },
        "created": layered.get("Created")?,
        "config": base.get("Config")?,
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
        "RepoTags": [reference],
        "Layers": names,
    }]);
    let config = config.to_string();
    let manifest = manifest.to_string();
    let mut files: Vec<(&str, &[u8])> = vec![("config.json", config.as_bytes())];
    files.extend(names.iter().map(|name| (name.as_str(), &b""[..])));
    files.push(("manifest.json", manifest.as_bytes()));
    Some((archive::of_files(&files), layers))
}
