//! What an admin may put into a sale. Every refusal names the field, with its index.

use chrono::{DateTime, Datelike as _, Utc};
use common::api::admin::{NewItem, NewSale, Restock, SaleChanges};
use url::Url;

/// Most characters of a sale's title and an item's name.
pub const TITLE_LENGTH_MAX: usize = 200;
/// Most characters of an item's sku.
pub const SKU_LENGTH_MAX: usize = 64;
/// Most characters of a picture's address.
pub const IMAGE_URL_LENGTH_MAX: usize = 2_000;
/// Longest time to pay, in seconds: a day.
pub const PAYMENT_WINDOW_SECONDS_MAX: u32 = 86_400;
/// Most items of one sale.
pub const ITEMS_MAX: usize = 100;
/// Highest price of one unit, in minor units. Times the largest quantity it is far from the end of an `i64`.
pub const PRICE_CENTS_MAX: i64 = 10_000_000_000;
/// Most units of one item.
pub const STOCK_MAX: i64 = 10_000_000;
/// Highest limit of units per user.
pub const PER_USER_LIMIT_MAX: u32 = 100;
/// The years that a sale may lie in: what RFC 3339 can write and what makes sense.
const YEARS: std::ops::RangeInclusive<i32> = 2000..=9999;

/// A field that is not what it should be. `message` continues the field's name and is fit for a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct InvalidField {
    /// Which field, such as `items[0].stock`.
    pub field: String,
    /// What it must be.
    pub message: String,
}

impl InvalidField {
    /// `field` is not what it should be: `message`, such as "must be positive".
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Checks a sale that is to be made; what comes back can be stored as it is.
pub fn new_sale(sale: NewSale) -> Result<NewSale, InvalidField> {
    text("title", &sale.title, TITLE_LENGTH_MAX)?;
    let starts_at = moment("starts_at", sale.starts_at)?;
    let ends_at = moment("ends_at", sale.ends_at)?;
    window(starts_at, ends_at)?;
    payment_window(sale.payment_window_seconds)?;
    items(&sale.items)?;
    Ok(NewSale { starts_at, ends_at, ..sale })
}

/// Checks changes of a draft by themselves; whether they suit the rest is [`window`]'s to say.
pub fn changes(changes: SaleChanges) -> Result<SaleChanges, InvalidField> {
    if let Some(title) = &changes.title {
        text("title", title, TITLE_LENGTH_MAX)?;
    }
    let starts_at = changes.starts_at.map(|at| moment("starts_at", at)).transpose()?;
    let ends_at = changes.ends_at.map(|at| moment("ends_at", at)).transpose()?;
    if let Some(seconds) = changes.payment_window_seconds {
        payment_window(seconds)?;
    }
    if let Some(new_items) = &changes.items {
        items(new_items)?;
    }
    Ok(SaleChanges { starts_at, ends_at, ..changes })
}

/// A sale ends after it starts.
pub fn window(starts_at: DateTime<Utc>, ends_at: DateTime<Utc>) -> Result<(), InvalidField> {
    if starts_at < ends_at { Ok(()) } else { Err(InvalidField::new("ends_at", "must be after starts_at")) }
}

/// Checks the bounds of a restock that need no look at the item.
pub fn restock(restock: &Restock) -> Result<(), InvalidField> {
    if restock.units == 0 {
        return Err(InvalidField::new("units", "must not be 0"));
    }
    between("units", restock.units, -STOCK_MAX, STOCK_MAX)
}

fn items(items: &[NewItem]) -> Result<(), InvalidField> {
    if items.is_empty() || items.len() > ITEMS_MAX {
        return Err(InvalidField::new("items", format!("must be 1 to {ITEMS_MAX} items")));
    }
    items.iter().enumerate().try_for_each(|(index, new_item)| item(index, new_item))
}

fn item(index: usize, item: &NewItem) -> Result<(), InvalidField> {
    let field = |name: &str| format!("items[{index}].{name}");
    text(&field("sku"), &item.sku, SKU_LENGTH_MAX)?;
    text(&field("name"), &item.name, TITLE_LENGTH_MAX)?;
    image_url(&field("image_url"), &item.image_url)?;
    between(&field("price_cents"), item.price_cents, 0, PRICE_CENTS_MAX)?;
    between(&field("stock"), item.stock, 0, STOCK_MAX)?;
    between(&field("per_user_limit"), item.per_user_limit.into(), 1, PER_USER_LIMIT_MAX.into())
}

fn payment_window(seconds: u32) -> Result<(), InvalidField> {
    between("payment_window_seconds", seconds.into(), 1, PAYMENT_WINDOW_SECONDS_MAX.into())
}

fn between(field: &str, value: i64, least: i64, most: i64) -> Result<(), InvalidField> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(InvalidField::new(field, format!("must be between {least} and {most}")))
    }
}

/// Text that people read: something visible, not too long, no control characters (Postgres cannot store U+0000, and
/// the others have no place in a name).
fn text(field: &str, value: &str, length_max: usize) -> Result<(), InvalidField> {
    if value.trim().is_empty() || value.chars().count() > length_max {
        return Err(InvalidField::new(
            field,
            format!("must be 1 to {length_max} characters, not only blanks"),
        ));
    }
    if value.chars().any(char::is_control) {
        return Err(InvalidField::new(field, "must not contain control characters"));
    }
    Ok(())
}

