//! The last session of a container ended: it is decided what becomes of its changes.

use std::sync::Arc;

use super::Inner;
use crate::backend::image::container::Container;
use crate::backend::image::dialogue::{Decision, sentence};
use crate::backend::image::engine::EngineError;
use crate::backend::image::error::ImageError;
use crate::backend::image::naming::SaveTarget;
use crate::backend::image::save::Question;
use crate::backend::{Console, ExitStatus, SessionEnd, in_words};
use crate::config::OnCommandSuccess;

/// How often another name is tried when somebody else is faster with that one, too.
const ATTEMPTS_ASIDE: usize = 5;

/// What became of a container's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Saved,
    Discarded,
    Unchanged,
    /// Nobody decided: they wait for their user.
    Kept,
}

impl Inner {
    /// The last session ended: saves, asks, or throws away.
    pub(super) async fn conclude(
        &self,
        container: &Arc<Container>,
        is_interactive: bool,
        end: &SessionEnd,
        console: &mut dyn Console,
    ) -> Result<(), ImageError> {
        self.forwards.withdraw_files().await;
        let result = match (self.decision().await, is_interactive, end) {
            (Some(Decision::Save(target)), _, _) => {
                let answers = is_interactive && *end != SessionEnd::ClientGone;
                self.save_as_decided(container, &target, answers, console).await
            }
            (Some(Decision::Abandon), _, _) => Ok(Fate::Discarded),
            (Some(Decision::Keep), _, _) => Ok(Fate::Kept),
            (None, _, SessionEnd::ClientGone) => Ok(self.fate_unattended(container).await),
            (None, true, _) => self.conclude_with_questions(container, console).await,
            (None, false, _) => self.conclude_commands(container, end, console).await,
        };
        let result = match result {
            Err(error) => Err(self.unless_removed(container, error).await),
            done => done,
        };
        let fate = match &result {
            Ok(fate) => *fate,
            Err(ImageError::SavedAside { .. }) => Fate::Saved,
            Err(ImageError::SiblingFailed { .. }) => Fate::Discarded,
            // Nothing is left to keep.
            Err(ImageError::ContainerRemoved { .. }) => Fate::Unchanged,
            Err(_) => Fate::Kept,
        };
        if fate == Fate::Kept {
            console.say(&self.kept(container)).await;
        }
        self.concluded(container, fate).await;
        result.map(drop)
    }

    /// What went wrong, or that somebody removed the container, if that is why.
    async fn unless_removed(&self, container: &Container, error: ImageError) -> ImageError {
        // Podman refuses in words where others say that there is no such container.
        let may_be_gone = match &error {
            ImageError::Engine(source) | ImageError::CommitFailed { source, .. } => {
                matches!(source, EngineError::NotFound { .. } | EngineError::Refused { .. })
            }
            _ => false,
        };
        if may_be_gone
            && let Err(missing) = self.shared.engine.details(&container.id).await
            && missing.is_not_found()
        {
            tracing::warn!(container = container.id, "the container was removed by somebody else");
            return ImageError::ContainerRemoved { image: container.base.shown.clone() };
        }
        error
    }

    /// The last session ended, and there is nobody to ask.
    pub(super) async fn conclude_unattended(&self, container: &Arc<Container>) -> Fate {
        let fate = self.fate_unattended(container).await;
        self.concluded(container, fate).await;
        fate
    }

    async fn fate_unattended(&self, container: &Arc<Container>) -> Fate {
        self.forwards.withdraw_files().await;
        container.come_to_rest().await;
        match container.is_changed().await {
            Ok(false) => Fate::Unchanged,
            Ok(true) => Fate::Kept,
            Err(error) => match self.unless_removed(container, error.into()).await {
                ImageError::ContainerRemoved { .. } => Fate::Unchanged,
                error => {
                    tracing::warn!(container = container.id, %error, "changes are not known");
                    Fate::Kept
                }
            },
        }
    }

    /// Saves under a name that was decided on before; `answers`: there is somebody to ask when
    /// that is not possible.
    async fn save_as_decided(
        &self,
        container: &Arc<Container>,
        target: &SaveTarget,
        answers: bool,
        console: &mut dyn Console,
    ) -> Result<Fate, ImageError> {
        container.come_to_rest().await;
        if *target == container.same && !container.is_changed().await? {
            return Ok(Fate::Unchanged);
        }
        if !answers {
            return self.save_or_set_aside(container, target, console).await;
        }
        match self.shared.saves.save(self.question(container), target, console).await {
            Ok(()) => Ok(Fate::Saved),
            Err(error) => {
                console.say(&sentence(&error)).await;
                self.ask_until_settled(container, console).await
            }
        }
    }

