//! Lowering an item's total while it is sold: the inventory takes the units off offer first.
//!
//! Postgres does not know what Redis has granted and the queue still carries. Units leave Redis before they leave
//! Postgres (rule R7), so that whatever was accepted still finds its units here.

use std::time::Duration;

use anyhow::{Context as _, bail};
use common::api::SaleItem;
use common::api::inventory::{GiveBack, Withdraw, WithdrawOutcome};
use common::failpoint::{planted, reach};
use common::ids::{ItemId, UserId};
use reqwest::Method;
use tokio::time::Instant;
use uuid::Uuid;

use super::admin::done;
use super::audit::Inventory;
use crate::crash_points::{LOWER_COMMIT_AFTER, LOWER_WITHDRAW_AFTER};
use crate::db::{Db, DbError};
use crate::error::ApiError;
use crate::planted::LOWERED_FIRST;
use crate::sales::admin::{self, Change, Refusal};

/// Most time for the inventory's answer to one question: a short script.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The epoch of an item that was never loaded.
const NEVER_LOADED: i64 = 0;

/// Takes away `-units` of an item, whoever sells it.
///
/// # Errors
/// What did not become of it. Without the inventory's answer it is `unavailable`, and the total stays: units that are
/// withdrawn nevertheless come back by themselves.
pub async fn lower(
    db: &Db,
    inventory: &Inventory,
    actor: UserId,
    (item, units): (Uuid, i64),
    deadline: Instant,
) -> Result<SaleItem, ApiError> {
    let is_sold = done(admin::look_before_lowering(db, item, units).await?)?;
    if planted(LOWERED_FIRST) {
        return done(admin::restock(db, actor, item, units, None).await.map_err(ApiError::Write)?);
    }
    let fewer = u32::try_from(units.unsigned_abs()).map_err(|_| ApiError::invalid("units", "too many"))?;
    let withdrawn = if is_sold { withdraw(inventory, item, fewer, deadline).await? } else { None };

    let epoch = withdrawn.unwrap_or(NEVER_LOADED);
    reach(LOWER_WITHDRAW_AFTER).await.map_err(|_| ApiError::unavailable())?;
    let change = admin::restock(db, actor, item, units, Some(epoch)).await;
    let change = reach(LOWER_COMMIT_AFTER).await.map_err(DbError::from).and(change);
    let in_vain = match &change {
        Ok(change) => !matches!(change, Change::Done(_)),
        Err(error) => !error.may_have_had_effect(),
    };
    if in_vain && let Some(epoch) = withdrawn {
        give_back(inventory, item, GiveBack { units: fewer, epoch }).await;
    }
    done(change.map_err(ApiError::Write)?)
}

/// The epoch in which the inventory has withdrawn the units; `None` when it does not know the item.
async fn withdraw(
    inventory: &Inventory,
    item: Uuid,
    units: u32,
    deadline: Instant,
) -> Result<Option<i64>, ApiError> {
    let outcome = ask(inventory, item, units, deadline)
        .await
        .map_err(|cause| ApiError::Unavailable { what: "the inventory cannot withdraw units", cause })?;
    match outcome {
        WithdrawOutcome::Withdrawn { epoch } => Ok(Some(epoch)),
        WithdrawOutcome::UnknownItem => Ok(None),
        WithdrawOutcome::NotEnough { available } => {
            done(Change::NotAllowed(Refusal::not_on_offer(available)))
        }
        WithdrawOutcome::Closed => Err(ApiError::unavailable()),
    }
}

async fn ask(
    inventory: &Inventory,
    item: Uuid,
    units: u32,
    deadline: Instant,
) -> anyhow::Result<WithdrawOutcome> {
    let deadline = deadline.min(Instant::now() + ANSWER_WITHIN);
    let path = format!("/internal/v1/items/{}/withdraw", ItemId(item));
    let call = inventory.stock.request(Method::POST, &path, deadline).json(&Withdraw { units });
    let answer = call.send().await?;
    match answer.status().as_u16() {
        200 => answer.json().await.context("withdrawal"),
        status => bail!("stock-service answered {status}"),
    }
}

/// Once: the answer may be lost, and to repeat it could give back what another admin has withdrawn. What does not come
/// back like this does so when the inventory finds that nobody claims it.
async fn give_back(inventory: &Inventory, item: Uuid, wish: GiveBack) {
    let path = format!("/internal/v1/items/{}/withdraw/return", ItemId(item));
    let call = inventory.stock.request(Method::POST, &path, Instant::now() + ANSWER_WITHIN).json(&wish);
    match call.send().await {
        Ok(answer) if answer.status().is_success() => {}
        Ok(answer) => tracing::warn!(item.id = %item, status = %answer.status(), "units were not given back"),
        Err(error) => {
            tracing::warn!(item.id = %item, error = &error as &dyn std::error::Error, "units were not given back");
        }
    }
}
