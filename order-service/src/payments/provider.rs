//! What is asked of payment providers: the one place that knows which of them does it. Every call has a deadline, and may
//! be made again: each thing that is asked for has a number of ours.

use std::time::Duration;

use common::api::Provider;
use common::failpoint::{self, Injected};
use tokio::time::timeout;
use uuid::Uuid;

use crate::crash_points;
use crate::db::{Db, DbError};
use crate::sandbox::ledger::{self, Bill, RefundRequest, Refunded};
use crate::sandbox::standing::{self, Standing};

/// Why a provider did not do what it was asked to; it may have done it all the same.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// It cannot be reached.
    #[error("the provider cannot be reached")]
    Down,
    /// No answer in time.
    #[error("the provider did not answer in time")]
    Late,
    /// It failed.
    #[error("the provider failed")]
    Failed(#[from] DbError),
    /// A fault campaign asked for it.
    #[error(transparent)]
    Injected(#[from] Injected),
}

/// The providers. Cheap to clone.
#[derive(Clone)]
pub struct Providers {
    /// Where the sandbox has its books.
    pub db: Db,
    /// Whether the sandbox plays dead.
    pub sandbox_down: bool,
    /// Most time for an answer.
    pub timeout: Duration,
}

/// A question that is asked, and the crash points around it.
type Question = [&'static str; 2];

const REGISTER: Question = [crash_points::PROVIDER_REGISTER_BEFORE, crash_points::PROVIDER_REGISTER_AFTER];
const QUERY: Question = [crash_points::PROVIDER_QUERY_BEFORE, crash_points::PROVIDER_QUERY_AFTER];
const CLOSE: Question = [crash_points::PROVIDER_CLOSE_BEFORE, crash_points::PROVIDER_CLOSE_AFTER];
const REFUND: Question = [crash_points::REFUND_CALL_BEFORE, crash_points::REFUND_REPLY_AFTER];

impl Providers {
    /// Makes a payment known, so that the buyer can pay.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn register(&self, provider: Provider, bill: Bill) -> Result<(), ProviderError> {
        match provider {
            Provider::Sandbox => self.ask(REGISTER, ledger::register(&self.db, bill)).await,
        }
    }

    /// Asks how a payment stands.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn query(&self, provider: Provider, payment: Uuid) -> Result<Standing, ProviderError> {
        match provider {
            Provider::Sandbox => self.ask(QUERY, standing::query(&self.db, payment)).await,
        }
    }

    /// Closes a payment that nobody made, and says how it stands then.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn close(&self, provider: Provider, bill: Bill) -> Result<Standing, ProviderError> {
        match provider {
            Provider::Sandbox => self.ask(CLOSE, standing::close(&self.db, bill)).await,
        }
    }

    /// Has money given back.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn refund(
        &self,
        provider: Provider,
        request: RefundRequest,
    ) -> Result<Refunded, ProviderError> {
        match provider {
            Provider::Sandbox => self.ask(REFUND, ledger::refund(&self.db, request)).await,
        }
    }

    async fn ask<T>(
        &self,
        [before, after]: Question,
        call: impl Future<Output = Result<T, DbError>>,
    ) -> Result<T, ProviderError> {
        failpoint::reach(before).await?;
        if self.sandbox_down {
            return Err(ProviderError::Down);
        }
        let answer = timeout(self.timeout, call).await.map_err(|_| ProviderError::Late)?;
        failpoint::reach(after).await?;
        Ok(answer?)
    }
}
