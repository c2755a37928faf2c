//! HTTP/1.1 as far as the gateway's answers need it: a head, then as many bytes as it says.

use std::net::SocketAddr;

use common::problem::{Code, OUTCOME_HEADER};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Most headers of an answer.
const HEADERS_MAX: usize = 48;
/// Longest answer that is read, in bytes.
const ANSWER_MAX_BYTES: usize = 4 * 1024 * 1024;
/// What is read at once, in bytes: an order's answer fits.
const READ_BYTES: usize = 4 * 1024;
/// Before the code in a problem document, as the gateway writes it.
const CODE_FIELD: &[u8] = b"\"code\":\"";

/// What an answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// 202: an order.
    Accepted,
    /// Another 2xx.
    Read,
    /// A refusal that the API documents, with all the headers that it promises.
    Refused(Code),
    /// Anything else: this status.
    Undocumented(u16),
    /// No connection, no whole answer, or none in time.
    NoAnswer,
}

impl Outcome {
    /// As reports name it.
    pub fn name(self) -> String {
        match self {
            Self::Accepted => "202 accepted".to_owned(),
            Self::Read => "200 read".to_owned(),
            Self::Refused(code) => format!("{} {}", code.status().as_u16(), e2e::crowd::code_name(code)),
            Self::Undocumented(status) => format!("{status} undocumented"),
            Self::NoAnswer => "no answer".to_owned(),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The connection was closed before the first byte of an answer, as servers close idle ones.
    ClosedBefore,
    /// It broke later, or what came is not HTTP.
    Broken,
}

/// The first answer in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it comes to.
    pub outcome: Outcome,
    /// Its length, in bytes.
    pub length: usize,
    /// Whether the server closes the connection after it.
    pub closes: bool,
}

/// The first answer in `bytes`; `None` while it is not whole.
///
/// # Errors
/// It is not HTTP/1.1, or does not say how long it is.
pub fn parse(bytes: &[u8]) -> Result<Option<Answer>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let status = match head.parse(bytes) {
        Ok(httparse::Status::Complete(head_length)) => head_length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Failure::Broken),
    };
    let (head_length, status) = (status, head.code.ok_or(Failure::Broken)?);
    let (mut body_length, mut retry_after, mut outcome_said, mut closes) = (None, false, false, false);
    for header in head.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let text = std::str::from_utf8(header.value).map_err(|_| Failure::Broken)?;
            body_length = Some(text.trim().parse::<usize>().map_err(|_| Failure::Broken)?);
        } else if is("retry-after") {
            retry_after = true;
        } else if is(OUTCOME_HEADER) {
            outcome_said = true;
        } else if is("connection") {
            closes = header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let body_length = body_length.or((status == 204).then_some(0)).ok_or(Failure::Broken)?;
    let length = head_length + body_length;
    if length > ANSWER_MAX_BYTES {
        return Err(Failure::Broken);
    }
    let Some(body) = bytes.get(head_length..length) else { return Ok(None) };
    let outcome = judge(status, body, retry_after, outcome_said);
    Ok(Some(Answer { outcome, length, closes }))
}

/// Holds an answer against what the API documents.
fn judge(status: u16, body: &[u8], retry_after: bool, outcome_said: bool) -> Outcome {
    match status {
        202 => return Outcome::Accepted,
        200..300 => return Outcome::Read,
        _ => {}
    }
    let documented = code_in(body).filter(|code| {
        let repeatable = matches!(status, 429 | 503);
        code.status().as_u16() == status
            && *code != Code::Internal
            && outcome_said
            && (retry_after || !repeatable)
    });
    documented.map_or(Outcome::Undocumented(status), Outcome::Refused)
}

/// The code of a problem document.
fn code_in(body: &[u8]) -> Option<Code> {
    let field = body.windows(CODE_FIELD.len()).position(|window| window == CODE_FIELD)?;
    // With its quotes, which make it a JSON text.
    let rest = &body[field + CODE_FIELD.len() - 1..];
    let end = rest.iter().skip(1).position(|byte| *byte == b'"')?;
    serde_json::from_slice(&rest[..end + 2]).ok()
}

/// A connection that carries one request at a time.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: Vec::with_capacity(READ_BYTES) })
    }

    /// Sends a request and reads the whole answer. After an error, and after an answer that closes, it is of no use.
    ///
    /// # Errors
    /// There is no whole answer.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer, Failure> {
        self.input.clear();
        self.stream.write_all(request).await.map_err(|_| Failure::ClosedBefore)?;
        loop {
            match self.stream.read_buf(&mut self.input).await {
                Ok(1..) => {}
                Ok(0) | Err(_) if self.input.is_empty() => return Err(Failure::ClosedBefore),
                Ok(0) | Err(_) => return Err(Failure::Broken),
            }
            if let Some(answer) = parse(&self.input)? {
                return Ok(answer);
            }
            if self.input.len() > ANSWER_MAX_BYTES {
                return Err(Failure::Broken);
            }
        }
    }

    /// The bytes of the last answer.
    pub fn last_answer(&self) -> &[u8] {
        &self.input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: &str, headers: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}").into_bytes()
    }

    fn outcome(bytes: &[u8]) -> Outcome {
        parse(bytes).unwrap().unwrap().outcome
    }

    #[test]
    fn an_answer_is_not_there_until_its_last_byte_is() {
        let whole = refusal("202 Accepted", "", "{\"order_id\":\"x\"}");
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), Ok(None), "{length} bytes");
        }
        assert_eq!(parse(&whole).unwrap().unwrap().length, whole.len());
    }

    #[test]
    fn a_refusal_counts_as_documented_only_with_its_code_and_its_headers() {
        let sold_out = "{\"title\":\"x\",\"code\":\"sold_out\",\"detail\":\"y\"}";
        let busy = "{\"code\":\"too_busy\"}";
        let cases = [
            ("409 Conflict", "x-outcome: none\r\n", sold_out, Outcome::Refused(Code::SoldOut)),
            ("409 Conflict", "", sold_out, Outcome::Undocumented(409)),
            ("429 Too Many", "x-outcome: none\r\nretry-after: 1\r\n", busy, Outcome::Refused(Code::TooBusy)),
            ("429 Too Many", "x-outcome: none\r\n", busy, Outcome::Undocumented(429)),
            ("400 Bad", "x-outcome: none\r\n", sold_out, Outcome::Undocumented(400)),
            (
                "409 Conflict",
                "x-outcome: none\r\n",
                "{\"code\":\"no_such_code\"}",
                Outcome::Undocumented(409),
            ),
            ("500 Oops", "x-outcome: none\r\n", "{\"code\":\"internal\"}", Outcome::Undocumented(500)),
            ("502 Bad Gateway", "", "<html>", Outcome::Undocumented(502)),
        ];
        for (status, headers, body, expected) in cases {
            assert_eq!(outcome(&refusal(status, headers, body)), expected, "{status} {headers} {body}");
        }
    }

    #[test]
    fn what_is_no_http_or_has_no_length_is_broken() {
        assert_eq!(parse(b"SSH-2.0-OpenSSH\r\n\r\n"), Err(Failure::Broken));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n"), Err(Failure::Broken));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n"), Err(Failure::Broken));
    }
}
