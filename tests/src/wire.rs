//! HTTP/1.1 read byte by byte, with one reading and no kindness.
//!
//! Where two servers disagree on where a request ends, the rest of one request becomes
//! another. So this reader accepts only what every server reads in the same way, and calls
//! everything else unclear: a line end is CR LF, a length is digits and stands once, the
//! only coding is `chunked`, chunks have no extensions, and nothing is folded. What our
//! proxy sends upstream has to pass here.

pub mod h2;
mod recorder;

use bytes::Bytes;

pub use recorder::{Event, Happened, Recorder};

/// A whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// The method.
    pub method: String,
    /// What stands between method and version.
    pub target: String,
    /// The fields in the order they came, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Bytes,
    /// The fields behind a chunked body.
    pub trailers: Vec<(String, String)>,
    /// The bytes of all of it on the wire.
    pub bytes: usize,
}

/// What the bytes so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// The beginning of a request.
    More,
    /// A request, and perhaps more behind it.
    Whole(Box<Arrived>),
    /// Something that servers may read in different ways, and why.
    Unclear(String),
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The fields in the order they came, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// Why reading stopped: there is not enough yet, or it is wrong.
enum Stop {
    More,
    Unclear(String),
}

/// Bytes and how far they were read.
struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

// === impl Arrived ===

impl Arrived {
    /// The values of a field.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        values(&self.headers, name)
    }
}

// === impl Answer ===

impl Answer {
    /// A field's first value.
    pub fn header<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        values(&self.headers, name).next()
    }
}

/// Reads the request at the start of `bytes`.
pub fn read_request(bytes: &[u8]) -> Reading {
    let mut cursor = Cursor { bytes, at: 0 };
    match request(&mut cursor) {
        Ok(arrived) => Reading::Whole(Box::new(arrived)),
        Err(Stop::More) => Reading::More,
        Err(Stop::Unclear(why)) => Reading::Unclear(why),
    }
}

/// Reads all answers in `bytes`, interim ones left out, and what is left behind them.
pub fn read_answers(mut bytes: &[u8]) -> (Vec<Answer>, &[u8]) {
    let mut answers = Vec::new();
    loop {
        let mut cursor = Cursor { bytes, at: 0 };
        let Ok(answer) = answer(&mut cursor) else {
            return (answers, bytes);
        };
        bytes = &bytes[cursor.at..];
        if answer.status >= 200 {
            answers.push(answer);
        }
    }
}

fn request(cursor: &mut Cursor<'_>) -> Result<Arrived, Stop> {
    let line = cursor.line()?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return unclear(format!("the request line {line:?}"));
    };
    if !is_token(method) || target.is_empty() {
        return unclear(format!("the request line {line:?}"));
    }
    let (method, target) = (method.to_owned(), target.to_owned());
    let headers = fields(cursor)?;
    if values(&headers, "host").count() != 1 {
        return unclear("not exactly one Host".into());
    }
    let lengths: Vec<_> = values(&headers, "content-length").collect();
    let codings: Vec<_> = values(&headers, "transfer-encoding").collect();
    let mut trailers = Vec::new();
    let body = match (&lengths[..], &codings[..]) {
        ([], []) => Bytes::new(),
        ([length], []) => {
            let is_number = !length.is_empty() && length.bytes().all(|it| it.is_ascii_digit());
            match length.parse() {
                Ok(length) if is_number => Bytes::copy_from_slice(cursor.take(length)?),
                _ => return unclear(format!("the length {length:?}")),
            }
        }
        ([], ["chunked"]) => {
            let body = chunks(cursor)?;
            trailers = fields(cursor)?;
            body
        }
        _ => return unclear(format!("the lengths {lengths:?} and codings {codings:?}")),
    };
    Ok(Arrived {
        method,
        target,
        headers,
        body,
        trailers,
        bytes: cursor.at,
    })
}

fn answer(cursor: &mut Cursor<'_>) -> Result<Answer, Stop> {
    let line = cursor.line()?;
    let Some(status) = line
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| line.strip_prefix("HTTP/1.0 "))
        .and_then(|rest| rest.get(..3))
        .and_then(|digits| digits.parse().ok())
    else {
        return unclear(format!("the status line {line:?}"));
    };
    let headers = fields(cursor)?;
    let length = values(&headers, "content-length").next();
    let body = match length.map(str::parse) {
        Some(Ok(length)) => Bytes::copy_from_slice(cursor.take(length)?),
        Some(Err(_)) => return unclear(format!("the length {length:?}")),
        None if values(&headers, "transfer-encoding").next().is_some() => {
            let body = chunks(cursor)?;
            fields(cursor)?;
            body
        }
        None => Bytes::new(),
    };
    Ok(Answer {
        status,
        headers,
        body,
    })
}

fn fields(cursor: &mut Cursor<'_>) -> Result<Vec<(String, String)>, Stop> {
    let mut fields = Vec::new();
    loop {
        let line = cursor.line()?;
        if line.is_empty() {
            return Ok(fields);
        }
        match line.split_once(':') {
            Some((name, value)) if is_token(name) => {
                let value = value.trim_matches([' ', '\t']);
                fields.push((name.to_ascii_lowercase(), value.to_owned()));
            }
            _ => return unclear(format!("the field line {line:?}")),
        }
    }
}

fn chunks(cursor: &mut Cursor<'_>) -> Result<Bytes, Stop> {
    let mut body = Vec::new();
    loop {
        let line = cursor.line()?;
        let is_hex = !line.is_empty() && line.bytes().all(|it| it.is_ascii_hexdigit());
        let size = match usize::from_str_radix(&line, 16) {
            Ok(size) if is_hex => size,
            _ => return unclear(format!("the chunk size {line:?}")),
        };
        if size == 0 {
            return Ok(body.into());
        }
        body.extend_from_slice(cursor.take(size)?);
        if cursor.take(2)? != b"\r\n" {
            return unclear("no line end behind a chunk".into());
        }
    }
}

fn unclear<T>(why: String) -> Result<T, Stop> {
    Err(Stop::Unclear(why))
}

fn values<'a>(fields: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    fields
        .iter()
        .filter(move |(it, _)| it == name)
        .map(|(_, value)| value.as_str())
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&it))
}

// === impl Cursor ===

impl<'b> Cursor<'b> {
    /// A line without its CR LF. Bytes above 127 come out as U+FFFD or as the text they
    /// are; control bytes other than a tab do not come out at all.
    fn line(&mut self) -> Result<String, Stop> {
        let rest = &self.bytes[self.at..];
        for (at, &byte) in rest.iter().enumerate() {
            match byte {
                b'\r' => match rest.get(at + 1) {
                    None => return Err(Stop::More),
                    Some(b'\n') => {
                        self.at += at + 2;
                        return Ok(String::from_utf8_lossy(&rest[..at]).into_owned());
                    }
                    Some(_) => return unclear("a CR without LF".into()),
                },
                b'\t' | b' '..=b'~' | 0x80.. => {}
                _ => return unclear(format!("the byte {byte:#04x} in a line")),
            }
        }
        Err(Stop::More)
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], Stop> {
        let end = self.at.checked_add(length).ok_or(Stop::More)?;
        let taken = self.bytes.get(self.at..end).ok_or(Stop::More)?;
        self.at = end;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests;
