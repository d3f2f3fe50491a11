//! HTTP/2 frames that no client library would send, and what comes back.
//!
//! Fields go out as literals, neither indexed nor compressed, so that any byte can stand
//! in a name or value. Of what comes back only the status and the body are read; the code
//! of a refusal stands in its body.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// What became of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stream {
    /// The status of the answer.
    pub status: Option<u16>,
    /// The body of the answer.
    pub body: Vec<u8>,
    /// The answer came to its end.
    pub is_whole: bool,
    /// The error code of a reset.
    pub reset: Option<u32>,
}

/// What became of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Its streams.
    pub streams: BTreeMap<u32, Stream>,
    /// The error code of a goodbye.
    pub goaway: Option<u32>,
    /// The other side closed.
    pub is_closed: bool,
}

/// A HEADERS frame, for a request or for trailers.
pub fn headers(stream: u32, fields: &[(&[u8], &[u8])], ends: bool) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            push_length(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    let ends = if ends { END_STREAM } else { 0 };
    frame(HEADERS, ends | END_HEADERS, stream, &block)
}

/// The same in pieces of so many bytes, all but the first in CONTINUATION frames.
pub fn headers_in_pieces(
    stream: u32,
    fields: &[(&[u8], &[u8])],
    ends: bool,
    bytes: usize,
) -> Vec<u8> {
    let whole = headers(stream, fields, ends);
    let pieces: Vec<_> = whole[9..].chunks(bytes).collect();
    let mut frames = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        let last = if at + 1 == pieces.len() {
            END_HEADERS
        } else {
            0
        };
        let (kind, first) = match at {
            0 => (HEADERS, if ends { END_STREAM } else { 0 }),
            _ => (CONTINUATION, 0),
        };
        frames.extend(frame(kind, first | last, stream, piece));
    }
    frames
}

/// A DATA frame.
pub fn data(stream: u32, bytes: &[u8], ends: bool) -> Vec<u8> {
    frame(DATA, if ends { END_STREAM } else { 0 }, stream, bytes)
}

/// A RST_STREAM frame that says CANCEL.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// Opens a connection, sends `frames` behind preface and settings, and reads until each of
/// `streams` has ended or the connection has.
pub async fn ask(to: SocketAddr, frames: &[u8], streams: &[u32]) -> Result<Outcome> {
    let mut socket = TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    let sent = [PREFACE, &frame(SETTINGS, 0, 0, &[]), frames].concat();
    // The other side may have enough before it has read everything.
    let _ = socket.write_all(&sent).await;
    let mut outcome = Outcome::default();
    let mut came = Vec::new();
    while !outcome.is_over(streams) {
        let read = timeout(Duration::from_secs(10), socket.read_buf(&mut came)).await;
        match read {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => outcome.is_closed = true,
            Err(_) => bail!("nothing more comes after {outcome:?}"),
        }
        while let Some(frame) = take_frame(&mut came) {
            if let Some(reply) = outcome.note(frame)? {
                let _ = socket.write_all(&reply).await;
            }
        }
    }
    Ok(outcome)
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

// === impl Outcome ===

impl Outcome {
    fn is_over(&self, streams: &[u32]) -> bool {
        let has_ended = |it: &Stream| it.is_whole || it.reset.is_some();
        let are_done = streams
            .iter()
            .all(|id| self.streams.get(id).is_some_and(has_ended));
        self.is_closed || are_done
    }

    /// Notes a frame, and returns what has to be said about it.
    fn note(&mut self, frame: Frame) -> Result<Option<Vec<u8>>> {
        let word = |at: usize| -> Result<u32> {
            let bytes = frame.payload.get(at..at + 4).context("a frame too short")?;
            Ok(u32::from_be_bytes(bytes.try_into()?))
        };
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                return Ok(Some(self::frame(SETTINGS, ACK, 0, &[])));
            }
            PING if frame.flags & ACK == 0 => {
                return Ok(Some(self::frame(PING, ACK, 0, &frame.payload)));
            }
            GOAWAY => self.goaway = Some(word(4)?),
            RST_STREAM => {
                self.streams.entry(frame.stream).or_default().reset = Some(word(0)?);
            }
            HEADERS | DATA => {
                let stream = self.streams.entry(frame.stream).or_default();
                if frame.kind == DATA {
                    stream.body.extend_from_slice(&frame.payload);
                } else if stream.status.is_none_or(|status| status < 200) {
                    stream.status = Some(status_of(&frame.payload)?);
                }
                stream.is_whole |= frame.flags & END_STREAM != 0;
            }
            _ => {}
        }
        Ok(None)
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame of a test is small");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn take_frame(came: &mut Vec<u8>) -> Option<Frame> {
    let &[a, b, c, kind, flags, d, e, f, g] = came.first_chunk::<9>()?;
    let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
    let payload = came.get(9..end)?.to_vec();
    came.drain(..end);
    Some(Frame {
        kind,
        flags,
        stream: u32::from_be_bytes([d & 0x7f, e, f, g]),
        payload,
    })
}

/// An integer with a prefix of seven bits (RFC 7541, 5.1), which also says that the text
/// behind it is not compressed.
fn push_length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        block.push(length as u8);
        return;
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// The status, which stands first: one byte for the usual ones, otherwise three digits
/// behind the index of `:status` (RFC 7541, 6 and appendices A and B).
fn status_of(block: &[u8]) -> Result<u16> {
    const USUAL: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // A size of the table may be announced in front.
    let block = match block {
        [first, rest @ ..] if first & 0xe0 == 0x20 => rest,
        block => block,
    };
    match block {
        [indexed @ 0x88..=0x8e, ..] => Ok(USUAL[usize::from(indexed - 0x88)]),
        [0x48 | 0x08 | 0x18, 0x03, a, b, c, ..] => Ok(std::str::from_utf8(&[*a, *b, *c])?.parse()?),
        [0x48 | 0x08 | 0x18, length @ 0x82..=0x83, packed @ ..] => digits(
            packed
                .get(..usize::from(length & 0x7f))
                .context("too short")?,
        ),
        _ => bail!("a block that does not begin with a status: {block:02x?}"),
    }
}

/// Three digits in the Huffman code: five bits for 0 to 2, six for 3 to 9.
fn digits(packed: &[u8]) -> Result<u16> {
    let mut bits = packed
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let mut take = |count| (0..count).try_fold(0, |all, _| Some(all << 1 | bits.next()?));
        let five: u16 = take(5).context("too few bits")?;
        let digit = match five {
            0..=2 => five,
            _ => (five << 1 | take(1).context("too few bits")?) - 0x19 + 3,
        };
        number = number * 10 + digit;
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_in_every_form() {
        for (block, status) in [
            (&[0x88][..], 200),
            (&[0x8c, 0x40], 400),
            (&[0x3f, 0x48, 0x03, b'4', b'3', b'1'], 431),
            // "302" as in RFC 7541, C.6.1, and "307" as in C.6.2.
            (&[0x48, 0x82, 0x64, 0x02], 302),
            (&[0x48, 0x83, 0x64, 0x0e, 0xff], 307),
        ] {
            assert_eq!(status_of(block).unwrap(), status, "{block:02x?}");
        }
    }
}
