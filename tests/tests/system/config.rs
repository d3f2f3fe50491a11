//! A wrong configuration names the file, the key and what was expected.

use tempfile::TempDir;
use tests::plane::command;
use tests::process::Output;

#[tokio::test]
async fn a_wrong_key_is_named_with_what_was_expected() {
    for (text, named) in [
        ("[control]\nlisten = 7070\n", vec!["control.listen"]),
        ("[control]\nlisten = \"nowhere\"\n", vec!["control.listen"]),
        ("[data]\nworkers = \"many\"\n", vec!["data.workers"]),
        ("[data]\ndrain_delay_ms = -1\n", vec!["data.drain_delay_ms"]),
        ("[log]\nformat = \"xml\"\n", vec!["log.format", "json"]),
        (
            "[[regions]]\nname = \"Not A Region\"\n",
            vec!["regions", "name"],
        ),
        (
            "[security]\nallow_private_upstreams = \"yes\"\n",
            vec!["security.allow_private_upstreams"],
        ),
        ("[data]\nregion = \"eu\"\n", vec!["data.region", "eu"]),
        (
            "[control]\ndatabase_url_file = \"/nowhere/url\"\n",
            vec!["control.database_url_file", "/nowhere/url"],
        ),
    ] {
        let refused = check(text).await;
        assert_ne!(refused.code(), 0, "{text} is accepted");
        for word in named {
            assert!(
                said(&refused, word),
                "{text} is refused without {word}: {refused:?}"
            );
        }
        assert!(
            said(&refused, "wrong.toml"),
            "the file is not named: {refused:?}"
        );
    }
}

#[tokio::test]
async fn an_unknown_key_names_the_nearest() {
    for (text, unknown, nearest) in [
        (
            "[control]\nlissten = \"127.0.0.1:0\"\n",
            "lissten",
            "listen",
        ),
        (
            "[data]\nadmin_lisen = \"127.0.0.1:0\"\n",
            "admin_lisen",
            "admin_listen",
        ),
        (
            "[securty]\nallow_private_upstreams = true\n",
            "securty",
            "security",
        ),
        (
            "[[regions]]\nname = \"eu\"\nredis_uri = \"redis://x\"\n",
            "redis_uri",
            "redis_url",
        ),
    ] {
        let refused = check(text).await;
        assert_ne!(refused.code(), 0, "{text} is accepted");
        assert!(
            said(&refused, unknown) && said(&refused, nearest),
            "{refused:?}"
        );
    }
    let variable = check_with("", "THROTTLEPROXY__CONTROL__LISSTEN", "x").await;
    assert_ne!(variable.code(), 0);
    assert!(said(&variable, "listen"), "{variable:?}");
}

#[tokio::test]
async fn broken_toml_names_the_file_and_the_line() {
    let refused = check("[control\nlisten = ").await;
    assert_ne!(refused.code(), 0);
    assert!(
        said(&refused, "wrong.toml") && said(&refused, "1"),
        "{refused:?}"
    );
    let missing = command(["config", "check", "--config", "/nowhere/at-all.toml"])
        .run()
        .await
        .unwrap();
    assert_ne!(missing.code(), 0);
    assert!(said(&missing, "/nowhere/at-all.toml"), "{missing:?}");
}

#[tokio::test]
async fn the_environment_wins_over_the_file_and_secrets_stay_hidden() {
    let text = "[control]\nlisten = \"127.0.0.1:1111\"\n\
                database_url = \"postgres://me:hunter2hunter2@127.0.0.1/x\"\n";
    let shown = check_with(text, "THROTTLEPROXY__CONTROL__LISTEN", "127.0.0.1:2222").await;
    assert_eq!(shown.code(), 0, "{shown:?}");
    assert!(shown.stdout.contains("127.0.0.1:2222"), "{shown:?}");
    assert!(!said(&shown, "127.0.0.1:1111"), "{shown:?}");
    assert!(!said(&shown, "hunter2"), "{shown:?}");
}

#[tokio::test]
async fn a_proxy_without_its_region_makes_nothing() {
    for subcommand in ["up", "data-plane"] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("wrong.toml");
        std::fs::write(&path, "[[regions]]\nname = \"eu\"\n").unwrap();
        let data = dir.path().join("data");
        let refused = command([subcommand, "--config", &path.display().to_string()])
            .args(["--data-dir", &data.display().to_string()])
            .run()
            .await
            .unwrap();
        assert_eq!(refused.code(), 1, "{refused:?}");
        assert!(said(&refused, "data.region"), "{refused:?}");
        assert!(!data.exists(), "{subcommand} made {}", data.display());
    }
}

#[tokio::test]
async fn a_taken_port_names_its_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for (section, key, variable) in [
        ("control", "listen", "THROTTLEPROXY__CONTROL__LISTEN"),
        ("data", "listen", "THROTTLEPROXY__DATA__LISTEN"),
        ("data", "admin_listen", "THROTTLEPROXY__DATA__ADMIN_LISTEN"),
        ("data", "authz_listen", "THROTTLEPROXY__DATA__AUTHZ_LISTEN"),
    ] {
        let dir = TempDir::new().unwrap();
        let mut up = command(["up", "--data-dir", &dir.path().display().to_string()]);
        for free in [
            "CONTROL__LISTEN",
            "DATA__LISTEN",
            "DATA__ADMIN_LISTEN",
            "DATA__AUTHZ_LISTEN",
        ] {
            let variable_of = format!("THROTTLEPROXY__{free}");
            let value = match variable_of == variable {
                true => address.to_string(),
                false => "127.0.0.1:0".to_owned(),
            };
            up = up.env(&variable_of, value);
        }
        let refused = tokio::time::timeout(std::time::Duration::from_secs(20), up.run())
            .await
            .expect("it gives up")
            .unwrap();
        assert_eq!(refused.code(), 1, "{refused:?}");
        for word in [section, key, variable, &address.to_string()] {
            assert!(said(&refused, word), "{word} is not named: {refused:?}");
        }
    }
}

#[tokio::test]
async fn usage_and_version_are_told() {
    let version = command(["--version"]).run().await.unwrap().success();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let usage = command(["make-coffee"]).run().await.unwrap();
    assert_eq!(usage.code(), 2, "{usage:?}");
    let usage = command(["bootstrap"]).run().await.unwrap();
    assert_eq!(usage.code(), 2, "{usage:?}");
}

/// `config check` of a file `wrong.toml` with this text.
async fn check(text: &str) -> Output {
    check_with(text, "UNRELATED", "").await
}

/// The same, with a variable of the environment.
async fn check_with(text: &str, variable: &str, value: &str) -> Output {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("wrong.toml");
    std::fs::write(&path, text).unwrap();
    command(["config", "check", "--config", &path.display().to_string()])
        .args(["--data-dir", &dir.path().display().to_string()])
        .env(variable, value)
        .run()
        .await
        .expect("the binary runs")
}

fn said(output: &Output, word: &str) -> bool {
    output.stderr.contains(word) || output.stdout.contains(word)
}
