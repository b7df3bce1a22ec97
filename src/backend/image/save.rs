//! Saving: a container's files become a named image.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval_at};

use super::container::{Container, Held};
use super::containers::Containers;
use super::engine::{Engine, EngineError, ImageDetails, Publication};
use super::error::ImageError;
use super::naming::{ImageListener, SaveTarget, canonical_reference};
use super::provenance::{Provenance, last_saved};
use crate::backend::{Caller, Console, size};

/// How often a save that takes long says so.
const PROGRESS: Duration = Duration::from_secs(1);
/// Engines take about 125 layers (overlay2); this leaves room for those of `walt image build`.
const MOST_LAYERS: usize = 100;
/// As many layers as are risked when merging them fails, for want of space perhaps.
const LAYERS_AT_WORST: usize = 120;

/// A container with changes, and who wants to save them.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) container: &'a Arc<Container>,
    pub(super) caller: &'a Caller,
}

impl Question<'_> {
    /// The name under which the changes are saved when no other is given.
    pub(super) fn same_name(&self) -> &SaveTarget {
        &self.container.same
    }

    /// The image is not the account's own, so that saving it makes a copy.
    pub(super) fn is_clone(&self) -> bool {
        self.container.base.fullname != self.same_name().fullname
    }

    /// Says so.
    pub(super) fn clone_notice(&self) -> String {
        format!(
            "Image {} is not yours: it stays as it is, and your changes go to {}.",
            self.container.base.shown,
            self.same_name().fullname
        )
    }
}

/// Saves containers. Saves under one name happen one after the other.
pub(super) struct Saves {
    engine: Arc<dyn Engine>,
    containers: Arc<Containers>,
    pub(super) listener: Arc<dyn ImageListener>,
    names_in_use: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Images without a name that are none of this gateway's.
    foreign: Mutex<HashSet<String>>,
}

/// The engine's reference to save under.
struct Place {
    reference: String,
    is_new: bool,
}

/// What there is to tell about a save.
struct Saved {
    is_new: bool,
    /// How many layers were merged into one.
    merged: Option<usize>,
    /// What the WalT server said.
    told: Result<(), String>,
}

