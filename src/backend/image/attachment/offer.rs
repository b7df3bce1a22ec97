//! At a login, the account's unsaved changes of the same image are offered.

use std::sync::Arc;

use super::Inner;
use crate::backend::image::container::Container;
use crate::backend::image::dialogue::{Decision, is_yes, sentence};
use crate::backend::image::error::ImageError;
use crate::backend::image::naming::SaveTarget;
use crate::backend::image::save::Question;
use crate::backend::image::unsaved::Unsaved;
use crate::backend::{Answer, BackendError, Console, ago, size};

const CHOICES: &str = "Resume with them, save them as an image, discard them, or decide later? (r/s/d, Enter: later): ";

/// What became of an offer.
enum Settled {
    /// The container is to be started again.
    Resume(Arc<Container>),
    /// There is nothing left to decide about it.
    Done,
    /// All others are left for later, too.
    Later,
}

impl Inner {
    /// Offers what was left behind; returns a container to go on with.
    pub(super) async fn offer(
        &self,
        console: &mut dyn Console,
    ) -> Result<Option<Container>, BackendError> {
        if self.state.lock().await.current.is_some() {
            return Ok(None);
        }
        let left = tokio::select! {
            left = self.left_for_us() => left,
            _ = console.interrupted() => return Err(BackendError::Interrupted),
        };
        for unsaved in left {
            match self.offer_one(unsaved, console).await? {
                Settled::Resume(container) => return Ok(Arc::into_inner(container)),
                Settled::Done => {}
                Settled::Later => break,
            }
        }
        Ok(None)
    }

    /// What the account left of this image, the latest first. That it cannot be found out does not
    /// keep anybody from working.
    async fn left_for_us(&self) -> Vec<Unsaved> {
        let account = self.caller.account();
        let same = SaveTarget::new(account, &self.image.name, self.image.tag.as_ref());
        let found = async {
            if self.shared.left_at_most().await? == 0 {
                return Ok(Vec::new());
            }
            let mut unsaved = self.shared.take_stock(Some(account)).await?.unsaved;
            unsaved.retain(|unsaved| unsaved.container.same == same);
            Ok::<_, ImageError>(unsaved)
        };
        found.await.unwrap_or_else(|error| {
            tracing::warn!(%account, %error, "unsaved changes cannot be offered");
            Vec::new()
        })
    }

    async fn offer_one(
        &self,
        unsaved: Unsaved,
        console: &mut dyn Console,
    ) -> Result<Settled, BackendError> {
        let age = ago(unsaved.age());
        let container = Arc::new(unsaved.container);
        let amount = match self.shared.engine.written_bytes(&container.id).await {
            Ok(bytes) => format!(" ({})", size(bytes)),
            Err(error) => {
                tracing::debug!(container = container.id, %error, "size of unsaved changes");
                String::new()
            }
        };
        console
            .say(&format!(
                "You have unsaved changes of image {}{amount}, left {age}; their ID is {}.",
                container.base.shown,
                container.short_id()
            ))
            .await;
        loop {
            let answer = match console.ask(CHOICES).await {
                Answer::Line(line) => line.to_ascii_lowercase(),
                Answer::Interrupted | Answer::Gone => return Err(BackendError::Interrupted),
            };
            match answer.as_str() {
                "r" | "resume" => return Ok(Settled::Resume(container)),
                "" | "l" | "later" => return Ok(Settled::Later),
                "d" | "discard" => {
                    match console.ask("They cannot be brought back. Are you sure? (y/n): ").await {
                        Answer::Line(line) if is_yes(&line) => {}
                        Answer::Line(_) => continue,
                        Answer::Interrupted | Answer::Gone => {
                            return Err(BackendError::Interrupted);
                        }
                    }
                    self.shared.discard(&container).await;
                    console.say("The changes are discarded.").await;
                    return Ok(Settled::Done);
                }
                "s" | "save" => {
                    let question = Question { container: &container, caller: &self.caller };
                    let target = match self.shared.saves.ask(question, console).await {
                        Decision::Save(target) => target,
                        Decision::Abandon => {
                            console.say("Nothing is decided yet.").await;
                            continue;
                        }
                        Decision::Keep => return Err(BackendError::Interrupted),
                    };
                    match self.shared.saves.save(question, &target, console).await {
                        Ok(()) => {
                            container.remove().await;
                            self.shared.saves.remove_superseded(&container.base.id).await;
                            return Ok(Settled::Done);
                        }
                        Err(error) => console.say(&sentence(&error)).await,
                    }
                }
                _ => console.say("Type r, s, d, or just Enter.").await,
            }
        }
    }
}
