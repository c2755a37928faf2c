//! Orders as CSV (RFC 4180), safe to open in a spreadsheet.

use common::api::admin::AdminOrder;
use serde::Serialize;

/// The first line.
pub const HEADER: &str = "id,user_id,item_id,sale_id,quantity,unit_price_cents,total_cents,currency,status,reason,\
                          refund,version,created_at,expires_at\r\n";

/// One line.
pub fn line(admin_order: &AdminOrder) -> String {
    let order = &admin_order.order;
    let cells = [
        order.id.to_string(),
        admin_order.user_id.to_string(),
        order.item_id.to_string(),
        order.sale_id.to_string(),
        order.quantity.get().to_string(),
        order.unit_price_cents.to_string(),
        order.total_cents.to_string(),
        order.currency.as_str().to_owned(),
        name(&order.status),
        name(&order.reason),
        name(&order.refund),
        order.version.to_string(),
        name(&order.created_at),
        name(&order.expires_at),
    ];
    let mut line = cells.map(|text| cell(&text)).join(",");
    line.push_str("\r\n");
    line
}

/// A value as the JSON listing writes it; nothing for `null`.
fn name(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}

/// A cell that a spreadsheet takes for text: one that would begin a formula gets an apostrophe in front.
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_never_begins_a_formula() {
        assert_eq!(cell("-1+cmd"), "'-1+cmd");
        assert_eq!(cell("=HYPERLINK(\"x\",1)"), "\"'=HYPERLINK(\"\"x\"\",1)\"");
        assert_eq!(cell("@a"), "'@a");
        assert_eq!(cell("+a"), "'+a");
        assert_eq!(cell("u-1"), "u-1");
        assert_eq!(cell("a,b"), "\"a,b\"");
    }
}
