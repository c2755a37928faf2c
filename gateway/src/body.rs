//! Request bodies: bounded in size and time, and always read, also when the request is refused: a connection with
//! an unread body cannot be used again (an early refusal that does not read the body costs connections).

use std::time::Duration;

use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, TRANSFER_ENCODING};
use actix_web::web::{Bytes, BytesMut, Payload};
use common::problem::{Code, Problem};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Longest body that is accepted, in bytes.
pub const BODY_MAX_BYTES: usize = 16 * 1024;
/// Longest body that is read to its end only to keep the connection, in bytes.
const DRAIN_MAX_BYTES: usize = 256 * 1024;
/// Deepest nesting of a JSON body.
const DEPTH_MAX: usize = 32;
/// Longest part of a parser's message that is sent, in characters.
const MESSAGE_LENGTH_MAX: usize = 160;

/// What a route expects in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing; what comes is ignored.
    Nothing,
    /// JSON.
    Json,
    /// Anything, passed on as it is.
    Raw,
}

/// Whether the head of the request announces a body that can be accepted.
///
/// # Errors
/// `too_large`, `unsupported_media_type`.
pub fn check_head(headers: &HeaderMap, expect: Expect) -> Result<(), ApiError> {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > BODY_MAX_BYTES) {
        return Err(Code::TooLarge.into());
    }
    let empty = length.unwrap_or(0) == 0 && !headers.contains_key(TRANSFER_ENCODING);
    if expect != Expect::Json || empty || (is_json(headers) && !headers.contains_key(CONTENT_ENCODING)) {
        return Ok(());
    }
    Err(Code::UnsupportedMediaType.into())
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_TYPE);
    let (Some(line), None) = (lines.next().and_then(|value| value.to_str().ok()), lines.next()) else {
        return false;
    };
    let mut parts = line.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    let utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
            value.trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        Some(_) | None => true,
    });
    media.eq_ignore_ascii_case("application/json") && utf8
}

/// How reading ended.
pub enum Read {
    /// To the end.
    Whole(Bytes),
    /// Too long; read to its end, or not.
    TooLarge {
        /// Whether the connection can be used again.
        drained: bool,
    },
    /// It did not come in time, or broke off. The connection cannot be used again.
    Broken,
}

/// Reads the body, or at least gets it out of the way.
pub async fn read(mut payload: Payload, timeout: Duration) -> Read {
    // Most bodies come whole, and need not be copied.
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    let mut length = 0;
    let reading = async {
        while let Some(chunk) = payload.next().await {
            let Ok(chunk) = chunk else { return Read::Broken };
            length += chunk.len();
            if length > DRAIN_MAX_BYTES {
                return Read::TooLarge { drained: false };
            }
            if first.is_empty() {
                first = chunk;
            } else if length <= BODY_MAX_BYTES {
                rest.extend_from_slice(&chunk);
            }
        }
        if length > BODY_MAX_BYTES {
            Read::TooLarge { drained: true }
        } else if rest.is_empty() {
            Read::Whole(first)
        } else {
            Read::Whole([first, rest.freeze()].concat().into())
        }
    };
    tokio::time::timeout(timeout, reading).await.unwrap_or(Read::Broken)
}

/// The body as a `T`.
///
/// # Errors
/// `invalid_request` with the field that does not fit, `body` when it is not JSON at all.
pub fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // A struct would also be read from an array of its fields.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Problem::invalid("body", "must be a JSON object").into());
    }
    if depth(body) > DEPTH_MAX {
        return Err(Problem::invalid("body", format!("must be nested at most {DEPTH_MAX} deep")).into());
    }
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    // Once more, to name the field.
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        describe(&path, &error.into_inner())
    })?;
    reader.end().map_err(|error| describe(".", &error))?;
    Ok(value)
}

/// How deep a JSON text is nested, at least.
fn depth(body: &[u8]) -> usize {
    let (mut now, mut most, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                now += 1;
                most = most.max(now);
            }
            b']' | b'}' if !in_text => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

fn describe(path: &str, error: &serde_json::Error) -> Problem {
    if !error.is_data() {
        return Problem::invalid("body", "must be valid JSON in UTF-8");
    }
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or_default();
    let path = if path == "." || path == "?" { "" } else { path };
    // `missing field `x`` is told about the object, and named here by the field; so are unknown and double ones.
    let named = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start))
        .and_then(|rest| rest.split('`').next());
    let field = match named {
        Some(name) if path.is_empty() || path == name => name.to_owned(),
        Some(name) if path.ends_with(&format!(".{name}")) => path.to_owned(),
        Some(name) => format!("{path}.{name}"),
        None if path.is_empty() => "body".to_owned(),
        None => path.to_owned(),
    };
    let message: String = message.chars().take(MESSAGE_LENGTH_MAX).collect();
    let field: String = field.chars().take(MESSAGE_LENGTH_MAX).collect();
    Problem::invalid(field, message)
}

