//! Bodies of requests: bounded, and JSON read with the path of whatever is wrong in it.

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::Bytes;
use actix_web::{FromRequest, HttpRequest};
use common::problem::{Code, Problem};
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::sales::validate::InvalidField;

/// Most characters of a parser's message that are passed on: it quotes what was sent.
const MESSAGE_LENGTH_MAX: usize = 160;
/// What the whole body is called in a refusal.
const BODY: &str = "body";

/// A body as it came, within the size that [`super::routes`] sets.
pub struct Raw(pub Bytes);

impl FromRequest for Raw {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = Bytes::from_request(request, payload);
        async move { body.await.map(Self).map_err(|error| unreadable(&error)) }.boxed_local()
    }
}

/// A JSON body; a refusal names the field, such as `items[0].per_user_limit`.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for Json<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let is_json = is_json(request);
        let raw = Raw::from_request(request, payload);
        async move {
            let Raw(body) = raw.await?;
            if !is_json {
                return Err(Problem::new(Code::UnsupportedMediaType).into());
            }
            Ok(Self(parse(&body)?))
        }
        .boxed_local()
    }
}

/// Whether the request says that its body is JSON, in UTF-8 if it says more.
fn is_json(request: &HttpRequest) -> bool {
    let content_type =
        request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let mut parts = content_type.split(';').map(|part| part.trim().to_ascii_lowercase());
    let media_type = parts.next().unwrap_or_default();
    let is_utf8 = |part: String| {
        part.strip_prefix("charset=")
            .is_none_or(|charset| matches!(charset.trim_matches('"'), "utf-8" | "utf8"))
    };
    media_type == "application/json" && parts.all(is_utf8)
}

fn unreadable(error: &actix_web::Error) -> ApiError {
    match error.as_error::<PayloadError>() {
        Some(PayloadError::Overflow) => Problem::new(Code::TooLarge).into(),
        _ => ApiError::invalid(BODY, "could not be read to its end"),
    }
}

/// Reads a JSON body; a refusal names the field, such as `items[0].per_user_limit`.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, InvalidField> {
    // The parser would take an array for an object whose fields come in order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(InvalidField::new(BODY, "must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        // A question mark stands for a place that could not be read.
        refusal(path.split('?').next().unwrap_or_default().trim_matches('.'), error.inner())
    })?;
    json.end().map_err(|_| InvalidField::new(BODY, "must be one JSON value with nothing after it"))?;
    Ok(value)
}

fn refusal(path: &str, error: &serde_json::Error) -> InvalidField {
    if !error.is_data() {
        let field = if path.is_empty() { BODY } else { path };
        return InvalidField::new(field, "must be valid JSON");
    }
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    let message: String = text.chars().filter(|c| !c.is_control()).take(MESSAGE_LENGTH_MAX).collect();
    InvalidField::new(field_of(path, text), message)
}

/// The parser places "missing", "unknown" and "duplicate" at the object, and names the field in the text.
fn field_of(path: &str, text: &str) -> String {
    let named = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix)?.split('`').next());
    let field = match named {
        None => path.to_owned(),
        Some(name) if path.is_empty() => name.to_owned(),
        Some(name) if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        Some(name) => format!("{path}.{name}"),
    };
    let field: String = field.chars().filter(|c| !c.is_control()).take(MESSAGE_LENGTH_MAX).collect();
    if field.is_empty() { BODY.to_owned() } else { field }
}

#[cfg(test)]
mod tests {
    use common::api::admin::NewSale;

    use super::*;

    /// The field that a body is refused for, where `ITEM` stands for the item's fields.
    fn field(item: &str) -> String {
        let body = format!(
            r#"{{"title":"t","starts_at":"2030-01-01T10:00:00Z","ends_at":"2030-01-01T11:00:00Z",
                "payment_window_seconds":300,"items":[{{"sku":"A","name":"n","price_cents":1,
                "currency":"CNY",{item}}}]}}"#
        );
        parse::<NewSale>(body.as_bytes()).expect_err("must be refused").field
    }

    #[test]
    fn wrong_types_are_named_with_their_path() {
        for wrong in ["\"1\"", "true", "null", "1.5", "[1]", "-1", "NaN", "1e999", "99999999999999999999"] {
            assert_eq!(
                field(&format!(r#""stock":1,"per_user_limit":{wrong}"#)),
                "items[0].per_user_limit",
                "{wrong}"
            );
        }
        assert_eq!(field(r#""stock":1,"per_user_limit":1,"price_cents":2"#), "items[0].price_cents");
        assert_eq!(field(r#""stock":1,"per_user_limit":1,"epoch":2"#), "items[0].epoch");
        assert_eq!(field(r#""stock":1"#), "items[0].per_user_limit");
    }

    #[test]
    fn what_is_not_one_json_object_is_the_body() {
        let deep = "[".repeat(100_000);
        let deep_inside = format!(r#"{{"title":{deep}"#);
        assert_eq!(
            parse::<serde_json::Value>(deep_inside.as_bytes()).expect_err("refused").message,
            "must be valid JSON"
        );
        for body in ["", "x", "\u{feff}{}", "[]", "null", "1", deep.as_str(), "{,}"] {
            assert_eq!(parse::<NewSale>(body.as_bytes()).expect_err("refused").field, BODY, "{body:.20}");
        }
        assert_eq!(parse::<NewSale>(&[0xff, 0xfe, b'{', 0]).expect_err("refused").field, BODY);
        assert_eq!(parse::<serde_json::Value>(b"{} {}").expect_err("refused").field, BODY);
        assert_eq!(parse::<NewSale>(br#"{"nope":1}"#).expect_err("refused").field, "nope");
        assert_eq!(parse::<NewSale>(b"{}").expect_err("refused").field, "title");
    }

    #[test]
    fn what_was_sent_is_quoted_only_in_part() {
        let body = format!(r#"{{"title":1,"{}":1}}"#, "x".repeat(10_000));
        let refusal = parse::<NewSale>(body.as_bytes()).expect_err("refused");
        assert!(refusal.message.len() + refusal.field.len() < 500);
    }
}
