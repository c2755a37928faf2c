//! What can go wrong with the database, and whether it is worth trying again.

use common::failpoint::Injected;
use diesel::result::{DatabaseErrorKind, Error};
use diesel_async::pooled_connection::deadpool::PoolError;

/// Known by their texts, since diesel does not pass on codes. In a database that speaks another language they are taken
/// for errors of which nothing is known, which is safe.
const DEADLOCK: &str = "deadlock detected";
const TIMEOUTS: [&str; 2] =
    ["canceling statement due to lock timeout", "canceling statement due to statement timeout"];

/// Anything but success of a piece of work in the database. Expected outcomes are values, not errors.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// No connection became free or could be opened in time; nothing was done.
    #[error("no free database connection")]
    Busy,
    /// No connection; nothing was done.
    #[error("no database connection")]
    Pool(#[from] PoolError),
    /// A statement or its commit failed.
    #[error("database statement failed")]
    Query(#[from] Error),
    /// A row is not what this code writes, or the books would not balance. The transaction is rolled back: better
    /// to refuse than to go on wrong.
    #[error("the database contradicts itself: {0}")]
    Broken(String),
    /// Another transaction did the same at the same time; nothing was done.
    #[error("raced with another transaction")]
    Raced,
    /// The work panicked; its transaction was rolled back.
    #[error("the work in the database panicked")]
    Panicked,
    /// A fault campaign asked for it.
    #[error(transparent)]
    Injected(#[from] Injected),
}

impl DbError {
    /// Whether the data was refused, so that trying the same again is in vain. All else may pass: time-outs,
    /// deadlocks, lost connections, a server that starts or has no room.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Busy | Self::Raced | Self::Pool(_) | Self::Injected(_) => false,
            Self::Broken(_) | Self::Panicked => true,
            Self::Query(Error::DatabaseError(kind, _)) => matches!(
                kind,
                DatabaseErrorKind::UniqueViolation
                    | DatabaseErrorKind::ForeignKeyViolation
                    | DatabaseErrorKind::NotNullViolation
                    | DatabaseErrorKind::CheckViolation
                    | DatabaseErrorKind::RestrictViolation
                    | DatabaseErrorKind::ExclusionViolation
            ),
            Self::Query(Error::SerializationError(_) | Error::DeserializationError(_)) => true,
            Self::Query(_) => false,
        }
    }

    /// Why the server rolled the work back, if that was because of what other transactions did: doing it again may work.
    pub fn clash(&self) -> Option<&'static str> {
        let Self::Query(Error::DatabaseError(kind, information)) = self else { return None };
        if matches!(kind, DatabaseErrorKind::SerializationFailure) {
            return Some("serialization");
        }
        (information.message() == DEADLOCK).then_some("deadlock")
    }

    /// Whether the server has said that it rolled the work back, for a reason that may pass.
    fn was_rolled_back(&self) -> bool {
        let Self::Query(Error::DatabaseError(kind, information)) = self else { return false };
        matches!(kind, DatabaseErrorKind::ReadOnlyTransaction)
            || TIMEOUTS.contains(&information.message())
            || self.clash().is_some()
    }

    /// Whether the work was begun, so that a lost answer leaves open whether it was committed.
    pub fn may_have_had_effect(&self) -> bool {
        match self {
            Self::Busy | Self::Raced | Self::Pool(_) | Self::Broken(_) | Self::Panicked => false,
            Self::Query(_) => !self.is_permanent() && !self.was_rolled_back(),
            Self::Injected(_) => true,
        }
    }
}
