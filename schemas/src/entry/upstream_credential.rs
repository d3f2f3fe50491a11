//! What a proxy presents to an upstream, by reference: the value stays on its host.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What stands for the value in [`UpstreamCredential::format`].
pub const PLACEHOLDER: &str = "{secret}";

/// A header that a proxy adds to each request for a target. Where the value comes from is
/// named, the value itself is in no log, no region and no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamCredential {
    /// What people call it.
    pub name: String,
    /// The header, lower case.
    pub header: String,
    /// The header's value, with [`PLACEHOLDER`] exactly once.
    pub format: String,
    /// What kind of place holds the value.
    pub source: SecretSource,
    /// Which place of that kind: 1 to 64 letters, digits and `_`.
    #[serde(rename = "ref")]
    pub reference: String,
}

/// Where a proxy finds a value. Both places have the workspace in their names, so that no
/// workspace can name another's secrets or the process's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretSource {
    /// The variable `THROTTLEPROXY_CREDENTIAL_<workspace_id>_<ref>`.
    Env,
    /// The file `<credentials_dir>/<workspace_id>/<ref>`.
    File,
}