fn image_url(field: &str, value: &str) -> Result<(), InvalidField> {
    if value.is_empty() {
        return Ok(());
    }
    let refused = || {
        let message =
            format!("must be empty or an http(s) address of at most {IMAGE_URL_LENGTH_MAX} characters");
        InvalidField::new(field, message)
    };
    // The parser drops tabs and line breaks silently; what is stored is the text as given.
    if value.chars().count() > IMAGE_URL_LENGTH_MAX
        || value.chars().any(|c| c.is_control() || c.is_whitespace())
    {
        return Err(refused());
    }
    let url = Url::parse(value).map_err(|_| refused())?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() { Ok(()) } else { Err(refused()) }
}

/// A moment as Postgres stores it, in whole microseconds: else two that differ by less would be equal there.
fn moment(field: &str, at: DateTime<Utc>) -> Result<DateTime<Utc>, InvalidField> {
    let refused = || InvalidField::new(field, "must be a moment between the years 2000 and 9999");
    let at = DateTime::from_timestamp_micros(at.timestamp_micros()).ok_or_else(refused)?;
    if YEARS.contains(&at.year()) { Ok(at) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> NewSale {
        serde_json::from_value(serde_json::json!({
            "title": "午餐秒杀", "starts_at": "2030-01-01T10:00:00Z", "ends_at": "2030-01-01T11:00:00Z",
            "payment_window_seconds": 300,
            "items": [{"sku": "A1", "name": "面", "image_url": "https://img.example/a.png", "price_cents": 990,
                       "currency": "CNY", "stock": 100, "per_user_limit": 2}],
        }))
        .expect("a good sale")
    }

    /// The field that a sale is refused for after `spoil`.
    fn refused(spoil: impl FnOnce(&mut NewSale)) -> String {
        let mut sale = good();
        spoil(&mut sale);
        new_sale(sale).expect_err("must be refused").field
    }

    #[test]
    fn the_field_is_named_with_its_index() {
        assert_eq!(refused(|sale| sale.title = " ".into()), "title");
        assert_eq!(refused(|sale| sale.title = "a\u{0}b".into()), "title");
        assert_eq!(refused(|sale| sale.title = "x".repeat(201)), "title");
        assert_eq!(refused(|sale| sale.ends_at = sale.starts_at), "ends_at");
        assert_eq!(refused(|sale| sale.payment_window_seconds = 0), "payment_window_seconds");
        assert_eq!(refused(|sale| sale.payment_window_seconds = 86_401), "payment_window_seconds");
        assert_eq!(refused(|sale| sale.items.clear()), "items");
        assert_eq!(refused(|sale| sale.items = vec![sale.items[0].clone(); 101]), "items");
        assert_eq!(refused(|sale| sale.items[0].sku = String::new()), "items[0].sku");
        assert_eq!(refused(|sale| sale.items[0].name = "a\nb".into()), "items[0].name");
        assert_eq!(
            refused(|sale| sale.items[0].image_url = "javascript:alert(1)".into()),
            "items[0].image_url"
        );
        assert_eq!(refused(|sale| sale.items[0].image_url = "http://a/\tb".into()), "items[0].image_url");
        assert_eq!(refused(|sale| sale.items[0].price_cents = -1), "items[0].price_cents");
        assert_eq!(refused(|sale| sale.items[0].price_cents = i64::MAX), "items[0].price_cents");
        assert_eq!(refused(|sale| sale.items[0].stock = 10_000_001), "items[0].stock");
        let spoil_second = |sale: &mut NewSale| {
            sale.items.push(sale.items[0].clone());
            sale.items[1].per_user_limit = 0;
        };
        assert_eq!(refused(spoil_second), "items[1].per_user_limit");
    }

    #[test]
    fn the_bounds_themselves_are_accepted() {
        let mut sale = good();
        sale.title = "食".repeat(TITLE_LENGTH_MAX);
        sale.payment_window_seconds = 1;
        sale.items[0].price_cents = PRICE_CENTS_MAX;
        sale.items[0].stock = 0;
        sale.items[0].per_user_limit = PER_USER_LIMIT_MAX;
        sale.items[0].image_url = String::new();
        assert_eq!(new_sale(sale.clone()), Ok(sale));
    }

    #[test]
    fn moments_that_postgres_cannot_tell_apart_are_equal() {
        let mut sale = good();
        sale.ends_at = sale.starts_at + chrono::TimeDelta::nanoseconds(10);
        assert_eq!(new_sale(sale).expect_err("same microsecond").field, "ends_at");
    }

    #[test]
    fn a_restock_moves_something_within_bounds() {
        assert!(restock(&Restock { units: -STOCK_MAX }).is_ok());
        for units in [0, STOCK_MAX + 1, i64::MIN] {
            assert_eq!(restock(&Restock { units }).expect_err("refused").field, "units");
        }
    }
}
