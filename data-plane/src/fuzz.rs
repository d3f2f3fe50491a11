//! What must hold for any bytes that a stranger sends.
//!
//! Each check takes bytes, makes of them what the request path would get, and panics when
//! something does not hold. Unit tests run every check over a few thousand inputs
//! (`PROPTEST_CASES` says how many); `cargo fuzz` runs them for as long as one likes
//! (`fuzz/README.md`). Both are built with this module, the product is not.

#[cfg(test)]
use proptest::prelude::*;

pub use crate::pipeline::authenticate::fuzz::check as key_extraction;
pub use crate::pipeline::authorize::fuzz::check as target_parsing;
pub use crate::pipeline::headers::fuzz::check as header_rewriting;

/// How many inputs where nothing else is said.
#[cfg(test)]
const CASES: u32 = 4_000;

/// Runs a check over bytes that are put together from `pieces` and from noise.
#[cfg(test)]
pub(crate) fn run(pieces: &[&[u8]], check: fn(&[u8])) {
    let pieces: Vec<Vec<u8>> = pieces.iter().map(|it| it.to_vec()).collect();
    let piece = prop_oneof![
        4 => prop::sample::select(pieces),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    let inputs = prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat());
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let outcome = prop::test_runner::TestRunner::new(config).run(&inputs, |bytes| {
        check(&bytes);
        Ok(())
    });
    if let Err(err) = outcome {
        panic!("{err}");
    }
}
