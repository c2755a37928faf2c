//! The sandbox provider's checkout page: one self-contained document in the buyer's language.

use uuid::Uuid;

use super::Outcome;

/// The document; `{{name}}` stands for an escaped value.
const TEMPLATE: &str = include_str!("checkout.html");

/// What the page shows.
#[derive(Debug)]
pub struct Checkout {
    /// The payment.
    pub payment_id: Uuid,
    /// What is bought.
    pub item_name: String,
    /// How many units of it.
    pub quantity: i32,
    /// What is to be paid, in minor units.
    pub amount_cents: i64,
    /// Currency of the amount.
    pub currency: String,
    /// What the buyer decided before, if anything.
    pub outcome: Option<Outcome>,
}

/// The languages of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// English.
    En,
    /// Simplified Chinese.
    Zh,
}

impl Language {
    /// The first of an Accept-Language header that the page has; quality values are ignored, since browsers send
    /// the languages in the user's order.
    pub fn of(accept_language: &str) -> Self {
        accept_language
            .split(',')
            .find_map(|tag| match tag.trim().get(..2)?.to_ascii_lowercase().as_str() {
                "zh" => Some(Self::Zh),
                "en" => Some(Self::En),
                _ => None,
            })
            .unwrap_or(Self::En)
    }

    fn tag(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Zh => "zh-CN",
        }
    }

    /// The page's texts by the name of their place.
    fn texts(self) -> [(&'static str, &'static str); 8] {
        match self {
            Self::En => [
                ("title", "Sandbox checkout"),
                ("note", "A stand-in for a payment provider. No money moves here."),
                ("pay", "Pay"),
                ("fail", "Let it fail"),
                ("done", "Paid. You can close this page."),
                ("failed", "The payment failed. You can start another one."),
                ("waiting", "One moment…"),
                ("error", "That did not work. Please try again."),
            ],
            Self::Zh => [
                ("title", "沙箱收银台"),
                ("note", "模拟的支付渠道,不会产生真实扣款。"),
                ("pay", "确认支付"),
                ("fail", "模拟支付失败"),
                ("done", "支付成功,可以关闭本页。"),
                ("failed", "支付失败,您可以重新发起支付。"),
                ("waiting", "请稍候…"),
                ("error", "操作失败,请重试。"),
            ],
        }
    }
}

/// What the page may do: run its one script, talk to where it came from, and nothing else.
pub fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'"
    )
}

/// The page as HTML. `nonce` names its script in its [`policy`], which is in the page too, in case that headers are
/// lost on the way.
pub fn render(checkout: &Checkout, language: Language, nonce: &str) -> String {
    let texts = language.texts();
    let text = |name: &str| texts.iter().find(|(key, _)| *key == name).map_or("", |(_, text)| *text);
    let (result, disabled) = match checkout.outcome {
        None => ("", ""),
        Some(Outcome::Success) => (text("done"), " disabled"),
        Some(Outcome::Failure) => (text("failed"), " disabled"),
    };
    let mut values: Vec<(&str, String)> = texts.iter().map(|(name, text)| (*name, escape(text))).collect();
    values.extend([
        ("lang", language.tag().to_owned()),
        ("item", escape(&checkout.item_name)),
        ("quantity", checkout.quantity.to_string()),
        ("amount", amount(checkout.amount_cents)),
        ("currency", escape(&checkout.currency)),
        ("payment", checkout.payment_id.to_string()),
        ("result", escape(result)),
        ("disabled", disabled.to_owned()),
        ("nonce", escape(nonce)),
        ("policy", escape(&policy(nonce))),
    ]);
    fill(TEMPLATE, &values)
}

/// Puts each value at its place, in one pass, so that a value that looks like a place stays text.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut filled = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        filled.extend(values.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str()));
        rest = after;
    }
    filled.push_str(rest);
    filled
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Minor units as people write them; every currency on sale here has hundredths.
fn amount(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkout() -> Checkout {
        Checkout {
            payment_id: Uuid::nil(),
            item_name: r#"<script>alert("x")</script>{{nonce}}"#.into(),
            quantity: 2,
            amount_cents: 1_980,
            currency: "CNY".into(),
            outcome: None,
        }
    }

    #[test]
    fn names_are_text_and_never_markup() {
        let page = render(&checkout(), Language::En, "n0nce");
        assert!(page.contains("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;{{nonce}}"));
        assert_eq!(page.matches("<script").count(), 1);
        assert!(page.contains(r#"<script nonce="n0nce">"#));
        assert!(page.contains("19.80 CNY") && page.contains("× 2"));
    }

    #[test]
    fn every_place_is_filled_in_both_languages() {
        for language in [Language::En, Language::Zh] {
            let page = render(&Checkout { item_name: "面".into(), ..checkout() }, language, "n");
            assert!(!page.contains("{{") && !page.contains("}}"));
            assert!(!page.contains("http://") && !page.contains("https://"), "no external assets");
        }
    }

    #[test]
    fn the_language_is_the_first_that_the_page_has() {
        assert_eq!(Language::of("fr-CH, zh-CN;q=0.9, en;q=0.8"), Language::Zh);
        assert_eq!(Language::of("en-US,zh;q=0.5"), Language::En);
        assert_eq!(Language::of(""), Language::En);
        assert_eq!(Language::of("é,*"), Language::En);
    }

    #[test]
    fn a_decided_payment_offers_no_second_decision() {
        let page = render(&Checkout { outcome: Some(Outcome::Success), ..checkout() }, Language::En, "n");
        assert_eq!(page.matches(" disabled>").count(), 2);
        assert!(page.contains("Paid. You can close this page."));
    }
}
