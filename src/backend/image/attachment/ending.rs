//! Sessions end: each is counted out, and may decide for all that share its container.

use std::sync::Arc;

use super::conclusion::{Fate, not_saved};
use super::{Current, Inner};
use crate::backend::image::container::Container;
use crate::backend::image::dialogue::{Decision, sentence};
use crate::backend::image::error::ImageError;
use crate::backend::{Console, ExitStatus, SessionEnd, SessionRequest};

/// Not every user wants to save what was too much.
const RATHER_RESUME: &str = "If you disconnect instead of answering, the changes are kept: log in again to resume with them and to remove some.";

impl Inner {
    /// A session ended.
    pub(super) async fn finish(
        &self,
        request: &SessionRequest,
        end: &SessionEnd,
        console: &mut dyn Console,
    ) -> Result<(), ImageError> {
        let is_interactive = request.is_interactive();
        let asks = is_interactive && *end != SessionEnd::ClientGone;
        let succeeded = *end == SessionEnd::Exited(ExitStatus::Code(0));
        // What is wrong with it was said before the session began.
        let beforehand = Decision::beforehand(self.caller.account(), request).unwrap_or_default();
        let Some((container, is_last)) = self
            .session_ended(|current| {
                match end {
                    SessionEnd::Exited(_) => {
                        current.command_failed |= !is_interactive && !succeeded
                    }
                    SessionEnd::BackendLost | SessionEnd::ClientGone => current.client_lost = true,
                }
                if !asks && current.active <= 1 {
                    current.presence.ends();
                }
                if asks || succeeded {
                    current.decision = current.decision.take().or(beforehand);
                }
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
            if !asks || !self.is_changed_so_far(&container).await.unwrap_or(false) {
                let is_last = is_last || (asks && self.counted_out().await.is_some());
                if is_last && self.conclude_unattended(&container).await == Fate::Kept {
                    console.say(&self.kept(&container)).await;
                }
                return Err(ImageError::ContainerDied { image, reason: cause });
            }
            // Its files are still there.
            console.say(&format!("The container of image {image} is gone: {cause}.")).await;
            if container.wrote_too_much().is_some() && !self.shared.defaults.keep_unsaved.is_zero()
            {
                console.say(RATHER_RESUME).await;
            }
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
        match self.is_changed_so_far(container).await {
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
        self.tell_of_others(container, console).await;
        let decision = self.shared.saves.ask(self.question(container), console).await;
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
            Decision::Keep => {}
        }
        if let Some(current) = &mut self.state.lock().await.current {
            current.decision = Some(decision);
        }
    }
}
