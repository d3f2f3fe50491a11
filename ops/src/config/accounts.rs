//! `[accounts]`: people.

use schemas::api::SignUp;
use serde::Serialize;

use super::Error;
use super::source::Values;

/// People.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Accounts {
    /// Who may make an account. The first value only: what an operator sets with
    /// `PATCH /v1/instance` wins.
    pub sign_up: SignUp,
}

// === impl Accounts ===

impl Accounts {
    pub(super) fn read(values: &Values, default: Self) -> Result<Self, Error> {
        let sign_up = values.parsed("accounts.sign_up", SIGN_UP, |text| match text {
            "open" => Some(SignUp::Open),
            "invite" => Some(SignUp::Invite),
            _ => None,
        })?;
        Ok(Self {
            sign_up: sign_up.unwrap_or(default.sign_up),
        })
    }
}

const SIGN_UP: &str = "open or invite";
