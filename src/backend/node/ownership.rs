//! A node that boots somebody's image is likely in that one's use: whoever else comes is told.
//!
//! This is a courtesy between colleagues, as in WalT, and no protection: what an account may use at
//! all is decided by `allow`.

use tokio::sync::Mutex;
use tracing::info;

use crate::backend::{Answer, BackendError, Console, SessionRequest, StreamError};
use crate::config::OtherOwner;
use crate::inventory::{NodeRecord, other_owner};
use crate::names::AccountName;

/// What one client connection was told about the owner of its node.
#[derive(Default)]
pub(super) struct Courtesy {
    told: Mutex<Option<Told>>,
}

struct Told {
    owner: String,
    /// The user said to go on.
    agreed: bool,
}

impl Courtesy {
    /// Warns of another owner, and asks where somebody is there to answer; each once only.
    ///
    /// # Errors
    /// The user does not want to go on, or nobody can be asked and the node is to be left alone
    /// then.
    pub(super) async fn show(
        &self,
        node: &NodeRecord,
        account: &AccountName,
        request: &SessionRequest,
        console: &mut dyn Console,
    ) -> Result<(), BackendError> {
        let Some(owner) = other_owner(node, account) else { return Ok(()) };
        let mut told = tokio::select! {
            told = self.told.lock() => told,
            _ = console.interrupted() => return Err(BackendError::Interrupted),
        };
        let (warned, agreed) = match &*told {
            Some(told) if told.owner == owner => (true, told.agreed),
            _ => (false, false),
        };
        if agreed {
            return Ok(());
        }
        let can_answer = request.is_interactive();
        if !can_answer && node.options.other_owner == OtherOwner::Refuse {
            let owner = owner.to_owned();
            return Err(BackendError::InUse { name: node.name.clone(), owner });
        }
        if !warned || can_answer {
            let (name, image) = (&node.name, node.image.as_deref().unwrap_or_default());
            console
                .say(&format!(
                    "Warning: Node {name} seems to be used by another user. It runs {image}; if you \
                     are {owner}, log in as {owner}+{name}."
                ))
                .await;
        }
        if can_answer {
            ask(console).await?;
            info!(node = %node.name, owner, "the user goes on although the node is in use");
        }
        *told = Some(Told { owner: owner.to_owned(), agreed: can_answer });
        Ok(())
    }

    /// The same for a forward, which can neither be warned of nor asked about.
    pub(super) fn allows_forward(
        &self,
        node: &NodeRecord,
        account: &AccountName,
    ) -> Result<(), StreamError> {
        let Some(owner) = other_owner(node, account) else { return Ok(()) };
        if node.options.other_owner == OtherOwner::Warn {
            info!(node = %node.name, owner, "a forward to a node that another user owns");
            return Ok(());
        }
        // While the question is asked, the answer is not known.
        let agreed = self
            .told
            .try_lock()
            .is_ok_and(|told| told.as_ref().is_some_and(|told| told.agreed && told.owner == owner));
        if agreed {
            return Ok(());
        }
        let owner = owner.to_owned();
        let refusal = BackendError::InUse { name: node.name.clone(), owner };
        Err(StreamError::Prohibited(refusal.to_string()))
    }
}

async fn ask(console: &mut dyn Console) -> Result<(), BackendError> {
    loop {
        match console.ask("Go on all the same? (y/n): ").await {
            Answer::Line(line) if matches!(line.as_str(), "y" | "Y" | "yes") => return Ok(()),
            Answer::Line(line) if !matches!(line.as_str(), "n" | "N" | "no") => {}
            Answer::Line(_) | Answer::Interrupted | Answer::Gone => {
                return Err(BackendError::Interrupted);
            }
        }
    }
}
