//! How many containers each account has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::ImageError;
use crate::names::AccountName;

/// Counts containers of accounts up to a limit.
pub(super) struct AccountSlots {
    limit: usize,
    used: Arc<Mutex<HashMap<AccountName, usize>>>,
}

/// One container's place; free again when dropped.
pub(super) struct AccountSlot {
    account: AccountName,
    used: Arc<Mutex<HashMap<AccountName, usize>>>,
}

impl AccountSlots {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: Arc::default() }
    }

    pub(super) fn take(&self, account: &AccountName) -> Result<AccountSlot, ImageError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let count = used.entry(account.clone()).or_default();
        if *count >= self.limit {
            return Err(ImageError::TooManyContainers {
                account: account.to_string(),
                limit: self.limit,
            });
        }
        *count += 1;
        Ok(AccountSlot { account: account.clone(), used: Arc::clone(&self.used) })
    }
}

impl Drop for AccountSlot {
    fn drop(&mut self) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = used.get_mut(&self.account) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                used.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_account_has_its_own_limit_and_gets_places_back() {
        let slots = AccountSlots::new(1);
        let (alice, bob) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let first = slots.take(&alice).unwrap();
        assert!(matches!(slots.take(&alice), Err(ImageError::TooManyContainers { limit: 1, .. })));
        assert!(slots.take(&bob).is_ok());
        drop(first);
        assert!(slots.take(&alice).is_ok());
    }
}
