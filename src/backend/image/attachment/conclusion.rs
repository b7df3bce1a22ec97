//! Sessions end; with the last one it is decided what becomes of the container's changes.

use std::sync::Arc;

use super::{Current, Inner};
use crate::backend::image::container::Container;
use crate::backend::image::error::ImageError;
use crate::backend::image::save::{Decision, Question, sentence};
use crate::backend::{Console, ExitStatus, SessionEnd, SessionRequest};
use crate::config::OnCommandSuccess;

/// What became of a container's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Saved,
    Discarded,
    Unchanged,
}

impl Inner {
    pub(super) async fn finish(
        &self,
        request: &SessionRequest,
        end: &SessionEnd,
        console: &mut dyn Console,
    ) -> Result<(), ImageError> {
        let is_interactive = request.is_interactive();
        let succeeded = *end == SessionEnd::Exited(ExitStatus::Code(0));
        let asks = is_interactive && *end != SessionEnd::ClientGone;
        let Some((container, is_last)) = self
            .session_ended(|current| {
                current.command_failed |= !is_interactive && !succeeded;
                // Whoever asks goes on being counted until there is an answer.
                !asks
            })
            .await
        else {
            return Ok(());
        };
        if *end == SessionEnd::BackendLost {
            let cause = container.cause_of_death().await;
            let image = container.base.shown.clone();
            if !asks || !container.is_changed().await.unwrap_or(false) {
                let is_last = is_last || (asks && self.counted_out().await.is_some());
                if is_last {
                    self.concluded(&container, Fate::Discarded).await;
                }
                return Err(ImageError::ContainerDied { image, reason: cause });
            }
            // Its files are still there.
            console.say(&format!("The container of image {image} is gone: {cause}.")).await;
        }
        if !asks {
            return if is_last {
                self.conclude(&container, is_interactive, end, console).await
            } else {
                Ok(())
            };
        }
        if is_last {
            return self.conclude(&container, true, end, console).await;
        }
        self.decide_for_all(&container, console).await;
        match self.counted_out().await {
            Some(container) => self.conclude(&container, true, end, console).await,
            None => Ok(()),
        }
    }

    /// Counts a session out that was still counted; returns the container if it was the last.
    async fn counted_out(&self) -> Option<Arc<Container>> {
        let (container, is_last) = self.session_ended(|_| true).await?;
        is_last.then_some(container)
    }

    /// Notes the end of a session. `leaves` records what is to be known about it, and says
    /// whether it is counted out even when it is not the last one. Returns the container and
    /// whether this was the last session; the last one has the container to itself.
    pub(super) async fn session_ended(
        &self,
        leaves: impl FnOnce(&mut Current) -> bool + Send,
    ) -> Option<(Arc<Container>, bool)> {
        let mut state = self.state.lock().await;
        let current = state.current.as_mut()?;
        let leaves = leaves(current);
        let is_last = current.active <= 1;
        if is_last {
            current.concluding = true;
        } else if leaves {
            current.active -= 1;
        }
        Some((Arc::clone(&current.container), is_last))
    }

    /// An interactive session ends before others: its answer stands for all.
    async fn decide_for_all(&self, container: &Arc<Container>, console: &mut dyn Console) {
        let _asking = self.asking.lock().await;
        if self.decision().await.is_some() {
            return;
        }
        match container.is_changed().await {
            Ok(true) => {}
            Ok(false) => {
                // The sessions that go on may change something yet.
                console
                    .say("Nothing was changed so far; other sessions still use the container.")
                    .await;
                return;
            }
            Err(error) => {
                console.say(&sentence(&error.into())).await;
                return;
            }
        }
        let decision = self.shared.saves.ask(&self.question(container), console).await;
        match &decision {
            Decision::Save(target) => {
                console
                    .say(&format!(
                        "Other sessions still use the container; image {} is saved when the last of them ends.",
                        target.shown
                    ))
                    .await;
            }
            Decision::Abandon => console.say(&not_saved(container)).await,
        }
        if let Some(current) = &mut self.state.lock().await.current {
            current.decision = Some(decision);
        }
    }

    /// The last session ended: saves, asks, or throws away.
    async fn conclude(
        &self,
        container: &Arc<Container>,
        is_interactive: bool,
        end: &SessionEnd,
        console: &mut dyn Console,
    ) -> Result<(), ImageError> {
        let result = match (self.decision().await, is_interactive, end) {
            (Some(Decision::Save(target)), _, _) => {
                container.come_to_rest().await;
                let question = self.question(container);
                match self.shared.saves.save(container, &question, &target, console).await {
                    Ok(()) => Ok(Fate::Saved),
                    Err(error) if is_interactive && *end != SessionEnd::ClientGone => {
                        console.say(&sentence(&error)).await;
                        Ok(self.ask_until_settled(container, console).await)
                    }
                    Err(error) => Err(error),
                }
            }
            (Some(Decision::Abandon), _, _) => Ok(Fate::Discarded),
            (None, _, SessionEnd::ClientGone) => Ok(Fate::Discarded),
            (None, true, _) => Ok(self.conclude_with_questions(container, console).await),
            (None, false, _) => self.conclude_commands(container, end, console).await,
        };
        let fate = match &result {
            Ok(fate) => *fate,
            Err(_) => Fate::Discarded,
        };
        self.concluded(container, fate).await;
        result.map(drop)
    }

    async fn conclude_with_questions(
        &self,
        container: &Arc<Container>,
        console: &mut dyn Console,
    ) -> Fate {
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
                return Fate::Unchanged;
            }
            Err(error) => {
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
    ) -> Fate {
        let question = self.question(container);
        loop {
            let decision = self.shared.saves.ask(&question, console).await;
            let Decision::Save(target) = decision else {
                console.say(&not_saved(container)).await;
                return Fate::Discarded;
            };
            match self.shared.saves.save(container, &question, &target, console).await {
                Ok(()) => return Fate::Saved,
                Err(error) => console.say(&sentence(&error)).await,
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
        let failed = match &self.state.lock().await.current {
            Some(current) => current.command_failed,
            None => true,
        };
        let image = &container.base.shown;
        if failed && *end == SessionEnd::Exited(ExitStatus::Code(0)) {
            // This one must not hear that all went well.
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
        let question = self.question(container);
        let target = question.same_name();
        self.shared.saves.save(container, &question, &target, console).await?;
        Ok(Fate::Saved)
    }

    /// The container's end, or the beginning of its wait for the next session. Changes that
    /// nobody saved end here, and nowhere else.
    pub(super) async fn concluded(&self, container: &Arc<Container>, fate: Fate) {
        let is_kept = fate == Fate::Unchanged && container.ending().is_none();
        if fate == Fate::Discarded {
            tracing::info!(
                account = %self.caller.account(),
                image = container.base.fullname,
                container = container.id,
                "container is thrown away without saving"
            );
        }
        if !is_kept {
            container.remove().await;
        }
        let mut state = self.state.lock().await;
        match &mut state.current {
            Some(current) if is_kept => {
                current.active = 0;
                current.concluding = false;
                current.command_failed = false;
            }
            current => *current = None,
        }
        drop(state);
        self.changed.notify_waiters();
    }

    async fn decision(&self) -> Option<Decision> {
        let state = self.state.lock().await;
        state.current.as_ref()?.decision.clone()
    }

    fn question<'a>(&'a self, container: &'a Container) -> Question<'a> {
        Question { container, account: self.caller.account(), image: &self.image }
    }
}

fn not_saved(container: &Container) -> String {
    format!("Image {} was not saved.", container.base.shown)
}
