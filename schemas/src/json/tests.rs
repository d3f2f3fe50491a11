//! Formats are held by files: schemas are generated, golden samples are read.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

#[test]
fn the_checked_in_schemas_are_those_of_the_types() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("json");
    for (name, schema) in super::all() {
        let path = dir.join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == text,
            "{name}.json is not of the types; UPDATE_SCHEMAS=1 writes it anew"
        );
    }
}

/// A golden sample is read, written again, and loses nothing on the way.
#[test]
fn golden_samples_stay_readable() {
    fn check<T: Serialize + DeserializeOwned>(name: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("golden")
            .join(name);
        let text = fs::read_to_string(&path).unwrap();
        let sample: T = serde_json::from_str(&text).unwrap_or_else(|err| panic!("{name}: {err}"));
        let before: Value = serde_json::from_str(&text).unwrap();
        let after = serde_json::to_value(&sample).unwrap();
        for (member, value) in before.as_object().unwrap() {
            assert_eq!(after.get(member), Some(value), "{name}: {member}");
        }
    }
    check::<crate::entry::SecretEntry>("secret_entry.1.json");
    check::<crate::entry::SecretEntry>("secret_entry.2.json");
    check::<crate::entry::PolicyEntry>("policy_entry.workspace.1.json");
    check::<crate::entry::PolicyEntry>("policy_entry.team.1.json");
    check::<crate::entry::PolicyEntry>("policy_entry.team.2.json");
    check::<crate::entry::PolicyEntry>("policy_entry.owner.1.json");
    check::<crate::entry::PolicyEntry>("policy_entry.target.1.json");
    check::<crate::entry::PolicyEntry>("policy_entry.target.2.json");
    check::<crate::entry::PolicyEntry>("policy_entry.global.1.json");
    check::<crate::stream::Meta>("meta.1.json");
    check::<crate::stream::Meta>("meta.2.json");
    check::<crate::stream::Frame>("frame.1.json");
    check::<crate::stream::Heartbeat>("heartbeat.1.json");
    check::<crate::stream::Heartbeat>("heartbeat.2.json");
    check::<crate::fleet::Renewal>("renewal.1.json");
    check::<crate::fleet::RenewalAnswer>("renewal_answer.1.json");
}
