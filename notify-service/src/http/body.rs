//! Bodies of requests: bounded, and JSON read with the name of whatever is wrong in it.

use actix_web::Error;
use actix_web::http::StatusCode;
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Most characters of a field's name in a refusal: the name of an unknown field is the client's.
const FIELD_LENGTH_MAX: usize = 160;
/// What the whole body is called in a refusal.
const BODY: &str = "body";

/// What the parser finds wrong about a field as a whole: how its message begins, and what is answered. The parser's own
/// words are not passed on, since they quote what was sent.
const ABOUT_FIELDS: [(&str, &str); 3] = [
    ("missing field `", "is required"),
    ("unknown field `", "is not a known field"),
    ("duplicate field `", "must be there only once"),
];

/// Why a body could not be read to its end.
pub fn unreadable(error: &Error) -> ApiError {
    if error.as_response_error().status_code() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::TooLarge;
    }
    ApiError::invalid(BODY, "must be sent whole")
}

/// Reads a JSON object.
///
/// # Errors
/// 400: names the field that does not fit, such as `types[0]`, or `body` when it is no JSON object at all.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // The parser would take an array for an object whose fields come in order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::invalid(BODY, "must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| refusal(&error.path().to_string(), error.inner()))?;
    json.end().map_err(|_| ApiError::invalid(BODY, "must be one JSON object with nothing after it"))?;
    Ok(value)
}

fn refusal(path: &str, error: &serde_json::Error) -> ApiError {
    if !error.is_data() {
        return ApiError::invalid(BODY, "must be valid JSON in UTF-8");
    }
    // A question mark stands for a place that could not be read.
    let path = if matches!(path, "." | "?") { "" } else { path };
    let text = error.to_string();
    let about = ABOUT_FIELDS.iter().find_map(|(start, reason)| {
        let name = text.strip_prefix(start)?.split('`').next()?;
        Some((name, *reason))
    });
    // These three are told about the object, and named here by the field.
    let (field, reason) = match about {
        None if path.is_empty() => (BODY.to_owned(), "does not fit"),
        None => (path.to_owned(), "must have the type and range that the API describes"),
        Some((name, reason)) if path.is_empty() || path == name => (name.to_owned(), reason),
        Some((name, reason)) if path.ends_with(&format!(".{name}")) => (path.to_owned(), reason),
        Some((name, reason)) => (format!("{path}.{name}"), reason),
    };
    let field: String = field.chars().filter(|c| !c.is_control()).take(FIELD_LENGTH_MAX).collect();
    ApiError::invalid(if field.is_empty() { BODY.to_owned() } else { field }, reason)
}

#[cfg(test)]
mod tests {
    use common::api::admin::NewWebhook;

    use super::*;

    fn refused(body: &[u8]) -> (String, String) {
        match parse::<NewWebhook>(body) {
            Err(ApiError::Invalid { field, reason }) => (field, reason),
            other => panic!("{other:?} for {}", String::from_utf8_lossy(body)),
        }
    }

    #[test]
    fn what_is_no_json_object_is_the_body() {
        let deep = "[".repeat(100_000);
        let deep_inside = format!(r#"{{"url":{deep}"#);
        let bodies: [&[u8]; 12] = [
            b"",
            b" ",
            b"null",
            b"7",
            b"[]",
            br#"["https://example.com/", ["order.*"], null]"#,
            br#" [{"url":"https://example.com/","types":["order.*"]}]"#,
            b"{",
            br#"{"url":"https://example.com/","types":["order.*"]}}"#,
            b"\xef\xbb\xbf{}",
            b"{\"\xff\":1}",
            deep.as_bytes(),
        ];
        for body in bodies {
            assert_eq!(refused(body).0, BODY, "{}", String::from_utf8_lossy(body));
        }
        assert!(["url", BODY].contains(&refused(deep_inside.as_bytes()).0.as_str()));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let cases = [
            (r#"{"types":["order.*"]}"#, "url", "is required"),
            (r#"{"url":"x"}"#, "types", "is required"),
            (r#"{"url":"x","types":[],"colour":1}"#, "colour", "is not a known field"),
            (r#"{"url":"x","url":"y","types":[]}"#, "url", "must be there only once"),
        ];
        for (body, field, reason) in cases {
            assert_eq!(refused(body.as_bytes()), (field.to_owned(), reason.to_owned()), "{body}");
        }
        for (body, field) in [
            (r#"{"url":null,"types":[]}"#, "url"),
            (r#"{"url":"x","types":{}}"#, "types"),
            (r#"{"url":"x","types":[[]]}"#, "types[0]"),
            (r#"{"url":"x","types":[],"secret":1}"#, "secret"),
        ] {
            assert_eq!(refused(body.as_bytes()).0, field, "{body}");
        }
    }

    #[test]
    fn what_was_sent_is_not_sent_back() {
        let (_, reason) = refused(br#"{"url":"x","types":"hunter2"}"#);
        assert!(!reason.contains("hunter2") && !reason.contains("line"), "{reason}");
        let body = format!(r#"{{"\u0007{}":1}}"#, "x".repeat(10_000));
        let (field, reason) = refused(body.as_bytes());
        assert_eq!(field, "x".repeat(FIELD_LENGTH_MAX));
        assert_eq!(reason, "is not a known field");
    }
}
