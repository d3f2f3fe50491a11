//! What may be a target.

use schemas::entry::{Bodies, Timeouts};

use std::sync::Arc;

use super::*;
use crate::command::{OwnPlaces, TargetRules};
use crate::refusal::FieldCode;

fn create(host: &str) -> CreateTarget {
    CreateTarget {
        workspace_id: WorkspaceId::from_u128(1),
        name: "echo".to_owned(),
        host: host.to_owned(),
        scheme: Scheme::Https,
        port: None,
        extra_ports: Vec::new(),
        base_path: String::new(),
        timeouts: Timeouts::default(),
        bodies: Bodies::default(),
        allow_set_cookie: false,
        allow_private: false,
        groups: Vec::new(),
        credential: None,
        rules: TargetRules::default(),
    }
}

/// The refused fields of a creation; none where it is approved.
fn refused(create: CreateTarget) -> Vec<(String, FieldCode)> {
    let command = TargetCommand::Create(Box::new(create));
    match decide(None, &command, &SecretLook::default()) {
        Ok(_) => Vec::new(),
        Err(Refusal::Fields(fields)) => fields.into_iter().map(|it| (it.field, it.code)).collect(),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn hosts() {
    let check = |host: &str, expected: Option<FieldCode>| {
        let codes: Vec<_> = refused(create(host))
            .into_iter()
            .map(|(_, code)| code)
            .collect();
        assert_eq!(codes, Vec::from_iter(expected), "{host}");
    };
    for good in [
        "api.example.com",
        "API.Example.COM.",
        "xn--bcher-kva.example",
        "a-1.b2.co",
    ] {
        check(good, None);
    }
    for bad in [
        "",
        "api_example.com",
        "-a.com",
        "a..com",
        "https://a.com",
        "a.com:443",
        "a.com/x",
        "1.2.3",
    ] {
        check(bad, Some(FieldCode::Invalid));
    }
    for inside in [
        "127.0.0.1",
        "[::1]",
        "10.0.0.1",
        "8.8.8.8",
        "localhost",
        "api.localhost",
        "printer.local",
        "metadata.google.internal",
        "intranet",
        "db.corp",
    ] {
        check(inside, Some(FieldCode::HostNotAllowed));
    }
    check("::1", Some(FieldCode::Invalid));
    for wildcard in ["*.example.com", "*.api.example.com", "*.EXAMPLE.com."] {
        check(wildcard, None);
    }
    for suffix in [
        "com",
        "co.uk",
        "github.io",
        "*.com",
        "*.co.uk",
        "*.github.io",
        "*",
        "*.",
        "*.*",
    ] {
        check(suffix, Some(FieldCode::HostNotAllowed));
    }
    for bad in [
        "*example.com",
        "a.*.com",
        "*.*.example.com",
        "**.example.com",
        "a*.example.com",
    ] {
        check(bad, Some(FieldCode::Invalid));
    }
}

#[test]
fn private_targets_only_where_the_installation_lets_them() {
    let private = |allowed| CreateTarget {
        scheme: Scheme::Http,
        port: Some(8_080),
        allow_private: true,
        rules: TargetRules {
            allow_private_upstreams: allowed,
            ..TargetRules::default()
        },
        ..create("127.0.0.1")
    };
    assert_eq!(refused(private(true)), []);
    assert_eq!(
        refused(private(false)),
        [("allow_private".to_owned(), FieldCode::Invalid)]
    );
    let plain = CreateTarget {
        scheme: Scheme::Http,
        ..create("api.example.com")
    };
    assert_eq!(refused(plain), [("scheme".to_owned(), FieldCode::Invalid)]);
}

#[test]
fn ports() {
    for (port, is_right) in [
        (443, true),
        (80, true),
        (1_024, true),
        (8_443, true),
        (65_535, true),
        (0, false),
        (22, false),
        (1_023, false),
        (65_536, false),
        (2_375, false),
        (2_376, false),
        (3_306, false),
        (4_222, false),
        (5_432, false),
        (6_379, false),
        (9_092, false),
        (9_200, false),
        (11_211, false),
        (27_017, false),
    ] {
        let by_name = CreateTarget {
            port: Some(port),
            ..create("api.example.com")
        };
        assert_eq!(refused(by_name).is_empty(), is_right, "port {port}");
        let extra = CreateTarget {
            extra_ports: vec![port],
            ..create("api.example.com")
        };
        assert_eq!(refused(extra).is_empty(), is_right, "extra port {port}");
    }
}

#[test]
fn base_paths_have_one_reading() {
    for (path, is_right) in [
        ("", true),
        ("/", true),
        ("/v1", true),
        ("/v1/", true),
        ("/a/b.c/d-e~f", true),
        ("v1", false),
        ("//v1", false),
        ("/a//b", false),
        ("/..", false),
        ("/a/../b", false),
        ("/%2e%2e", false),
        ("/a?b", false),
        ("/a#b", false),
        ("/a\\b", false),
        ("/a;b", false),
        ("/.", false),
        ("/a b", false),
    ] {
        let create = CreateTarget {
            base_path: path.to_owned(),
            ..create("api.example.com")
        };
        assert_eq!(refused(create).is_empty(), is_right, "{path}");
    }
}

#[test]
fn names_fit_into_a_path() {
    for (name, is_right) in [
        ("echo", true),
        ("Open-AI.v2_x", true),
        ("9", true),
        ("", false),
        (".", false),
        ("..", false),
        ("-a", false),
        ("a/b", false),
        ("a b", false),
        ("ä", false),
        ("a".repeat(65).as_str(), false),
    ] {
        let create = CreateTarget {
            name: name.to_owned(),
            ..create("api.example.com")
        };
        assert_eq!(refused(create).is_empty(), is_right, "{name}");
    }
}

#[test]
fn the_port_follows_the_scheme_until_somebody_chose_one() {
    let rules = TargetRules {
        allow_private_upstreams: true,
        ..TargetRules::default()
    };
    let fields = |port| {
        let create = CreateTarget {
            port,
            allow_private: true,
            rules: rules.clone(),
            ..create("api.example.com")
        };
        checked(created(&create), Some(&rules), &SecretLook::default()).unwrap()
    };
    let to_http = PatchTarget {
        scheme: Some(Scheme::Http),
        ..PatchTarget::default()
    };
    assert_eq!(patched(&fields(None), &to_http).0.port, 80);
    assert_eq!(patched(&fields(Some(8_443)), &to_http).0.port, 8_443);
}

#[test]
fn a_target_does_not_lead_back_to_the_installation() {
    let rules = TargetRules {
        allow_private_upstreams: true,
        own: Arc::new(OwnPlaces {
            hosts: vec!["keys.example.com".to_owned()],
            listeners: vec![
                "127.0.0.1:7070".parse().unwrap(),
                "0.0.0.0:7080".parse().unwrap(),
            ],
        }),
        ..TargetRules::default()
    };
    let check = |host: &str, port: u64, extra_ports: &[u64], allowed: bool| {
        let create = CreateTarget {
            port: Some(port),
            extra_ports: extra_ports.to_vec(),
            allow_private: true,
            rules: rules.clone(),
            ..create(host)
        };
        let expected = [("host".to_owned(), FieldCode::HostNotAllowed)];
        let expected = if allowed { &[][..] } else { &expected[..] };
        assert_eq!(refused(create), expected, "{host} at {port}");
    };
    check("keys.example.com", 8_443, &[], false);
    check("Keys.Example.Com.", 443, &[], false);
    check("other.example.com", 443, &[], true);
    check("127.0.0.1", 7_070, &[], false);
    check("127.0.0.1", 9_000, &[7_070], false);
    check("0.0.0.0", 7_070, &[], false);
    check("127.0.0.1", 7_080, &[], false);
    check("127.1.2.3", 7_080, &[], false);
    check("[::1]", 7_080, &[], false);
    check("127.0.0.1", 9_000, &[], true);
    check("10.0.0.1", 7_070, &[], true);
}

#[test]
fn groups_and_credential_come_and_go() {
    let credential = schemas::entry::UpstreamCredential {
        name: "provider".to_owned(),
        header: "authorization".to_owned(),
        format: "Bearer {secret}".to_owned(),
        source: schemas::entry::SecretSource::Env,
        reference: "PROVIDER".to_owned(),
    };
    let mut asked = create("api.example.com");
    asked.groups = vec!["b".into(), "a".into(), "b".into()];
    asked.credential = Some(credential.clone());
    let rules = TargetRules::default();
    let made = checked(created(&asked), Some(&rules), &SecretLook::default()).unwrap();
    assert_eq!(made.groups, ["a", "b"]);
    assert_eq!(made.credential, Some(credential));

    let untouched = patched(&made, &PatchTarget::default()).0;
    assert_eq!(untouched, made);
    let emptied = PatchTarget {
        groups: Some(Vec::new()),
        credential: Some(None),
        ..PatchTarget::default()
    };
    let emptied = patched(&made, &emptied).0;
    assert_eq!((emptied.groups, emptied.credential), (Vec::new(), None));

    asked.groups = (0..33).map(|it| format!("g{it}")).collect();
    assert_eq!(refused(asked), [("groups".to_owned(), FieldCode::Invalid)]);
}
