//! Bytes once written stay readable.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::Stream;

/// Every sample is read, and written again to the same canonical bytes.
#[test]
fn golden_samples_stay_readable() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut kinds = Vec::new();
    for file in fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read(&path).unwrap();
        let recorded = decode(&text).unwrap_or_else(|err| panic!("{name}: {err:?}"));
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            name,
            format!(
                "{}.{}",
                kind(&recorded.event).unwrap(),
                value["schema_version"]
            )
        );
        if value["schema_version"] == version_of(&kind(&recorded.event).unwrap()) {
            let canonical = serde_json_canonicalizer::to_vec(&value).unwrap();
            assert_eq!(encode(&recorded).unwrap(), canonical, "{name}");
        }
        kinds.push(kind(&recorded.event).unwrap());
    }
    for expected in [
        "access.denied",
        "instance.operator_added",
        "instance.operator_removed",
        "instance.updated",
        "key.created",
        "key.deactivated",
        "key.first_used",
        "key.purged",
        "key.reactivated",
        "key.revoked",
        "key.rotated",
        "key.transferred",
        "key.updated",
        "service_account.created",
        "service_account.deactivated",
        "service_account.reactivated",
        "service_account.updated",
        "target.created",
        "target.deleted",
        "target.updated",
        "team.created",
        "team.deleted",
        "team.member_removed",
        "team.member_set",
        "team.updated",
        "workspace.access_group_created",
        "workspace.access_group_deleted",
        "workspace.created",
        "workspace.credential_created",
        "workspace.credential_deleted",
        "workspace.invitation_accepted",
        "workspace.invitation_created",
        "workspace.invitation_deleted",
        "workspace.invitation_reissued",
        "workspace.member_added",
        "workspace.member_removed",
        "workspace.member_updated",
        "workspace.reinstated",
        "workspace.suspended",
        "workspace.updated",
    ] {
        assert!(
            kinds.iter().any(|it| it == expected),
            "no golden sample of {expected}"
        );
    }
}

#[test]
fn an_old_version_is_lifted_step_by_step() {
    fn rename(data: &mut Value) {
        let members = data.as_object_mut().unwrap();
        let name = members.remove("label").unwrap();
        members.insert("name".to_owned(), name);
    }
    let steps = [Upcast {
        kind: "workspace.created",
        from: 0,
        step: rename,
    }];
    let mut event = sample("workspace.created.1.json");
    event["schema_version"] = json!(0);
    let name = event["data"]
        .as_object_mut()
        .unwrap()
        .remove("name")
        .unwrap();
    event["data"]["label"] = name.clone();
    let bytes = serde_json::to_vec(&event).unwrap();

    let recorded = decode_with(&bytes, &steps).unwrap();
    assert!(matches!(&recorded.event, Event::WorkspaceCreated { name: it, .. } if *it == name));
    assert!(
        decode(&bytes).is_err(),
        "without the step it cannot be read"
    );
}

#[test]
fn a_newer_version_and_an_unknown_type_are_refused_rather_than_guessed() {
    for (member, value) in [
        ("schema_version", json!(2)),
        ("type", json!("key.teleported")),
    ] {
        let mut event = sample("key.revoked.1.json");
        event[member] = value;
        assert!(
            decode(&serde_json::to_vec(&event).unwrap()).is_err(),
            "{member}"
        );
    }
}

/// The example of the chain's definition, worked by hand with another tool.
#[test]
fn hashes_are_as_documented() {
    let leaf = leaf_hash(b"{}");
    assert_eq!(leaf, <Hash>::from(Sha256::digest(b"\0{}")));
    let mut input = vec![0; 32];
    input.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1]);
    input.extend_from_slice(&leaf);
    assert_eq!(
        chain_hash(&CHAIN_START, 1, &leaf),
        <Hash>::from(Sha256::digest(&input))
    );
}

#[test]
fn canonical_bytes_have_sorted_members_and_no_spaces() {
    let recorded = decode(&serde_json::to_vec(&sample("key.revoked.1.json")).unwrap()).unwrap();
    assert!(matches!(recorded.stream, Stream::Key(_)));
    let text = String::from_utf8(encode(&recorded).unwrap()).unwrap();
    assert!(text.starts_with(r#"{"actor":{"id":"#), "{text}");
    assert!(
        text.contains(r#""type":"key.revoked","workspace_id":"#),
        "{text}"
    );
}

fn sample(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