impl Saves {
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        containers: Arc<Containers>,
        listener: Arc<dyn ImageListener>,
    ) -> Self {
        Self {
            engine,
            containers,
            listener,
            names_in_use: Mutex::default(),
            foreign: Mutex::default(),
        }
    }

    /// Saves the container, and tells the user and the WalT server.
    pub(super) async fn save(
        self: &Arc<Self>,
        question: Question<'_>,
        target: &SaveTarget,
        console: &mut dyn Console,
    ) -> Result<(), ImageError> {
        if target == question.same_name() && question.is_clone() && !console.is_terminal() {
            console.say(&question.clone_notice()).await;
        }
        let held = question.container.hold().await.ok_or(ImageError::Closing)?;
        // A task of its own: a save that was asked for is not undone by a client that leaves.
        let mut saving = {
            let (saves, target) = (Arc::clone(self), target.clone());
            let (container, caller) = (Arc::clone(question.container), question.caller.clone());
            tokio::spawn(async move { saves.commit(&container, &caller, &target, held).await })
        };
        let begun = Instant::now();
        let mut ticks = interval_at((begun + PROGRESS).into(), PROGRESS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut measuring = self.engine.written_bytes(&question.container.id);
        let mut is_measured = !console.is_terminal();
        let mut amount = String::new();
        let saved = loop {
            tokio::select! {
                saved = &mut saving => break saved,
                // Takes an engine its time, so only once the save is known to take longer.
                bytes = &mut measuring, if !is_measured && begun.elapsed() >= PROGRESS => {
                    is_measured = true;
                    amount = bytes.map_or_else(|_| String::new(), |bytes| format!(" ({})", size(bytes)));
                }
                _ = ticks.tick() => {
                    let seconds = begun.elapsed().as_secs();
                    let shown = &target.shown;
                    console.status(&format!("Saving image {shown}{amount}... {seconds} s")).await;
                }
            }
        };
        console.end_status().await;
        let saved = saved.map_err(|error| ImageError::State {
            operation: "saving",
            path: target.fullname.clone(),
            source: std::io::Error::other(error),
        })??;
        self.tell(target, &saved, console).await;
        Ok(())
    }

    async fn tell(&self, target: &SaveTarget, saved: &Saved, console: &mut dyn Console) {
        let shown = &target.shown;
        let line = if saved.is_new {
            format!("New image {shown} saved.")
        } else {
            format!("Image {shown} updated.")
        };
        console.say(&line).await;
        if let Some(layers) = saved.merged {
            console
                .say(&format!(
                    "Note: image {shown} had {layers} layers, near the most an engine takes; they were merged into one."
                ))
                .await;
        }
        if let Err(reason) = &saved.told {
            console
                .say(&format!("Warning: the WalT server does not know about it yet: {reason}"))
                .await;
        }
        let nodes = self.listener.nodes_running(&target.fullname);
        if !saved.is_new && !nodes.is_empty() {
            let nodes = nodes.join(",");
            console
                .say(&format!(
                    "Nodes still run the old version: {nodes}. To reboot them: walt node reboot {nodes}"
                ))
                .await;
        }
    }

    async fn commit(
        &self,
        container: &Arc<Container>,
        caller: &Caller,
        target: &SaveTarget,
        held: Held,
    ) -> Result<Saved, ImageError> {
        let lock = self.lock_of(&target.fullname);
        let saving = lock.lock().await;
        self.place_for(container, target).await?;
        let committed = match container.commit(&held).await {
            Ok(committed) => committed,
            Err(error) => return Err(self.not_committed(container, target, error).await),
        };
        let published = self.publish(container, caller, target, &committed).await;
        // Only the record goes: the layers belong to the named image as well.
        self.remove_unnamed(&committed).await;
        let (id, is_new, merged) = published?;
        drop(held);
        drop(saving);
        tracing::info!(account = %caller.account(), image = target.fullname, id, "image saved");
        let told = self.listener.images_changed().await;
        if let Err(reason) = &told {
            tracing::warn!(image = target.fullname, reason, "the WalT server was not told");
        }
        Ok(Saved { is_new, merged, told })
    }

    /// Gives the committed files their name; returns the identifier, whether the name is new, and
    /// how many layers were merged.
    async fn publish(
        &self,
        container: &Container,
        caller: &Caller,
        target: &SaveTarget,
        committed: &str,
    ) -> Result<(String, bool, Option<usize>), ImageError> {
        let layers = self.engine.image(committed).await?.layers;
        let labels = self.containers.owner_labels(container).await?;
        let mut flat = None;
        if layers > MOST_LAYERS {
            match self.engine.flatten(committed, &labels).await {
                Ok(image) => flat = Some(image),
                Err(error) if layers <= LAYERS_AT_WORST => {
                    tracing::warn!(image = target.fullname, layers, %error, "layers not merged");
                }
                Err(error) => return Err(not_saved(target, error)),
            }
        }
        let published = async {
            // Again, now that the long part is over: others than this gateway make images too.
            let place = self.place_for(container, target).await?;
            let provenance = Provenance {
                fullname: target.fullname.clone(),
                account: caller.account().to_string(),
                peer: caller.peer.ip().to_string(),
                container: container.name.clone(),
            };
            let publication = Publication {
                files: flat.clone().unwrap_or_else(|| committed.to_owned()),
                base: container.base.id.clone(),
                reference: place.reference,
                author: caller.account().to_string(),
                created_by: Provenance::created_by(&self.containers.gateway().await?),
                comment: provenance.comment(),
            };
            let id = self.engine.publish(&publication).await;
            Ok::<_, ImageError>((id.map_err(|error| not_saved(target, error))?, place.is_new))
        }
        .await;
        let merged = flat.as_ref().map(|_| layers);
        if let Some(flat) = flat {
            self.remove_unnamed(&flat).await;
        }
        let (id, is_new) = published?;
        Ok((id, is_new, merged))
    }

    /// Whether the name may be used for what is in the container.
    pub(super) async fn check(
        &self,
        container: &Container,
        target: &SaveTarget,
    ) -> Result<(), ImageError> {
        self.place_for(container, target).await.map(drop)
    }

    async fn place_for(
        &self,
        container: &Container,
        target: &SaveTarget,
    ) -> Result<Place, ImageError> {
        let available = self.engine.image_references().await?;
        let Some(existing) = target.existing(&available) else {
            return Ok(Place { reference: target.new_reference(), is_new: true });
        };
        if target.fullname != container.base.fullname {
            return Err(ImageError::NameTaken { image: target.shown.clone() });
        }
        let id = self.engine.image(existing).await?.id;
        if id != container.base.id {
            // Who it was is worth telling, if it can be told.
            let history = self.engine.history(&id).await.unwrap_or_default();
            let saved = last_saved(&history).map_or_else(String::new, |by| format!(" ({by})"));
            return Err(ImageError::BaseChanged { image: target.shown.clone(), saved });
        }
        Ok(Place { reference: existing.to_owned(), is_new: false })
    }

    /// The first free name beside a name that somebody else was faster with.
    pub(super) async fn aside(&self, target: &SaveTarget) -> Result<SaveTarget, ImageError> {
        let available = self.engine.image_references().await?;
        target
            .aside()
            .find(|aside| aside.existing(&available).is_none())
            .ok_or_else(|| ImageError::NameTaken { image: target.shown.clone() })
    }

    /// Whether an image of the account has the container's files already: the gateway was killed
    /// between a save and the end of its container.
    pub(super) async fn has_saved(&self, container: &Container) -> Result<bool, ImageError> {
        let owner = format!("{}/", container.account);
        for reference in self.engine.image_references().await? {
            if !canonical_reference(&reference).starts_with(&owner) {
                continue;
            }
            let history = match self.engine.history(&reference).await {
                Ok(history) => history,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            let is_from_it = |saved: Provenance| saved.container == container.name;
            if history.iter().filter_map(Provenance::of).any(is_from_it) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes an image that this gateway saved once and that has lost its name to a newer one,
    /// unless something uses it.
    pub(super) async fn remove_superseded(&self, image: &str) {
        match self.is_superseded(image).await {
            Ok(true) => self.remove_unnamed(image).await,
            Ok(false) => {}
            Err(error) => tracing::debug!(image, %error, "an older version is left"),
        }
    }

    async fn is_superseded(&self, image: &str) -> Result<bool, ImageError> {
        match self.engine.image(image).await {
            Ok(details) if details.references.is_empty() => {}
            Ok(_) => return Ok(false),
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let history = self.engine.history(image).await?;
        let made_by = Provenance::created_by(&self.containers.gateway().await?);
        let provenance =
            history.first().filter(|newest| newest.created_by == made_by).and_then(Provenance::of);
        let Some(provenance) = provenance else {
            self.foreign().insert(image.to_owned());
            return Ok(false);
        };
        // A node that has not rebooted yet may have the old version for its file system.
        Ok(self.listener.nodes_running(&provenance.fullname).is_empty()
            && !self.listener.is_in_use(&provenance.fullname))
    }

    /// Removes images without a name that saves have left behind.
    pub(super) async fn tidy(&self) -> Result<(), ImageError> {
        let unnamed = self.engine.unnamed_images().await?;
        self.foreign().retain(|known| unnamed.iter().any(|image| image.id == *known));
        for image in unnamed {
            if self.is_abandoned(&image).await? {
                self.remove_unnamed(&image.id).await;
            } else if !self.foreign().contains(&image.id) {
                self.remove_superseded(&image.id).await;
            }
        }
        Ok(())
    }

    async fn is_abandoned(&self, image: &ImageDetails) -> Result<bool, ImageError> {
        Ok(self.containers.abandoned_commit(image).await?.is_some())
    }

    /// Docker commits nothing once the image that a container is made of was removed by force.
    async fn not_committed(
        &self,
        container: &Container,
        target: &SaveTarget,
        error: EngineError,
    ) -> ImageError {
        let may_be_why =
            matches!(error, EngineError::Refused { .. } | EngineError::NotFound { .. });
        let failure = not_saved(target, error);
        if !may_be_why || self.engine.details(&container.id).await.is_err() {
            return failure;
        }
        match self.engine.image(&container.base.id).await {
            Err(missing) if missing.is_not_found() => ImageError::BaseRemoved {
                image: container.base.shown.clone(),
                container: container.short_id().to_owned(),
            },
            _ => failure,
        }
    }

    async fn remove_unnamed(&self, image: &str) {
        match self.engine.remove_unnamed_image(image).await {
            Ok(removed) => tracing::debug!(image, removed, "image without a name"),
            // Found again later.
            Err(error) => tracing::warn!(image, %error, "an image without a name is left"),
        }
    }

    fn foreign(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_of(&self, fullname: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.names_in_use.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody waits for a lock that is known here only.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(fullname.to_owned()).or_default())
    }
}

fn not_saved(target: &SaveTarget, source: EngineError) -> ImageError {
    // Also for when nobody is left to be told.
    tracing::error!(image = target.fullname, error = %source, "image not saved");
    ImageError::CommitFailed { image: target.shown.clone(), source }
}
