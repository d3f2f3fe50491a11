//! Rates and their windows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Caps on requests and tokens within any interval of a window's length. `None` is no
/// cap, 0 refuses all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Limits {
    /// Requests in a second.
    pub rps: Option<u64>,
    /// Requests in a minute.
    pub rpm: Option<u64>,
    /// Requests in an hour.
    pub rph: Option<u64>,
    /// Requests in a day.
    pub rpd: Option<u64>,
    /// Tokens in a minute.
    pub tpm: Option<u64>,
    /// Tokens in an hour.
    pub tph: Option<u64>,
    /// Tokens in a day.
    pub tpd: Option<u64>,
}

impl Limits {
    /// The value under its wire name, or `None` for a name that is not a limit.
    pub fn get(&self, name: &str) -> Option<Option<u64>> {
        Some(match name {
            "rps" => self.rps,
            "rpm" => self.rpm,
            "rph" => self.rph,
            "rpd" => self.rpd,
            "tpm" => self.tpm,
            "tph" => self.tph,
            "tpd" => self.tpd,
            _ => return None,
        })
    }

    /// The place of the value with this wire name.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Option<u64>> {
        Some(match name {
            "rps" => &mut self.rps,
            "rpm" => &mut self.rpm,
            "rph" => &mut self.rph,
            "rpd" => &mut self.rpd,
            "tpm" => &mut self.tpm,
            "tph" => &mut self.tph,
            "tpd" => &mut self.tpd,
            _ => return None,
        })
    }
}

/// The caps of a plan, which hold for a whole workspace and count all its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PlanLimits {
    /// Requests in a second.
    pub rps: Option<u64>,
    /// Requests in a minute.
    pub rpm: Option<u64>,
}

impl From<PlanLimits> for Limits {
    fn from(plan: PlanLimits) -> Self {
        Self {
            rps: plan.rps,
            rpm: plan.rpm,
            ..Self::default()
        }
    }
}
