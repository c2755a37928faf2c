//! Erasing a user's personal data: what the gateway asks of the services that have any.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Body of `POST /internal/v1/admin/users/{user_id}/erase`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erase {
    /// The number of the erasure in the audit logs, which do not say whose data it was.
    pub erasure_id: Uuid,
}

/// What it came to in order-service; see [`super::admin::Erasure`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrdersErased {
    /// Orders that are nobody's now.
    pub orders_erased: u64,
    /// Orders whose user is still needed.
    pub orders_kept: u64,
    /// Entries of the audit log from which the user was taken.
    pub audit_entries_erased: u64,
    /// Parked messages that name the user.
    pub dead_letters_kept: u64,
    /// Entries of the block list about the user.
    pub blocks_kept: u64,
}

/// What it came to in notify-service; see [`super::admin::Erasure`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsErased {
    /// Notices that were deleted.
    pub events_erased: u64,
    /// Notices that are too new: the same news may come again.
    pub events_kept: u64,
    /// Webhook messages that name the user.
    pub webhook_messages_kept: u64,
}
