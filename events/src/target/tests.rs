//! What may be a target.

use schemas::entry::{Bodies, Timeouts};

use super::*;
use crate::command::TargetRules;

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
    check("*.example.com", Some(FieldCode::NotAvailable));
}

#[test]
fn private_targets_only_where_the_installation_lets_them() {
    let private = |allowed| CreateTarget {
        scheme: Scheme::Http,
        port: Some(8_080),
        allow_private: true,
        rules: TargetRules {
            allow_private_upstreams: allowed,
            is_demo: false,
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
        is_demo: false,
    };
    let fields = |port| {
        let create = CreateTarget {
            port,
            allow_private: true,
            rules,
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
