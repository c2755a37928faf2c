//! Where in what a client sends its requests end.
//!
//! The HTTP library does not say whether it has anything left in its buffers. A connection may do without them only when
//! there is nothing left for certain: dropping the beginning of a request would make the rest of it a request. So this
//! errs on one side: an end that is not certain is none, and the connection keeps its buffers.

/// Bodies that the library has certainly taken out of its buffer when they have been read, in bytes: longer ones it may
/// leave there until the handler asks for them.
const BODY_MAX_BYTES: u64 = 16 * 1024;

/// What has been read of a connection, in terms of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Input {
    read: u64,
    at: At,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    /// Between two requests.
    #[default]
    Between,
    /// In a head; what the end of what was read has of an empty line.
    Head(Line),
    /// After a head that ended here.
    Body(u64),
    /// In a request that ends here.
    Request(u64),
    /// It is not known.
    Lost,
}

/// How much of the end of a head has come: a line's end, and an empty line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Within,
    Ended,
    EndedAndReturn,
}

impl Input {
    /// Bytes came; `quiet`: no request was being answered. None: the other side has closed its half.
    pub(super) fn read(&mut self, bytes: &[u8], quiet: bool) {
        let line = match self.at {
            At::Between => Line::Within,
            At::Request(end) if end == self.read && quiet => Line::Within,
            At::Head(line) => line,
            At::Body(_) | At::Request(_) | At::Lost => {
                self.read += bytes.len() as u64;
                if bytes.is_empty() {
                    self.at = At::Lost;
                }
                return;
            }
        };
        self.at = match end_of_head(bytes, line) {
            _ if bytes.is_empty() => At::Lost,
            Ok(length) => At::Body(self.read + length as u64),
            Err(line) => At::Head(line),
        };
        self.read += bytes.len() as u64;
    }

    /// The library has read a head, with a body of so many bytes; `None`: it says otherwise how long it is.
    pub(super) fn head(&mut self, body_bytes: Option<u64>) {
        self.at = match (self.at, body_bytes) {
            (At::Body(head_end), Some(body_bytes)) if body_bytes <= BODY_MAX_BYTES => {
                At::Request(head_end + body_bytes)
            }
            _ => At::Lost,
        };
    }

    /// From now on it is not known.
    pub(super) fn lose(&mut self) {
        self.at = At::Lost;
    }

    /// Whether everything that was read belongs to requests that were read whole, and there was one.
    pub(super) fn is_at_end(&self) -> bool {
        self.at == At::Request(self.read)
    }

    /// Whether nothing was read at all.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How many bytes of `bytes` belong to a head, or how its last line stands. It ends with an empty line, and lines end
/// with LF, the return before it being optional: at the latest where the library sees its end.
fn end_of_head(bytes: &[u8], mut line: Line) -> Result<usize, Line> {
    let mut rest = bytes.iter().enumerate();
    loop {
        if line == Line::Within {
            // Most of a head is skipped here.
            let position = bytes.len() - rest.len();
            let Some(found) = memchr::memchr(b'\n', &bytes[position..]) else { return Err(Line::Within) };
            rest.nth(found);
            line = Line::Ended;
        }
        let Some((position, byte)) = rest.next() else { return Err(line) };
        line = match (byte, line) {
            (b'\n', _) => return Ok(position + 1),
            (b'\r', Line::Ended) => Line::EndedAndReturn,
            _ => Line::Within,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody";

    fn after(chunks: &[&[u8]], body_bytes: Option<u64>) -> Input {
        let mut input = Input::default();
        for chunk in chunks {
            input.read(chunk, true);
        }
        input.head(body_bytes);
        input
    }

    #[test]
    fn a_request_ends_where_it_ends_however_it_comes() {
        assert!(after(&[GET], Some(0)).is_at_end());
        assert!(after(&[POST], Some(4)).is_at_end());
        for cut in 1..GET.len() {
            let (first, second) = GET.split_at(cut);
            let mut input = Input::default();
            input.read(first, true);
            assert!(!input.is_at_end() && !input.is_empty(), "{cut}");
            assert!(after(&[first, second], Some(0)).is_at_end(), "{cut}");
        }
        let (head, body) = POST.split_at(POST.len() - 4);
        let mut input = after(&[head], Some(4));
        for byte in body {
            assert!(!input.is_at_end());
            input.read(&[*byte], false);
        }
        assert!(input.is_at_end());
    }

    #[test]
    fn requests_one_after_another_end_each() {
        let mut input = Input::default();
        for _ in 0..3 {
            for (request, body_bytes) in [(GET, 0), (POST, 4)] {
                input.read(request, true);
                assert!(!input.is_at_end(), "before the library has seen it");
                input.head(Some(body_bytes));
                assert!(input.is_at_end());
            }
        }
    }

    #[test]
    fn whatever_is_left_over_is_no_end_and_never_becomes_one() {
        let with_more = [GET, b"G"].concat();
        let two = [GET, GET].concat();
        let bare = b"GET / HTTP/1.1\nhost: x\n\nGET /\r\n\r\n".as_slice();
        let blank = [b"\r\n\r\n".as_slice(), GET].concat();
        let no_length: [&[u8]; 4] = [&with_more, &two, bare, &blank];
        for bytes in no_length {
            let mut input = after(&[bytes], Some(0));
            assert!(!input.is_at_end(), "{}", String::from_utf8_lossy(bytes));
            input.read(b"ET / HTTP/1.1\r\n\r\n", true);
            assert!(!input.is_at_end());
            input.head(Some(0));
            assert!(!input.is_at_end());
        }
        // While an answer is made, nothing is expected.
        let mut input = after(&[GET], Some(0));
        input.read(GET, false);
        assert!(!input.is_at_end());
        input.head(Some(0));
        assert!(!input.is_at_end());
    }

    #[test]
    fn what_has_no_certain_end_has_none() {
        assert!(!after(&[GET], None).is_at_end());
        assert!(!after(&[POST], Some(BODY_MAX_BYTES + 1)).is_at_end());
        let mut input = after(&[GET], Some(0));
        input.read(b"", true);
        assert!(!input.is_at_end(), "the other side has closed its half");
        let mut input = after(&[GET], Some(0));
        input.lose();
        assert!(!input.is_at_end());
        input.read(GET, true);
        input.head(Some(0));
        assert!(!input.is_at_end());
    }

    #[test]
    fn heads_end_with_an_empty_line() {
        let ends: [(&[u8], Option<usize>); 8] = [
            (b"a\r\n\r\nb", Some(5)),
            (b"a\n\nb", Some(3)),
            (b"a\n\r\n", Some(4)),
            (b"a\r\n\rb\n\n", Some(7)),
            (b"a\r\nb\r\n", None),
            (b"\r\r\r\r", None),
            (b"a\n\r\r\n", None),
            (b"", None),
        ];
        for (bytes, expected) in ends {
            assert_eq!(end_of_head(bytes, Line::Within).ok(), expected, "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(end_of_head(b"\n", Line::EndedAndReturn), Ok(1));
        assert_eq!(end_of_head(b"\r\n", Line::Ended), Ok(2));
        assert_eq!(end_of_head(b"x", Line::Ended), Err(Line::Within));
    }
}
