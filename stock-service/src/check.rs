//! Checks of the books that are always on: whoever finds that they contradict themselves stops selling.
//!
//! What an item has available, held, sold and withheld must be its total; each user must be counted with the units of
//! their holds; nothing may be fewer than none, but what is available after an order was adopted; units must go from
//! held to sold to returned and no other way, which `lua/apply_order.lua` watches itself. If one of these fails, the
//! item's gate is closed, whatever it costs: its catalogue entry and its orders are still shown. The load that opens the
//! gate again takes everything from the source of truth. If that does not help [`HEALS_MAX`] times within
//! [`ALARM_CALM`](crate::inventory::ALARM_CALM), the gate stays closed until an operator has removed the key of the alarm.
//!
//! Books of more than [`BOOKS_ATOMIC_MAX`] orders are read by pages, which are of one moment only if nobody has bought
//! meanwhile: of a big item in the middle of its rush only that no entry is garbled or negative can be said.

use crate::inventory::{BOOKS_ATOMIC_MAX, BooksChecked, Fault, Reading, StoreError};
use crate::items::Item;
use crate::load::Loader;

/// How often wrong books are healed by a load, before they are left closed.
pub const HEALS_MAX: i64 = 2;

/// Checks the books of one item, and closes its gate if they are wrong.
///
/// # Errors
/// See [`StoreError`].
pub(crate) async fn check(loader: &Loader, item: &Item) -> Result<(), StoreError> {
    let read = async |reading| {
        loader.inventory.check_books(&item.keys, item.epoch(), BOOKS_ATOMIC_MAX, reading).await
    };
    let first = read(Reading::Check).await?;
    metrics::counter!("stock_books_checked_total", "outcome" => label(first)).increment(1);
    // Once more, so that an item is not closed for something that was true for a moment only.
    if let BooksChecked::Wrong { epoch, fault } = first
        && read(Reading::Confirm).await? == first
    {
        close(loader, item, epoch, fault).await?;
    }
    Ok(())
}

async fn close(loader: &Loader, item: &Item, epoch: i64, fault: Fault) -> Result<(), StoreError> {
    let times = loader.inventory.close_as_wrong(&item.keys, epoch, fault).await?;
    if times == 0 {
        return Ok(());
    }
    metrics::counter!("stock_books_wrong_total", "kind" => fault.label()).increment(1);
    let healed = times <= HEALS_MAX;
    tracing::error!(item.id = %item.id, epoch, fault = fault.label(), times, healed, "books are wrong: gate closed");
    loader.items.report_closed(item);
    Ok(())
}

fn label(checked: BooksChecked) -> &'static str {
    match checked {
        BooksChecked::Sound => "sound",
        BooksChecked::Wrong { .. } => "wrong",
        BooksChecked::Moving => "moving",
        BooksChecked::Shut => "shut",
    }
}
