//! `/internal/v1/items/{item_id}/withdraw`.

use actix_web::web::{Data, Json, Path};
use common::api::inventory::{GaveBack, GiveBack, ReserveOutcome, Withdraw, WithdrawOutcome};
use common::ids::ItemId;

use super::Api;
use crate::error::ApiError;
use crate::inventory::Withdrawn;
use crate::stock::Shut;

/// `POST /internal/v1/items/{item_id}/withdraw`: takes units off offer, all or none of them.
///
/// # Errors
/// 503: Redis does not answer; the units may be withdrawn, and come back when nobody claims them.
pub async fn withdraw(
    api: Data<Api>,
    item_id: Path<ItemId>,
    wish: Json<Withdraw>,
) -> Result<Json<WithdrawOutcome>, ApiError> {
    let units = more_than_none(wish.units)?;
    let item = match api.item(*item_id).await {
        Ok(item) => item,
        Err(ReserveOutcome::UnknownItem) => return Ok(Json(WithdrawOutcome::UnknownItem)),
        Err(_) => return Ok(Json(WithdrawOutcome::Closed)),
    };
    Ok(Json(match api.inventory.withdraw(&item.keys, item.epoch(), units).await? {
        Withdrawn::Done { epoch } => WithdrawOutcome::Withdrawn { epoch },
        Withdrawn::NotEnough { available } => WithdrawOutcome::NotEnough { available: available.max(0) },
        Withdrawn::Shut(Shut::Unknown | Shut::Closed | Shut::Broken) => {
            api.items.report_closed(&item);
            WithdrawOutcome::Closed
        }
    }))
}

/// `POST /internal/v1/items/{item_id}/withdraw/return`: puts units on offer that were withdrawn in vain.
///
/// # Errors
/// 404: there is no such item here. 503: Redis does not answer.
pub async fn give_back(
    api: Data<Api>,
    item_id: Path<ItemId>,
    wish: Json<GiveBack>,
) -> Result<Json<GaveBack>, ApiError> {
    let units = more_than_none(wish.units)?;
    let item = api.items.get(*item_id).ok_or(ApiError::NotFound)?;
    let units = api.inventory.give_back_withdrawn(&item.keys, wish.epoch, units, api.lease_ms).await?;
    Ok(Json(GaveBack { units }))
}

fn more_than_none(units: u32) -> Result<u32, ApiError> {
    if units == 0 {
        return Err(ApiError::Invalid {
            field: "units".to_owned(),
            reason: "must be more than 0".to_owned(),
        });
    }
    Ok(units)
}