#[cfg(test)]
mod tests {
    use common::api::PlaceOrder;

    use super::*;

    fn field(body: &[u8]) -> String {
        let problem = json::<PlaceOrder>(body).expect_err("must be refused").problem();
        assert_eq!(problem.code, Code::InvalidRequest);
        assert!(problem.detail.len() < 400, "{}", problem.detail);
        problem.field.expect("names a field")
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        let deep = [b"{\"quantity\":".as_slice(), &deep, b"}"].concat();
        let long_name = format!("{{\"{}\":1}}", "x".repeat(5000));
        let in_body: [&[u8]; 12] = [
            b"",
            b"   ",
            b"not json",
            b"[1]",
            b"1",
            b"null",
            b"{\"quantity\":1",
            b"{\"quantity\":1}}",
            b"\xEF\xBB\xBF{\"quantity\":1}",
            b"{\"quantity\":1,}",
            b"{\"quantity\":NaN}",
            b"{\"\xFF\":1}",
        ];
        for body in in_body {
            assert_eq!(field(body), "body", "{}", String::from_utf8_lossy(body));
        }
        let in_quantity: [&[u8]; 13] = [
            b"{}",
            b"{\"quantity\":0}",
            b"{\"quantity\":-1}",
            b"{\"quantity\":1.5}",
            b"{\"quantity\":\"1\"}",
            b"{\"quantity\":null}",
            b"{\"quantity\":true}",
            b"{\"quantity\":[1]}",
            b"{\"quantity\":{}}",
            b"{\"quantity\":101}",
            b"{\"quantity\":1000000000}",
            b"{\"quantity\":9223372036854775808}",
            b"{\"quantity\":1,\"quantity\":2}",
        ];
        for body in in_quantity {
            assert_eq!(field(body), "quantity", "{}", String::from_utf8_lossy(body));
        }
        assert_eq!(field(b"{\"quantity\":1,\"price_cents\":1}"), "price_cents");
        assert!(["body", "quantity"].contains(&field(&deep).as_str()));
        assert!(field(long_name.as_bytes()).starts_with("xxx"));
        assert_eq!(json::<PlaceOrder>(b" {\"quantity\": 3} \n").expect("fits").quantity.get(), 3);
    }

    #[test]
    fn depth_counts_brackets_outside_of_texts() {
        let cases: [(&[u8], usize); 6] = [
            (b"{}", 1),
            (br#"{"a":[[]],"b":[]}"#, 3),
            (br#"{"a":"[[[["}"#, 1),
            (br#"{"a":"\"[[[["}"#, 1),
            (br#"{"a":"\\","b":[[]]}"#, 3),
            (b"]]][", 1),
        ];
        for (body, expected) in cases {
            assert_eq!(depth(body), expected, "{}", String::from_utf8_lossy(body));
        }
        let body = format!("{{\"quantity\":{}{}}}", "[".repeat(40), "]".repeat(40));
        assert_eq!(field(body.as_bytes()), "body");
    }

    #[test]
    fn only_json_in_utf8_is_json() {
        let check = |lines: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                let name = actix_web::http::header::HeaderName::from_bytes(name.as_bytes()).expect("name");
                headers.append(name, value.parse().expect("value"));
            }
            check_head(&headers, Expect::Json).map_err(|error| error.code())
        };
        let json = ("content-type", "application/json");
        assert_eq!(check(&[("content-length", "2"), json]), Ok(()));
        assert_eq!(
            check(&[("content-length", "2"), ("content-type", "application/json; charset=UTF-8")]),
            Ok(())
        );
        assert_eq!(check(&[("content-length", "0")]), Ok(()));
        assert_eq!(check(&[("content-length", "16384"), json]), Ok(()));
        assert_eq!(check(&[("content-length", "16385"), json]), Err(Code::TooLarge));
        let refused: [&[(&str, &str)]; 7] = [
            &[("content-length", "2")],
            &[("transfer-encoding", "chunked")],
            &[("content-length", "2"), ("content-type", "text/plain")],
            &[("content-length", "2"), ("content-type", "application/json; charset=utf-16")],
            &[("content-length", "2"), ("content-type", "multipart/form-data; boundary=x")],
            &[("content-length", "2"), json, json],
            &[("content-length", "2"), json, ("content-encoding", "gzip")],
        ];
        for lines in refused {
            assert_eq!(check(lines), Err(Code::UnsupportedMediaType), "{lines:?}");
        }
    }
}
