//! Small changes to cases, by which they become tricks that nobody wrote down.

use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;

/// Bytes that separate things somewhere.
const BYTES: &[u8] = b"\r\n\t \0\x0b\x0c\x7f:;,.=/\\#?%\"+-_015afx\x80\xff";

/// Pieces that mean something to someone.
const PIECES: [&[u8]; 14] = [
    b"\r\n",
    b"\n",
    b"\r\n ",
    b"\r\r\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"5;x\r\n",
    b"chunked",
    b", chunked",
    b"%2e%2e/",
    b"/../",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n",
];

/// Lines that say where a request ends, or who it is from.
const LINES: [&[u8]; 16] = [
    b"content-length: 5",
    b"content-length: 0",
    b"Content-Length: 44",
    b"content-length : 5",
    b"content_length: 44",
    b"transfer-encoding: chunked",
    b"Transfer-Encoding: identity",
    b"transfer-encoding:\tchunked",
    b"transfer_encoding: chunked",
    b"te: trailers",
    b"trailer: content-length",
    b"connection: close",
    b"connection: content-length, transfer-encoding",
    b"expect: 100-continue",
    b"host: b",
    b" folded",
];

/// `sent` with one to three changes; `other` lends lines.
pub fn mutate(sent: &[u8], other: &[u8], random: &mut SmallRng) -> Vec<u8> {
    let mut bytes = sent.to_vec();
    for _ in 0..random.random_range(1..=3) {
        if bytes.is_empty() {
            break;
        }
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..10) {
            0 => bytes[at] = pick(BYTES, random),
            1 => bytes.insert(at, pick(BYTES, random)),
            2 => {
                let end = bytes.len().min(at + random.random_range(1..4));
                bytes.drain(at..end);
            }
            3 => bytes[at] ^= 0x20,
            4 => {
                bytes.splice(at..at, pick(&PIECES, random).iter().copied());
            }
            _ => change_lines(&mut bytes, other, random),
        }
    }
    bytes
}

fn change_lines(bytes: &mut Vec<u8>, other: &[u8], random: &mut SmallRng) {
    let mut lines = lines_of(bytes);
    let at = random.random_range(0..lines.len());
    match random.random_range(0..5) {
        0 => lines.insert(at, lines[at].clone()),
        1 => {
            let with = random.random_range(0..lines.len());
            lines.swap(at, with);
        }
        2 => {
            lines.remove(at);
        }
        3 => lines.insert(at, pick(&LINES, random).to_vec()),
        _ => {
            let lent = lines_of(other);
            let line = lent.choose(random).cloned().unwrap_or_default();
            lines.insert(at, line);
        }
    }
    *bytes = lines.join(&b"\r\n"[..]);
}

fn lines_of(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = vec![Vec::new()];
    let mut rest = bytes;
    while let [first, behind @ ..] = rest {
        if let Some(behind) = rest.strip_prefix(b"\r\n") {
            lines.push(Vec::new());
            rest = behind;
            continue;
        }
        if let Some(line) = lines.last_mut() {
            line.push(*first);
        }
        rest = behind;
    }
    lines
}

fn pick<T: Copy>(from: &[T], random: &mut SmallRng) -> T {
    *from.choose(random).expect("there is something to choose")
}
