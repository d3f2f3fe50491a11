//! What must hold for any bytes that arrive as an entry or as something of the stream.
//!
//! What is read back from what was written is the same, and nothing panics. Unit tests run
//! this over a few thousand inputs (`PROPTEST_CASES` says how many), `cargo fuzz` over as
//! many as one likes (`fuzz/README.md`). The product is built without this module.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::{
    BadEntry, Change, ENTRY_BYTES_MAX, PolicyId, READER, check, decode_policy, decode_secret,
    encode,
};
use crate::fleet::{Renewal, RenewalAnswer};
use crate::stream::{Frame, Heartbeat, Meta};

/// Reads `bytes` as the entry of a secret and of a policy.
///
/// # Panics
/// When an entry that was read is another after it was written.
pub fn entry_decoding(bytes: &[u8]) {
    check_entry(bytes, decode_secret(bytes), decode_secret, |it| {
        it.min_reader
    });
    check_entry(bytes, decode_policy(bytes), decode_policy, |it| {
        it.min_reader
    });
    if let Ok(policy) = decode_policy(bytes) {
        let id = policy.policy.id();
        assert_eq!(id.to_string().parse::<PolicyId>().as_ref(), Ok(&id));
    }
}

/// Reads `bytes` as each message of the stream and of the fleet.
///
/// # Panics
/// When a message that was read is another after it was written.
pub fn frame_decoding(bytes: &[u8]) {
    check_message::<Frame>(bytes);
    check_message::<Heartbeat>(bytes);
    check_message::<Meta>(bytes);
    check_message::<Renewal>(bytes);
    check_message::<RenewalAnswer>(bytes);
    if let Ok(change) = serde_json::from_slice::<Change>(bytes) {
        // It may be too new or too large, and says so.
        let _ = check(&change);
        assert_eq!(change.revision(), change.clone().revision());
    }
    check_message::<Change>(bytes);
}

fn check_entry<E: Serialize + PartialEq + Debug>(
    bytes: &[u8],
    read: Result<E, BadEntry>,
    decode: fn(&[u8]) -> Result<E, BadEntry>,
    min_reader: fn(&E) -> u32,
) {
    match read {
        Ok(entry) => {
            assert!(bytes.len() <= ENTRY_BYTES_MAX && min_reader(&entry) <= READER);
            match encode(&entry) {
                Ok(text) => assert_eq!(decode(text.as_bytes()).as_ref(), Ok(&entry)),
                // What was left out is written as null and takes room.
                Err(err) => assert!(matches!(err, BadEntry::TooLarge(_)), "{err}"),
            }
        }
        Err(BadEntry::TooLarge(length)) => assert_eq!(length, bytes.len()),
        Err(BadEntry::TooNew(version)) => assert!(version > READER),
        Err(BadEntry::Malformed(_)) => {}
    }
}

fn check_message<M: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(message) = serde_json::from_slice::<M>(bytes) else {
        return;
    };
    let text = serde_json::to_vec(&message).expect("what was read can be written");
    let again: M = serde_json::from_slice(&text).expect("what was written can be read");
    assert_eq!(again, message);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOLDEN: [&[u8]; 11] = [
        include_bytes!("../golden/frame.1.json"),
        include_bytes!("../golden/heartbeat.1.json"),
        include_bytes!("../golden/meta.1.json"),
        include_bytes!("../golden/policy_entry.global.1.json"),
        include_bytes!("../golden/policy_entry.owner.1.json"),
        include_bytes!("../golden/policy_entry.target.1.json"),
        include_bytes!("../golden/policy_entry.team.1.json"),
        include_bytes!("../golden/policy_entry.workspace.1.json"),
        include_bytes!("../golden/renewal.1.json"),
        include_bytes!("../golden/renewal_answer.1.json"),
        include_bytes!("../golden/secret_entry.1.json"),
    ];

    const PIECES: [&str; 24] = [
        "null",
        "true",
        "0",
        "-1",
        "1.5",
        "1e300",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775808",
        "\"\"",
        "\"x\"",
        "[]",
        "{}",
        "[",
        "{",
        "}",
        "]",
        ",",
        ":",
        "\"kind\":\"owner\"",
        "\"min_reader\":2",
        "\"status\":\"revoked\"",
        "\\u0000",
        "\\ud800",
    ];

    /// A golden file with a few changes: bytes, pieces, or the tail of another.
    fn inputs() -> impl Strategy<Value = Vec<u8>> {
        let change = (
            any::<prop::sample::Index>(),
            0..4_u8,
            any::<u8>(),
            0..PIECES.len(),
        );
        let golden = prop::sample::select(GOLDEN.to_vec());
        (golden.clone(), golden, prop::collection::vec(change, 0..5)).prop_map(
            |(golden, other, changes)| {
                let mut bytes = golden.to_vec();
                for (at, kind, byte, piece) in changes {
                    let at = at.index(bytes.len() + 1).min(bytes.len());
                    match kind {
                        0 => bytes.insert(at, byte),
                        1 if at < bytes.len() => bytes[at] = byte,
                        2 => {
                            let end = bytes.len().min(at + usize::from(byte % 24));
                            bytes.splice(at..end, PIECES[piece].bytes());
                        }
                        _ => {
                            let from = at.min(other.len());
                            bytes.splice(at.., other[from..].iter().copied());
                        }
                    }
                }
                bytes
            },
        )
    }

    fn run(check: fn(&[u8])) {
        let mut config = ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        if std::env::var_os("PROPTEST_CASES").is_none() {
            config.cases = 4_000;
        }
        let outcome = prop::test_runner::TestRunner::new(config).run(&inputs(), |bytes| {
            check(&bytes);
            Ok(())
        });
        if let Err(err) = outcome {
            panic!("{err}");
        }
    }

    #[test]
    fn an_entry_that_was_read_is_the_same_when_written() {
        run(entry_decoding);
    }

    #[test]
    fn a_message_that_was_read_is_the_same_when_written() {
        run(frame_decoding);
    }

    #[test]
    fn golden_files_are_read_by_some_check() {
        for bytes in GOLDEN {
            let is_read = decode_secret(bytes).is_ok()
                || decode_policy(bytes).is_ok()
                || serde_json::from_slice::<Frame>(bytes).is_ok()
                || serde_json::from_slice::<Heartbeat>(bytes).is_ok()
                || serde_json::from_slice::<Meta>(bytes).is_ok()
                || serde_json::from_slice::<Renewal>(bytes).is_ok()
                || serde_json::from_slice::<RenewalAnswer>(bytes).is_ok();
            assert!(is_read, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
