//! Failures of a node in words that follow its name.

use crate::backend::{BackendError, NodeFailure};

/// For a message that has the node's name in it already.
pub(super) fn of(error: BackendError) -> String {
    match error {
        BackendError::Node { failure, .. } => of_failure(failure),
        BackendError::BootTimeout { seconds, last, .. } => {
            format!("it did not boot within {seconds} s ({last})")
        }
        BackendError::InUse { owner, .. } => format!("it is in use by {owner}"),
        BackendError::AddressRefused { address, .. } => {
            format!("its address {address} is outside the allowed networks")
        }
        other => other.to_string(),
    }
}

fn of_failure(failure: NodeFailure) -> String {
    match failure {
        NodeFailure::Unreachable(reason) | NodeFailure::Handshake(reason) => reason,
        NodeFailure::KeyRefused { login, .. } => {
            format!("it refuses the gateway's key for {login}")
        }
        NodeFailure::HostKeyUnknown { .. } => "its host key is not known".to_owned(),
        NodeFailure::HostKeyChanged { .. } => "its host key has changed".to_owned(),
        NodeFailure::RequestRefused(what) => format!("it refuses {what}"),
        NodeFailure::Identity(reason) => format!("the gateway's own key: {reason}"),
        NodeFailure::ConnectionLost => "its connection was lost".to_owned(),
    }
}