    /// Saves; when somebody else was faster with the name, under another one, and says so by
    /// failing.
    async fn save_or_set_aside(
        &self,
        container: &Arc<Container>,
        target: &SaveTarget,
        console: &mut dyn Console,
    ) -> Result<Fate, ImageError> {
        let saves = &self.shared.saves;
        let question = self.question(container);
        let conflict = match saves.save(question, target, console).await {
            Ok(()) => return Ok(Fate::Saved),
            Err(ImageError::NameTaken { image }) => format!("image {image} exists already"),
            Err(ImageError::BaseChanged { image, saved }) => {
                format!(
                    "image {image} was changed by somebody else since this session began{saved}"
                )
            }
            Err(error) => return Err(error),
        };
        for _ in 0..ATTEMPTS_ASIDE {
            let aside = saves.aside(target).await?;
            match saves.save(question, &aside, console).await {
                Ok(()) => return Err(ImageError::SavedAside { conflict, aside: aside.shown }),
                // Somebody was faster again.
                Err(ImageError::NameTaken { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ImageError::NameTaken { image: target.shown.clone() })
    }

    /// Those who may save the same image before.
    pub(super) async fn tell_of_others(&self, container: &Container, console: &mut dyn Console) {
        let others = match &self.state.lock().await.current {
            Some(current) => current.presence.others(&container.base.shown),
            None => Vec::new(),
        };
        for line in others {
            console.say(&line).await;
        }
    }

    async fn conclude_with_questions(
        &self,
        container: &Arc<Container>,
        console: &mut dyn Console,
    ) -> Result<Fate, ImageError> {
        if let Some(warning) = container.come_to_rest().await {
            console.say(&warning).await;
        }
        match container.is_changed().await {
            Ok(true) => {}
            Ok(false) => {
                console
                    .say(&format!(
                        "Image {} was not changed: nothing to save.",
                        container.base.shown
                    ))
                    .await;
                return Ok(Fate::Unchanged);
            }
            Err(error) => {
                let error = self.unless_removed(container, error.into()).await;
                if matches!(error, ImageError::ContainerRemoved { .. }) {
                    return Err(error);
                }
                // Whether there is anything to save is not known: better to ask.
                tracing::warn!(container = container.id, %error, "changes are not known");
            }
        }
        self.ask_until_settled(container, console).await
    }

    /// Asks what is to become of the changes, until that has happened.
    async fn ask_until_settled(
        &self,
        container: &Arc<Container>,
        console: &mut dyn Console,
    ) -> Result<Fate, ImageError> {
        self.tell_of_others(container, console).await;
        let question = self.question(container);
        loop {
            let target = match self.shared.saves.ask(question, console).await {
                Decision::Save(target) => target,
                Decision::Abandon => {
                    console.say(&not_saved(container)).await;
                    return Ok(Fate::Discarded);
                }
                Decision::Keep => {
                    let image = container.base.shown.clone();
                    return Err(ImageError::Undecided { image });
                }
            };
            match self.shared.saves.save(question, &target, console).await {
                Ok(()) => return Ok(Fate::Saved),
                Err(error) => match self.unless_removed(container, error).await {
                    removed @ ImageError::ContainerRemoved { .. } => return Err(removed),
                    error => console.say(&sentence(&error)).await,
                },
            }
        }
    }

    async fn conclude_commands(
        &self,
        container: &Arc<Container>,
        end: &SessionEnd,
        console: &mut dyn Console,
    ) -> Result<Fate, ImageError> {
        if !container.is_changed().await? {
            return Ok(Fate::Unchanged);
        }
        let (failed, lost) = match &self.state.lock().await.current {
            Some(current) => (current.command_failed, current.client_lost),
            None => (false, true),
        };
        let image = &container.base.shown;
        if lost {
            return match end {
                // This one must not hear that all went well.
                SessionEnd::Exited(ExitStatus::Code(0)) => {
                    Err(ImageError::SiblingLost { image: image.clone() })
                }
                _ => Ok(Fate::Kept),
            };
        }
        if failed && *end == SessionEnd::Exited(ExitStatus::Code(0)) {
            return Err(ImageError::SiblingFailed { image: image.clone() });
        }
        if failed {
            console
                .say(&format!(
                    "Image {image} was not saved: the command failed, its changes are discarded."
                ))
                .await;
            return Ok(Fate::Discarded);
        }
        if self.shared.defaults.on_command_success == OnCommandSuccess::Discard {
            console
                .say(&format!(
                    "Image {image} was not saved: changes made by commands are discarded here."
                ))
                .await;
            return Ok(Fate::Discarded);
        }
        container.come_to_rest().await;
        self.save_or_set_aside(container, &container.same, console).await
    }

    /// The container's end, or the beginning of its wait for the next session. Changes that
    /// nobody saved end here, and nowhere else.
    pub(super) async fn concluded(&self, container: &Arc<Container>, fate: Fate) {
        let goes_on = fate == Fate::Unchanged && container.ending().is_none();
        if fate == Fate::Discarded {
            tracing::info!(
                account = %self.caller.account(),
                image = container.base.fullname,
                container = container.id,
                "container is thrown away without saving"
            );
        }
        match fate {
            _ if goes_on => {}
            Fate::Kept => self.shared.keep(container).await,
            Fate::Saved => {
                container.remove().await;
                self.shared.saves.remove_superseded(&container.base.id).await;
            }
            Fate::Discarded | Fate::Unchanged => container.remove().await,
        }
        let mut state = self.state.lock().await;
        match &mut state.current {
            Some(current) if goes_on => {
                self.forwards.resume(&current.interior, &self.arrivals).await;
                current.active = 0;
                current.concluding = false;
                current.presence.goes_on();
                current.command_failed = false;
                current.client_lost = false;
                current.decision = None;
            }
            current => {
                self.forwards.withdraw().await;
                *current = None;
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(super) async fn decision(&self) -> Option<Decision> {
        let state = self.state.lock().await;
        state.current.as_ref()?.decision.clone()
    }

    pub(super) fn question<'a>(&'a self, container: &'a Arc<Container>) -> Question<'a> {
        Question { container, caller: &self.caller }
    }

    /// Where changes that nobody decided about are.
    pub(super) fn kept(&self, container: &Container) -> String {
        let keep = self.shared.defaults.keep_unsaved;
        if keep.is_zero() {
            return not_saved(container);
        }
        let (id, lobby) = (container.short_id(), &self.shared.lobby);
        format!(
            "Image {} was not saved. The changes are kept for {}: log in to image.{} again, or use \"ssh {lobby}@... save {id} NAME\".",
            container.base.shown,
            in_words(keep),
            self.image,
        )
    }
}

pub(super) fn not_saved(container: &Container) -> String {
    format!("Image {} was not saved.", container.base.shown)
}
