//! The JSON Schemas of the wire formats, as files in `schemas/json/`.
//!
//! They are generated from the types and checked in, so that a change of a format is a
//! change that a reviewer sees. After a deliberate one:
//! `UPDATE_SCHEMAS=1 cargo test -p schemas`.

use schemars::schema_for;
use serde_json::Value;

/// Every schema under the name of its file.
pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        (
            "secret_entry",
            schema_for!(crate::entry::SecretEntry).to_value(),
        ),
        (
            "policy_entry",
            schema_for!(crate::entry::PolicyEntry).to_value(),
        ),
        ("meta", schema_for!(crate::stream::Meta).to_value()),
        ("frame", schema_for!(crate::stream::Frame).to_value()),
        (
            "heartbeat",
            schema_for!(crate::stream::Heartbeat).to_value(),
        ),
        ("renewal", schema_for!(crate::fleet::Renewal).to_value()),
        (
            "renewal_answer",
            schema_for!(crate::fleet::RenewalAnswer).to_value(),
        ),
        ("problem", schema_for!(crate::problem::Problem).to_value()),
        ("key", schema_for!(crate::api::Key).to_value()),
        ("target", schema_for!(crate::api::Target).to_value()),
        ("workspace", schema_for!(crate::api::Workspace).to_value()),
        ("team", schema_for!(crate::api::Team).to_value()),
        (
            "service_account",
            schema_for!(crate::api::ServiceAccount).to_value(),
        ),
        (
            "access_group",
            schema_for!(crate::api::AccessGroup).to_value(),
        ),
        (
            "upstream_credential",
            schema_for!(crate::api::UpstreamCredential).to_value(),
        ),
        (
            "effective_access",
            schema_for!(crate::api::EffectiveAccess).to_value(),
        ),
    ]
}

#[cfg(test)]
mod tests;
