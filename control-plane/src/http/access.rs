//! The member `access` of a body: where a key or a team may go.

use events::access::{AccessMembers, AccessPatch, merged};
use schemas::entry::Access;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::fields::Fields;

const ACCESS: &str = "null or an object with mode, targets, groups and shadow";
const MODE: &str = "inherit or restrict";
const TARGETS: &str = "a list of ids of targets";
const GROUPS: &str = "a list of names of access groups";
const SHADOW: &str = "true or false";

/// The access of something new; what is not said is as by default. What is wrong is noted.
pub(super) fn created(fields: &mut Fields) -> Access {
    let Some(patch) = patched(fields) else {
        return Access::default();
    };
    // Refused once more, with the same words, where the command is decided.
    merged(&Access::default(), &patch, &mut Vec::new())
}

/// How the access changes; `None` where nothing is said of it. What is wrong is noted.
pub(super) fn patched(fields: &mut Fields) -> Option<AccessPatch> {
    let mut members: Map<String, Value> = match fields.optional("access", ACCESS)? {
        None => return Some(AccessPatch::Clear),
        Some(members) => members,
    };
    let patch = AccessMembers {
        mode: member(&mut members, fields, "mode", MODE),
        targets: member(&mut members, fields, "targets", TARGETS),
        groups: member(&mut members, fields, "groups", GROUPS),
        shadow: member(&mut members, fields, "shadow", SHADOW),
    };
    for name in members.keys() {
        fields.refuse(&format!("access.{name}"), "mode, targets, groups or shadow");
    }
    Some(AccessPatch::Merge(patch))
}

fn member<T: DeserializeOwned>(
    members: &mut Map<String, Value>,
    fields: &mut Fields,
    name: &str,
    expected: &str,
) -> Option<Option<T>> {
    match serde_json::from_value(members.remove(name)?) {
        Ok(value) => Some(value),
        Err(_) => {
            fields.refuse(&format!("access.{name}"), expected);
            None
        }
    }
}
