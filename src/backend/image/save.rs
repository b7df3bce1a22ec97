//! What becomes of a container's changes: the question, the answer, the new image.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval_at};

use super::container::{Container, Held};
use super::engine::Engine;
use super::error::ImageError;
use super::naming::{ImageListener, SaveTarget};
use crate::backend::{Answer, Console};
use crate::names::AccountName;
use crate::target::ImageName;

/// How often a save that takes long says so.
const PROGRESS: Duration = Duration::from_secs(1);

/// What a user wants to become of the changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Save under this name.
    Save(SaveTarget),
    /// Throw them away.
    Abandon,
}

/// Saves containers. Saves under one name happen one after the other.
pub(super) struct Saves {
    engine: Arc<dyn Engine>,
    listener: Arc<dyn ImageListener>,
    names_in_use: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// A container with changes, its user, and the name that the user knows its image by.
pub(super) struct Question<'a> {
    pub(super) container: &'a Container,
    pub(super) account: &'a AccountName,
    pub(super) image: &'a ImageName,
}

impl Question<'_> {
    /// The name under which the changes are saved when no other is given.
    pub(super) fn same_name(&self) -> SaveTarget {
        SaveTarget::new(self.account, &self.image.name, self.image.tag.as_ref())
    }

    /// The image is not the account's own, so that saving it makes a copy.
    fn is_clone(&self) -> bool {
        self.container.base.fullname != self.same_name().fullname
    }
}

impl Saves {
    pub(super) fn new(engine: Arc<dyn Engine>, listener: Arc<dyn ImageListener>) -> Self {
        Self { engine, listener, names_in_use: Mutex::default() }
    }

    /// Asks what to do, until the answer can be followed.
    pub(super) async fn ask(&self, question: &Question<'_>, console: &mut dyn Console) -> Decision {
        let same = question.same_name();
        let prompt = format!(
            "Enter a new image name, or press Enter to overwrite \"{}\" (ctrl-C: abort): ",
            same.shown
        );
        console.discard_input();
        loop {
            let typed = match console.ask(&prompt).await {
                Answer::Line(line) => line,
                Answer::Interrupted | Answer::Gone => return Decision::Abandon,
            };
            let target = if typed.is_empty() {
                same.clone()
            } else {
                match SaveTarget::typed(question.account, &typed) {
                    Ok(target) => target,
                    Err(reason) => {
                        console.say(&reason).await;
                        continue;
                    }
                }
            };
            if let Err(error) = self.reference_for(question, &target).await {
                console.say(&sentence(&error)).await;
                continue;
            }
            if target != same {
                return Decision::Save(target);
            }
            match self.confirm(question, &same, console).await {
                Answer::Line(line) if is_yes(&line) => return Decision::Save(target),
                Answer::Line(_) => {}
                Answer::Interrupted | Answer::Gone => return Decision::Abandon,
            }
        }
    }

    async fn confirm(
        &self,
        question: &Question<'_>,
        same: &SaveTarget,
        console: &mut dyn Console,
    ) -> Answer {
        if question.is_clone() {
            console.say(&clone_notice(question, same)).await;
            return console.ask(&format!("Save as \"{}\"? (y/n): ", same.fullname)).await;
        }
        let nodes = self.listener.nodes_running(&same.fullname);
        let booted_by = match nodes.len() {
            0 => String::new(),
            1 => format!(" and 1 node boots it ({})", nodes.join(", ")),
            count => format!(" and {count} nodes boot it ({})", nodes.join(", ")),
        };
        console
            .ask(&format!(
                "Image \"{}\" will be overwritten{booted_by}. Are you sure? (y/n): ",
                same.shown
            ))
            .await
    }

