//! What becomes of images once they are saved: their history, and those that lost their names.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use bollard::errors::Error;
use bollard::models::ImageSummary;
use bollard::query_parameters::{ListImagesOptionsBuilder, RemoveImageOptionsBuilder};

use super::{DockerEngine, without_algorithm};
use crate::backend::image::engine::{EngineError, HistoryEntry, ImageDetails};

/// How often a list of images is asked for.
const ATTEMPTS: u32 = 5;

/// Lists images. Podman fails when one of them is removed meanwhile; then it is asked again.
pub(super) async fn list(
    engine: &DockerEngine,
    filters: &HashMap<&str, Vec<&str>>,
) -> Result<Vec<ImageSummary>, EngineError> {
    let mut attempts = ATTEMPTS;
    loop {
        let listed = engine
            .call("listing", "images", async |connection| {
                let options = ListImagesOptionsBuilder::new().filters(filters).build();
                connection.docker.list_images(Some(options)).await
            })
            .await;
        match listed {
            Err(EngineError::Refused { .. } | EngineError::NotFound { .. }) if attempts > 1 => {
                attempts -= 1;
            }
            listed => return listed,
        }
    }
}

pub(super) async fn history(
    engine: &DockerEngine,
    image: &str,
) -> Result<Vec<HistoryEntry>, EngineError> {
    let steps = engine
        .call("asking about image", image, async |connection| {
            connection.docker.image_history(image).await
        })
        .await?;
    Ok(steps
        .into_iter()
        .map(|step| HistoryEntry {
            created: UNIX_EPOCH
                + Duration::from_secs(u64::try_from(step.created).unwrap_or_default()),
            created_by: step.created_by,
            comment: step.comment,
        })
        .collect())
}

pub(super) async fn unnamed(engine: &DockerEngine) -> Result<Vec<ImageDetails>, EngineError> {
    let images = list(engine, &HashMap::from([("dangling", vec!["true"])])).await?;
    Ok(images
        .into_iter()
        .map(|image| ImageDetails {
            id: without_algorithm(&image.id),
            architecture: String::new(),
            references: Vec::new(),
            labels: image.labels.into_iter().collect(),
            layers: 0,
        })
        .collect())
}

pub(super) async fn remove_unnamed(
    engine: &DockerEngine,
    image: &str,
) -> Result<bool, EngineError> {
    let removed = engine
        .call("removing image", image, async |connection| {
            let is_named = connection
                .docker
                .inspect_image(image)
                .await?
                .repo_tags
                .is_some_and(|names| !names.is_empty());
            if is_named {
                return Ok(false);
            }
            // Its layers may belong to others, and stay then.
            let options = RemoveImageOptionsBuilder::new().noprune(true).build();
            match connection.docker.remove_image(image, Some(options), None).await {
                Ok(_) => Ok(true),
                // A container, or another image, is made of it.
                Err(Error::DockerResponseServerError { status_code: 409, .. }) => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await;
    match removed {
        Err(error) if error.is_not_found() => Ok(false),
        removed => removed,
    }
}
