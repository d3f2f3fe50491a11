//! What may be in a catalog.

use schemas::api::{Actor, ActorKind};
use schemas::{EventId, LineageId, WorkspaceId};

use super::*;
use crate::Stream;
use crate::refusal::FieldCode;

fn credential(adjust: impl FnOnce(&mut UpstreamCredential)) -> CatalogCommand {
    let mut credential = UpstreamCredential {
        name: "provider".to_owned(),
        header: "authorization".to_owned(),
        format: "Bearer {secret}".to_owned(),
        source: SecretSource::Env,
        reference: "PROVIDER_2026".to_owned(),
    };
    adjust(&mut credential);
    CatalogCommand::CreateCredential(credential)
}

fn group(name: &str) -> CatalogCommand {
    CatalogCommand::CreateGroup {
        name: name.to_owned(),
    }
}

fn removal(name: &str, versions: Option<&[u64]>) -> Removal {
    Removal {
        name: name.to_owned(),
        versions: versions.map(<[u64]>::to_vec),
    }
}

/// The catalog after these commands, each of which must be followed.
fn given(commands: &[CatalogCommand]) -> Catalog {
    let mut catalog = Catalog::default();
    let mut version = 1;
    for command in commands {
        for event in decide(&catalog, command, &SecretLook::default()).unwrap() {
            version += 1;
            catalog.evolve(&Recorded {
                position: version,
                lineage: LineageId::from_u128(1),
                generation: 1,
                stream: Stream::Workspace(WorkspaceId::from_u128(1)),
                stream_version: version,
                id: EventId::from_u128(u128::from(version)),
                at: Timestamp::from_unix_ms(1_000),
                workspace_id: Some(WorkspaceId::from_u128(1)),
                actor: Actor {
                    kind: ActorKind::System,
                    id: "test".to_owned(),
                },
                request_id: None,
                causation_id: None,
                event,
            });
        }
    }
    catalog
}

fn refused(catalog: &Catalog, command: &CatalogCommand) -> Option<Refusal> {
    decide(catalog, command, &SecretLook::default()).err()
}

/// The refused fields of a creation; none where it is followed.
fn fields(command: &CatalogCommand) -> Vec<(String, FieldCode)> {
    match refused(&Catalog::default(), command) {
        None => Vec::new(),
        Some(Refusal::Fields(fields)) => fields.into_iter().map(|it| (it.field, it.code)).collect(),
        Some(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_group_is_made_and_deleted_and_its_name_is_free_again() {
    let catalog = given(&[group("payments")]);
    assert_eq!(catalog.groups["payments"].version, 2);
    assert_eq!(
        refused(&catalog, &group("Payments")),
        Some(Refusal::NameTaken("name"))
    );
    let delete = |versions| CatalogCommand::DeleteGroup(removal("payments", versions));
    assert_eq!(
        refused(&catalog, &delete(Some(&[1, 3]))),
        Some(Refusal::VersionMismatch { actual: 2 })
    );
    let catalog = given(&[group("payments"), delete(Some(&[2])), group("Payments")]);
    assert_eq!(catalog.groups.keys().collect::<Vec<_>>(), ["Payments"]);
    assert_eq!(
        refused(&catalog, &delete(None)),
        Some(Refusal::NotFound("access group"))
    );
}

#[test]
fn names_stand_in_paths() {
    let check = |name: &str, expected: Option<FieldCode>| {
        for command in [group(name), credential(|it| it.name = name.to_owned())] {
            let codes: Vec<_> = fields(&command).into_iter().map(|(_, code)| code).collect();
            assert_eq!(codes, Vec::from_iter(expected), "{name}");
        }
    };
    for good in ["a", "payments", "eu-west.1_x", "9"] {
        check(good, None);
    }
    let long = "a".repeat(65);
    for bad in ["", " a", "-a", "a/b", "a b", "ä", "a%20", long.as_str()] {
        check(bad, Some(FieldCode::Invalid));
    }
    check(
        "0123456789abcdef0123456789abcdef",
        Some(FieldCode::LooksLikeSecret),
    );
}

#[test]
fn headers_that_say_where_a_message_ends_or_came_from_are_no_credentials() {
    let check = |header: &str, allowed: bool| {
        let command = credential(|it| it.header = header.to_owned());
        assert_eq!(fields(&command).is_empty(), allowed, "{header}");
    };
    for good in ["Authorization", "x-api-key", "api_key", "X-Goog-Api-Key"] {
        check(good, true);
    }
    for bad in [
        "",
        "host",
        "Host",
        "content-length",
        "Content_Length",
        "transfer-encoding",
        "transfer_encoding",
        "connection",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "proxy-authorization",
        "proxy_authorization",
        "cookie",
        "set-cookie",
        "forwarded",
        "x-forwarded-for",
        "x_forwarded_for",
        "x-real-ip",
        "via",
        "x-throttleproxy-target",
        "X_ThrottleProxy_Target",
        "expect",
        "range",
        "content-type",
        ":authority",
        "a b",
        "a:",
        "a\r\nb",
        "ä",
        "_host",
    ] {
        check(bad, false);
    }
}

#[test]
fn a_format_has_its_secret_exactly_once() {
    let check = |format: &str, allowed: bool| {
        let command = credential(|it| it.format = format.to_owned());
        assert_eq!(fields(&command).is_empty(), allowed, "{format}");
    };
    for good in [
        "{secret}",
        "Bearer {secret}",
        "Token token=\"{secret}\", v=1",
    ] {
        check(good, true);
    }
    let long = format!("{}{{secret}}", "a ".repeat(200));
    for bad in [
        "",
        "Bearer",
        "{secret}{secret}",
        "{SECRET}",
        "Bearer {secret}\r\nx: y",
        " {secret}",
        "{secret} ",
        "ä{secret}",
        "tab\t{secret}",
        long.as_str(),
    ] {
        check(bad, false);
    }
    let pasted = credential(|it| it.format = "Bearer ghp_abcdef{secret}".to_owned());
    assert_eq!(
        fields(&pasted),
        [("format".to_owned(), FieldCode::LooksLikeSecret)]
    );
}

#[test]
fn a_reference_leads_nowhere_but_into_its_own_place() {
    let check = |reference: &str, expected: Option<FieldCode>| {
        let command = credential(|it| it.reference = reference.to_owned());
        let codes: Vec<_> = fields(&command).into_iter().map(|(_, code)| code).collect();
        assert_eq!(codes, Vec::from_iter(expected), "{reference}");
    };
    for good in ["a", "PROVIDER_2026", "_"] {
        check(good, None);
    }
    let long = "a".repeat(65);
    for bad in ["", "../x", "a/b", "a.b", "a-b", "ä", "a\0", long.as_str()] {
        check(bad, Some(FieldCode::Invalid));
    }
    check(
        "abcDEF0123456789abcDEF0123456789_x",
        Some(FieldCode::LooksLikeSecret),
    );
}

#[test]
fn all_wrong_fields_are_named_at_once() {
    let command = credential(|it| {
        it.name = String::new();
        it.header = "host".to_owned();
        it.format = "x".to_owned();
        it.reference = "-".to_owned();
    });
    let names: Vec<_> = fields(&command).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["name", "header", "format", "ref"]);
}
