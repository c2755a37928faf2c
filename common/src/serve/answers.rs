//! Answers that no handler gives: to what is not HTTP, to heads that are too long or too slow, to connections that
//! are too many. The HTTP library answers such with a bare status; here they are problem documents as all others.

use crate::problem::{Code, Problem};

/// What the library's own refusals begin with. No answer of a handler does: theirs have a body.
const BARE: [(&str, Code); 3] = [
    ("400 Bad Request\r\ncontent-length: 0\r\n", Code::InvalidRequest),
    ("408 Request Timeout\r\ncontent-length: 0\r\n", Code::InvalidRequest),
    ("431 Request Header Fields Too Large\r\ncontent-length: 0\r\n", Code::TooLarge),
];

/// A whole answer with this problem, after which the connection ends.
pub(super) fn written(problem: &Problem) -> String {
    let body = serde_json::to_string(problem).unwrap_or_default();
    let retry =
        problem.retry_after_s.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
    format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nx-outcome: {}\r\n\
         x-content-type-options: nosniff\r\ncache-control: no-store\r\n{retry}connection: close\r\n\r\n{body}",
        problem.status,
        problem.title,
        body.len(),
        problem.outcome().as_str(),
    )
}

/// To a connection on which nothing has come in time.
pub(super) fn too_slow() -> String {
    let title = "Request Timeout".into();
    written(&Problem { status: 408, title, ..Problem::new(Code::InvalidRequest) })
}

/// What is sent instead of a bare refusal; `None` for everything else.
pub(super) fn instead_of(bytes: &[u8]) -> Option<String> {
    let text = bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 "))?;
    let (line, code) = BARE.iter().find(|(start, _)| text.starts_with(start.as_bytes()))?;
    // Only a whole head: what comes in parts is passed on as it is.
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let (status, title) = line.split_once("\r\n")?.0.split_once(' ')?;
    let problem =
        Problem { status: status.parse().ok()?, title: title.to_owned().into(), ..Problem::new(*code) };
    Some(written(&problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_librarys_own_refusals_are_written_anew() {
        let bare =
            b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\ndate: x\r\n\r\n";
        let answer = instead_of(bare).expect("written anew");
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("content-length: {}", body.len())));
        let problem: Problem = serde_json::from_str(body).expect("a problem");
        assert_eq!((problem.status, problem.code), (408, Code::InvalidRequest));
        for other in [
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 120\r\n\r\n".as_slice(),
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"data: HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
            b"",
        ] {
            assert_eq!(instead_of(other), None);
        }
    }
}