    /// Saves the container, and tells the user and the WalT server.
    pub(super) async fn save(
        self: &Arc<Self>,
        container: &Arc<Container>,
        question: &Question<'_>,
        target: &SaveTarget,
        console: &mut dyn Console,
    ) -> Result<(), ImageError> {
        let same = question.same_name();
        let is_same = *target == same;
        if is_same && question.is_clone() && !console.is_terminal() {
            console.say(&clone_notice(question, target)).await;
        }
        let held = container.hold().await.ok_or(ImageError::Closing)?;
        // A task of its own: a save that was asked for is not undone by a client that leaves.
        let mut saving = {
            let (saves, container, target) =
                (Arc::clone(self), Arc::clone(container), target.clone());
            let question = (question.account.clone(), question.image.clone());
            tokio::spawn(async move {
                let question =
                    Question { container: &container, account: &question.0, image: &question.1 };
                saves.commit(&question, &target, held).await
            })
        };
        let begun = Instant::now();
        let mut ticks = interval_at((begun + PROGRESS).into(), PROGRESS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let saved = loop {
            tokio::select! {
                saved = &mut saving => break saved,
                _ = ticks.tick() => {
                    let text = format!(
                        "Saving image {}... {} s",
                        target.shown,
                        begun.elapsed().as_secs()
                    );
                    console.status(&text).await;
                }
            }
        };
        console.end_status().await;
        let told = match saved {
            Ok(saved) => saved?,
            Err(error) => {
                return Err(ImageError::State {
                    operation: "saving",
                    path: target.fullname.clone(),
                    source: std::io::Error::other(error),
                });
            }
        };
        console
            .say(&if is_same {
                format!("Image {} updated.", target.shown)
            } else {
                format!("New image {} saved.", target.shown)
            })
            .await;
        if let Err(reason) = told {
            console
                .say(&format!("Warning: the WalT server does not know about it yet: {reason}"))
                .await;
        }
        let nodes = self.listener.nodes_running(&target.fullname);
        if is_same && !nodes.is_empty() {
            let nodes = nodes.join(",");
            console
                .say(&format!(
                    "Nodes still run the old version: {nodes}. To reboot them: walt node reboot {nodes}"
                ))
                .await;
        }
        Ok(())
    }

    async fn commit(
        &self,
        question: &Question<'_>,
        target: &SaveTarget,
        held: Held,
    ) -> Result<Result<(), String>, ImageError> {
        let lock = self.lock_of(&target.fullname);
        let saving = lock.lock().await;
        let reference = self.reference_for(question, target).await?;
        let id = question.container.commit(&reference, held).await.map_err(|source| {
            // Also for when nobody is left to be told.
            tracing::error!(image = target.fullname, error = %source, "image not saved");
            ImageError::CommitFailed { image: target.shown.clone(), source }
        })?;
        drop(saving);
        tracing::info!(account = %question.account, image = target.fullname, id, "image saved");
        let told = self.listener.images_changed().await;
        if let Err(reason) = &told {
            tracing::warn!(image = target.fullname, reason, "the WalT server was not told");
        }
        Ok(told)
    }

    /// The engine's reference to save under, if the name may be used.
    async fn reference_for(
        &self,
        question: &Question<'_>,
        target: &SaveTarget,
    ) -> Result<String, ImageError> {
        let available = self.engine.image_references().await?;
        let Some(existing) = target.existing(&available) else {
            return Ok(target.new_reference());
        };
        if target.fullname != question.container.base.fullname {
            return Err(ImageError::NameTaken { image: target.shown.clone() });
        }
        if self.engine.image(existing).await?.id != question.container.base.id {
            return Err(ImageError::BaseChanged { image: target.shown.clone() });
        }
        Ok(existing.to_owned())
    }

    fn lock_of(&self, fullname: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.names_in_use.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody waits for a lock that is known here only.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(fullname.to_owned()).or_default())
    }
}

fn clone_notice(question: &Question<'_>, target: &SaveTarget) -> String {
    format!(
        "Image {} is not yours: it stays as it is, and your changes go to {}.",
        question.container.base.shown, target.fullname
    )
}

/// An error as a line of a conversation.
pub(super) fn sentence(error: &ImageError) -> String {
    let text = error.to_string();
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        format!("{}{}.", first.to_uppercase(), characters.as_str())
    })
}

fn is_yes(line: &str) -> bool {
    matches!(line.to_ascii_lowercase().as_str(), "y" | "yes")
}
