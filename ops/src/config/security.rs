//! `[security]`: what is refused unless it is allowed here.

use serde::Serialize;

use super::Error;
use super::source::Values;

/// What is refused unless it is allowed here.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Security {
    /// Whether a target may be at an address that is not public.
    pub allow_private_upstreams: bool,
}

// === impl Security ===

impl Security {
    pub(super) fn read(values: &Values, default: Self) -> Result<Self, Error> {
        Ok(Self {
            allow_private_upstreams: values
                .flag("security.allow_private_upstreams")?
                .unwrap_or(default.allow_private_upstreams),
        })
    }
}
