//! Where a head of HTTP/2 begins and ends, seen in the bytes that come in.
//!
//! The HTTP/2 library gathers HEADERS and CONTINUATION frames (RFC 9113, 6.2 and 6.10)
//! and tells nobody before the head is whole. A deadline for heads, and a bound on what
//! unfinished ones take of the memory, need to know of them while they come. So this
//! follows the frames by their lengths, and reads nothing but their types and flags.

use std::rc::Rc;

use super::lane::Lane;

const FRAME_HEAD_LEN: usize = 9;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;

/// Follows the frames of one connection; it begins with the preface.
#[derive(Debug)]
pub struct HeadWatch {
    /// Bytes of the preface that are still to come.
    preface_left: usize,
    frame_head: [u8; FRAME_HEAD_LEN],
    frame_head_len: usize,
    payload_left: usize,
    /// The frame that comes in, or the one that came last, is of a head that goes on.
    in_head: bool,
    ends_head: bool,
}

// === impl HeadWatch ===

impl Default for HeadWatch {
    fn default() -> Self {
        Self {
            preface_left: super::connection::PREFACE.len(),
            frame_head: [0; FRAME_HEAD_LEN],
            frame_head_len: 0,
            payload_left: 0,
            in_head: false,
            ends_head: false,
        }
    }
}

impl HeadWatch {
    /// Bytes came in; the lane hears what they mean for heads.
    pub fn read(&mut self, mut bytes: &[u8], lane: &Rc<Lane>) {
        if self.preface_left > 0 {
            let skipped = self.preface_left.min(bytes.len());
            self.preface_left -= skipped;
            bytes = &bytes[skipped..];
            if self.preface_left == 0 {
                lane.await_streams();
            }
        }
        while !bytes.is_empty() {
            if self.frame_head_len < FRAME_HEAD_LEN {
                let wanted = FRAME_HEAD_LEN - self.frame_head_len;
                let taken = wanted.min(bytes.len());
                self.frame_head[self.frame_head_len..][..taken].copy_from_slice(&bytes[..taken]);
                self.frame_head_len += taken;
                bytes = &bytes[taken..];
                if self.frame_head_len < FRAME_HEAD_LEN {
                    return;
                }
                let [a, b, c, kind, flags, ..] = self.frame_head;
                self.payload_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.in_head = matches!(kind, HEADERS | CONTINUATION);
                self.ends_head = self.in_head && flags & END_HEADERS != 0;
            }
            let taken = self.payload_left.min(bytes.len());
            self.payload_left -= taken;
            bytes = &bytes[taken..];
            if self.in_head {
                lane.frames_head_grew(taken);
            }
            if self.payload_left == 0 {
                self.frame_head_len = 0;
                if self.ends_head {
                    self.in_head = false;
                    self.ends_head = false;
                    lane.frames_head_ended();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::connection::PREFACE;
    use crate::server::heads::Heads;

    fn frame(kind: u8, flags: u8, len: usize) -> Vec<u8> {
        let [.., a, b, c] = len.to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, 1][..], &vec![0; len]].concat()
    }

    /// Whether a head is under way after these frames, however they are cut.
    fn check(frames: &[Vec<u8>], under_way: bool) {
        let bytes = [PREFACE, &frames.concat()].concat();
        for piece_len in [1, 7, 24, bytes.len()] {
            let heads = Rc::new(Heads::new(1 << 20));
            let brief = Duration::from_secs(9);
            let lane = Rc::new(Lane::new([127, 0, 0, 1].into(), &heads, brief, brief));
            let mut watch = HeadWatch::default();
            for piece in bytes.chunks(piece_len) {
                watch.read(piece, &lane);
            }
            assert_eq!(
                lane.total_until().is_some(),
                under_way,
                "{piece_len} {frames:?}"
            );
        }
    }

    #[test]
    fn a_head_is_under_way_from_its_first_frame_to_its_last() {
        let settings = || frame(4, 0, 6);
        check(&[settings(), frame(6, 0, 8)], false);
        check(&[settings(), frame(HEADERS, END_HEADERS, 20)], false);
        check(&[frame(HEADERS, END_HEADERS, 20), frame(0, 0, 100)], false);
        check(&[frame(HEADERS, 0, 20)], true);
        check(&[frame(HEADERS, 0, 20), frame(CONTINUATION, 0, 20)], true);
        check(&[frame(HEADERS, 0, 0), frame(CONTINUATION, 0, 0)], true);
        check(
            &[
                frame(HEADERS, 0, 20),
                frame(CONTINUATION, 0, 20),
                frame(CONTINUATION, END_HEADERS, 0),
            ],
            false,
        );
        let mut begun = frame(HEADERS, END_HEADERS, 20);
        begun.truncate(15);
        check(&[settings(), begun], true);
    }
}
