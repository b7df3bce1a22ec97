//! Containers whose changes nobody saved or threw away: found again, offered, and ended in time.
//!
//! Nothing about them is kept but the containers themselves: whose they are and of which image is
//! in their labels, since when they rest is what the engine says. So there is nothing that a
//! crash, a full disk or a restart of the engine could make wrong.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::Shared;
use super::container::Container;
use super::error::ImageError;
use crate::names::AccountName;

/// How long others that take stock are waited for: they may bring an operating system to rest.
const TURN: Duration = Duration::from_secs(60);

/// A container at rest, with changes.
pub(super) struct Unsaved {
    pub(super) container: Container,
    /// When it came to rest.
    pub(super) since: SystemTime,
}

/// All that was left behind, as far as it is of interest. Nobody else can use it meanwhile, or
/// take stock.
pub(super) struct Stock {
    pub(super) unsaved: Vec<Unsaved>,
    /// How many containers had nothing in them to keep, or were kept for long enough.
    pub(super) removed: usize,
    _alone: Option<OwnedMutexGuard<()>>,
}

impl Unsaved {
    /// How long it has been resting.
    pub(super) fn age(&self) -> Duration {
        SystemTime::now().duration_since(self.since).unwrap_or_default()
    }
}

enum Found {
    Unsaved(Box<Unsaved>),
    Removed,
    /// The engine did not say enough. Looked at again next time.
    Unknown,
}

impl Shared {
    /// How many containers may have been left behind, whoever's; asks the disk only.
    pub(super) async fn left_at_most(&self) -> Result<usize, ImageError> {
        // Who takes stock uses everything meanwhile. If that takes too long, it is as if all that
        // it looks at were in use.
        drop(timeout(TURN, self.stock_taking.lock()).await);
        self.containers.left_at_most().await
    }

    /// Refuses a further container to an account that has left as many with unsaved changes as it
    /// may: each takes space, and nothing but its user's decision may end it before its time.
    pub(super) async fn room_for_one_more(&self, account: &AccountName) -> Result<(), ImageError> {
        let limit = self.max_unsaved;
        if limit == 0 || self.left_at_most().await? < limit {
            return Ok(());
        }
        if self.take_stock(Some(account)).await?.unsaved.len() < limit {
            return Ok(());
        }
        let (account, lobby) = (account.to_string(), self.lobby.clone());
        Err(ImageError::TooManyUnsaved { account, limit, lobby })
    }

    /// Looks through what was left behind, of one account or of all. What runs is brought to rest,
    /// what holds no changes or is old enough is removed.
    pub(super) async fn take_stock(&self, only: Option<&AccountName>) -> Result<Stock, ImageError> {
        let alone = timeout(TURN, Arc::clone(&self.stock_taking).lock_owned()).await.ok();
        let left = self.containers.left_behind().await?;
        let mut stock = Stock { unsaved: Vec::new(), removed: 0, _alone: alone };
        if only.is_none() {
            for (id, claim) in left.others {
                match self.engine.remove(&id).await {
                    Ok(()) => {
                        claim.settle();
                        stock.removed += 1;
                    }
                    Err(error) => tracing::warn!(container = id, %error, "container not removed"),
                }
            }
        }
        let wanted = left
            .of_sessions
            .into_iter()
            .filter(|container| only.is_none_or(|account| container.account == *account));
        for found in join_all(wanted.map(|container| self.examine(container))).await {
            match found {
                Found::Unsaved(unsaved) => stock.unsaved.push(*unsaved),
                Found::Removed => stock.removed += 1,
                Found::Unknown => {}
            }
        }
        if only.is_none() {
            self.examined()
                .retain(|name| stock.unsaved.iter().any(|unsaved| unsaved.container.name == *name));
        }
        stock.unsaved.sort_by_key(|unsaved| Reverse(unsaved.since));
        Ok(stock)
    }

    async fn examine(&self, mut container: Container) -> Found {
        match self.look_at(&mut container).await {
            Ok(Some(since)) => {
                let unsaved = Unsaved { container, since };
                let keep = self.defaults.keep_unsaved;
                if unsaved.age() < keep {
                    return Found::Unsaved(Box::new(unsaved));
                }
                tracing::info!(
                    container = unsaved.container.short_id(),
                    account = %unsaved.container.account,
                    image = unsaved.container.base.fullname,
                    seconds = keep.as_secs(),
                    "unsaved changes were kept for long enough, they are removed"
                );
                unsaved.container.remove().await;
                Found::Removed
            }
            Ok(None) => {
                tracing::info!(
                    container = container.short_id(),
                    account = %container.account,
                    image = container.base.fullname,
                    "removed a container that was left behind without unsaved changes"
                );
                container.remove().await;
                Found::Removed
            }
            Err(error) => {
                tracing::warn!(container = container.short_id(), %error, "container not examined");
                Found::Unknown
            }
        }
    }

    /// Since when it has been resting with changes; `None`: there are none.
    async fn look_at(&self, container: &mut Container) -> Result<Option<SystemTime>, ImageError> {
        let mut details = match self.engine.details(&container.id).await {
            Ok(details) => details,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if details.is_running {
            self.containers.watch(container);
            container.come_to_rest().await;
            details = self.engine.details(&container.id).await?;
        } else if self.examined().contains(&container.name) {
            return Ok(Some(details.last_used));
        }
        if !container.is_changed().await? || self.saves.has_saved(container).await? {
            return Ok(None);
        }
        tracing::info!(
            container = container.short_id(),
            account = %container.account,
            image = container.base.fullname,
            "found a container with unsaved changes"
        );
        self.examined().insert(container.name.clone());
        Ok(Some(details.last_used))
    }

    /// Leaves a container behind because it holds changes that nobody has decided about.
    pub(super) async fn keep(&self, container: &Container) {
        if self.defaults.keep_unsaved.is_zero() {
            container.remove().await;
            return;
        }
        container.come_to_rest().await;
        container.leave().await;
        tracing::info!(
            container = container.short_id(),
            account = %container.account,
            image = container.base.fullname,
            "unsaved changes are kept"
        );
    }

    /// Throws away what was kept.
    pub(super) async fn discard(&self, container: &Container) {
        tracing::info!(
            container = container.short_id(),
            account = %container.account,
            image = container.base.fullname,
            "unsaved changes are discarded by their user"
        );
        container.remove().await;
    }

    /// Forgets what was found in a container, because it is used again.
    pub(super) fn reopen(&self, container: &Container) {
        self.examined().remove(&container.name);
    }

    fn examined(&self) -> MutexGuard<'_, HashSet<String>> {
        self.examined.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
