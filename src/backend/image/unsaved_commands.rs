//! The lobby's commands for unsaved changes: `unsaved`, `save ID NAME`, `discard ID`.

use std::sync::Arc;

use super::ImageBackend;
use super::container::Container;
use super::error::ImageError;
use super::naming::SaveTarget;
use super::save::Question;
use super::unsaved::Unsaved;
use crate::backend::{Caller, Console, ago, in_words, size};
use crate::names::AccountName;

/// As many digits of an identifier as must be given at least.
const SHORTEST_ID: usize = 4;

impl ImageBackend {
    /// Lists the account's unsaved changes: a line for each, latest first.
    pub async fn list_unsaved(&self, account: &AccountName) -> Result<String, ImageError> {
        let unsaved = self.unsaved_of(account).await?;
        if unsaved.is_empty() {
            return Ok("No unsaved changes.\n".to_owned());
        }
        let mut text =
            format!("{:<12}  {:<30}  {:>8}  {:<12}  KEPT FOR\n", "ID", "IMAGE", "SIZE", "LEFT");
        for unsaved in unsaved {
            let container = &unsaved.container;
            let amount = match self.shared.engine.written_bytes(&container.id).await {
                Ok(bytes) => size(bytes),
                Err(error) => {
                    tracing::debug!(container = container.id, %error, "size of unsaved changes");
                    "?".to_owned()
                }
            };
            let left = self.shared.defaults.keep_unsaved.saturating_sub(unsaved.age());
            text += &format!(
                "{:<12}  {:<30}  {amount:>8}  {:<12}  {}\n",
                container.short_id(),
                container.base.shown,
                ago(unsaved.age()),
                in_words(left),
            );
        }
        Ok(text)
    }

    /// Saves unsaved changes of the caller under a name.
    pub async fn save_unsaved(
        &self,
        caller: &Caller,
        id: &str,
        name: &str,
        console: &mut dyn Console,
    ) -> Result<(), ImageError> {
        let target = SaveTarget::typed(caller.account(), name)
            .map_err(|reason| ImageError::BadSaveName { reason })?;
        let container = Arc::new(self.unsaved_with(caller.account(), id).await?);
        let question = Question { container: &container, caller };
        self.shared.saves.save(question, &target, console).await?;
        container.remove().await;
        self.shared.saves.remove_superseded(&container.base.id).await;
        Ok(())
    }

    /// Throws unsaved changes of the account away; returns a line that says so.
    pub async fn discard_unsaved(
        &self,
        account: &AccountName,
        id: &str,
    ) -> Result<String, ImageError> {
        let container = self.unsaved_with(account, id).await?;
        self.shared.discard(&container).await;
        Ok(format!("The changes of image {} are discarded.\n", container.base.shown))
    }

    async fn unsaved_of(&self, account: &AccountName) -> Result<Vec<Unsaved>, ImageError> {
        Ok(self.shared.take_stock(Some(account)).await?.unsaved)
    }

    async fn unsaved_with(&self, account: &AccountName, id: &str) -> Result<Container, ImageError> {
        let mut found = self
            .unsaved_of(account)
            .await?
            .into_iter()
            .map(|unsaved| unsaved.container)
            .filter(|container| id.len() >= SHORTEST_ID && container.id.starts_with(id));
        match (found.next(), found.next()) {
            (Some(container), None) => Ok(container),
            _ => Err(ImageError::UnknownUnsaved { id: id.to_owned() }),
        }
    }
}
