//! `up` and `up --demo`: the product in one process.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::Ask;
use tests::plane::command;
use tests::process::{Output, Process, Program};
use tests::server::free_port;
use tests::wait::eventually;
use tests::world::shared_servers;

#[tokio::test]
async fn the_demo_works_as_printed_and_again_the_same() {
    let dir = TempDir::new().unwrap();
    let ports = [free_port(), free_port(), free_port()];
    let demo = up(dir.path(), ports).args(["--demo"]);

    let first = start(&demo, dir.path(), "first").await;
    let lines = curl_lines(dir.path(), "first").await;
    for line in &lines {
        run_curl(line).await;
    }
    let file = read_demo(dir.path());
    let mode = std::fs::metadata(dir.path().join("data/demo.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    for (member, port) in [
        ("control_url", ports[0]),
        ("proxy_url", ports[1]),
        ("admin_url", ports[2]),
    ] {
        assert_eq!(file[member], format!("http://127.0.0.1:{port}"), "{file}");
    }
    assert_eq!(file["target"], "echo");
    // The last line switched the key on again, which is answered when it is committed.
    eventually("the key is on again", Duration::from_secs(2), async || {
        check_key(&file).await
    })
    .await;
    check_token(&file).await.unwrap();
    assert!(
        lines
            .iter()
            .any(|line| line.contains(file["key"].as_str().unwrap()))
    );
    assert!(first.stop().await.success());

    let second = start(&demo, dir.path(), "second").await;
    assert_eq!(curl_lines(dir.path(), "second").await, lines);
    assert_eq!(read_demo(dir.path()), file);
    for line in &lines {
        run_curl(line).await;
    }
    assert!(second.stop().await.success());

    // Other ports: the same key, with the addresses of this start.
    let moved_ports = [free_port(), free_port(), free_port()];
    let moved = up(dir.path(), moved_ports).args(["--demo"]);
    let third = start(&moved, dir.path(), "third").await;
    curl_lines(dir.path(), "third").await;
    let rewritten = read_demo(dir.path());
    assert_eq!(
        rewritten["proxy_url"],
        format!("http://127.0.0.1:{}", moved_ports[1])
    );
    for member in ["control_token", "workspace_id", "target", "key_id", "key"] {
        assert_eq!(rewritten[member], file[member], "{member}");
    }
    check_key(&rewritten).await.unwrap();
    assert!(third.stop().await.success());

    // Without the file nobody knows the old key, so there is a new one instead.
    std::fs::remove_file(dir.path().join("data/demo.json")).unwrap();
    let fourth = start(&demo, dir.path(), "fourth").await;
    curl_lines(dir.path(), "fourth").await;
    let renewed = read_demo(dir.path());
    assert_ne!(renewed["key"], file["key"]);
    assert_eq!(renewed["workspace_id"], file["workspace_id"]);
    check_key(&renewed).await.unwrap();
    let old = ask_proxy(&renewed, file["key"].as_str().unwrap())
        .await
        .unwrap();
    assert_eq!(old, 401);
    drop(fourth);
}

#[tokio::test]
async fn a_bare_up_says_how_to_begin() {
    let dir = TempDir::new().unwrap();
    let ports = [free_port(), free_port(), free_port()];
    let _up = start(&up(dir.path(), ports), dir.path(), "up").await;
    let printed = eventually("the line is printed", Duration::from_secs(20), async || {
        let text = std::fs::read_to_string(dir.path().join("up.log.out"))?;
        ensure!(text.contains("bootstrap --email"), "{text:?}");
        Ok(text)
    })
    .await;
    let lines: Vec<_> = printed
        .lines()
        .filter(|line| line.contains("bootstrap"))
        .collect();
    assert_eq!(lines.len(), 1, "{printed}");

    let data = dir.path().join("data").display().to_string();
    let bootstrap = command([
        "bootstrap",
        "--email",
        "owner@example.com",
        "--data-dir",
        &data,
    ]);
    let made: Value = serde_json::from_str(&bootstrap.run().await.unwrap().success()).unwrap();
    let reply = Ask::new("POST", "/v1/api-keys")
        .header(
            "authorization",
            format!("Bearer {}", made["control_token"].as_str().unwrap()),
        )
        .json(&json!({ "name": "first" }))
        .send(([127, 0, 0, 1], ports[0]).into())
        .await
        .unwrap()
        .expect(201);
    assert_eq!(reply.json()["propagation"]["level"], "applied");

    let entry = command(["region", "entry", reply.json()["id"].as_str().unwrap()])
        .args(["--json", "--data-dir", &data])
        .run()
        .await
        .unwrap()
        .success();
    assert!(
        entry.contains(reply.json()["id"].as_str().unwrap()),
        "{entry}"
    );
    let socket = dir.path().join("data/control.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
}

#[tokio::test]
async fn what_is_asked_of_an_up_that_does_not_run_is_refused() {
    let dir = TempDir::new().unwrap();
    let refused = command([
        "region",
        "status",
        "--data-dir",
        &dir.path().display().to_string(),
    ])
    .run()
    .await
    .unwrap();
    assert_eq!(refused.code(), 1, "{refused:?}");
    let said = refused.stdout + &refused.stderr;
    assert!(said.contains("local") && said.contains("up"), "{said}");
}

#[tokio::test]
async fn a_command_that_reads_makes_no_store() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("mistyped");
    for args in [
        vec!["replay"],
        vec!["audit", "verify"],
        vec!["region", "entry", UNKNOWN_KEY],
    ] {
        let refused = run(&data, &args).await;
        assert_eq!(refused.code(), 1, "{refused:?}");
        assert!(
            refused.stderr.contains("there is no event log at")
                && refused.stderr.contains("mistyped"),
            "{refused:?}"
        );
    }
    assert_eq!(run(&data, &["region", "status"]).await.code(), 1);
    assert!(!data.exists());

    // An empty file is no store either, and stays empty.
    std::fs::create_dir(&data).unwrap();
    let database = data.join("throttleproxy.db");
    std::fs::write(&database, "").unwrap();
    let refused = run(&data, &["replay"]).await;
    assert!(refused.stderr.contains("no event log"), "{refused:?}");
    assert_eq!(std::fs::read(&database).unwrap(), b"");
}

#[tokio::test]
async fn a_database_without_a_log_is_named() {
    let (postgres, _, _) = shared_servers().await;
    let database = postgres.create("no_log").await;
    let dir = TempDir::new().unwrap();
    let refused = command(["replay", "--data-dir", &dir.path().display().to_string()])
        .env("THROTTLEPROXY__CONTROL__DATABASE_URL", database.url())
        .run()
        .await
        .unwrap();
    assert_eq!((refused.code(), refused.stdout.as_str()), (1, ""));
    assert!(
        refused
            .stderr
            .contains("no event log in the database of `control.database_url`"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_replay_says_what_it_cannot_show() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let bootstrap = ["bootstrap", "--email", "owner@example.com"];
    run(&data, &bootstrap).await.success();

    let now: Value = serde_json::from_str(&run(&data, &["replay"]).await.success()).unwrap();
    let head = now["position"].as_u64().unwrap();
    let at = async |at: &str| run(&data, &["replay", "--at", at]).await;
    assert_eq!(at(&head.to_string()).await.code(), 0);

    let beyond = at(&(head + 1).to_string()).await;
    let no_zone = at("2026-01-31T09:30:00").await;
    let unknown = run(&data, &["replay", "--key", UNKNOWN_KEY]).await;
    for (refused, reason) in [
        (
            beyond,
            format!("beyond the head of the log, which is {head}"),
        ),
        (no_zone, "has no zone".to_owned()),
        (
            unknown,
            format!("the log does not know the key {UNKNOWN_KEY}"),
        ),
    ] {
        assert_eq!(
            (refused.code(), refused.stdout.as_str()),
            (1, ""),
            "{reason}"
        );
        assert!(refused.stderr.contains(&reason), "{refused:?}");
    }
    assert_eq!(at("yesterday").await.code(), 2);

    let before: Value = serde_json::from_str(&at("2000-01-01T00:00:00Z").await.success()).unwrap();
    assert_eq!(before["position"], 0);
    assert_eq!(before["members"], json!([]));
    let after: Value = serde_json::from_str(&at("2999-01-01T00:00:00Z").await.success()).unwrap();
    assert_eq!(after["position"], head);
    assert!(after["at"].as_str().unwrap() < "2999", "{after}");
}

#[tokio::test]
async fn a_closed_pipe_is_no_error() {
    let dir = TempDir::new().unwrap();
    let binary = tests::plane::binary().display().to_string();
    // The reader closes the pipe before the command begins: it opens the way for it.
    let script = r#"
        mkfifo "$1/closed"
        { cat "$1/closed"; exec "$0" config check --data-dir "$1"; } | { exec <&-; : >"$1/closed"; }
        exit ${PIPESTATUS[0]}
    "#;
    let output = Program::new("/bin/bash")
        .args(["-c", script, &binary, &dir.path().display().to_string()])
        .run()
        .await
        .unwrap();
    assert_eq!((output.code(), output.stderr.as_str()), (0, ""));
}

#[tokio::test]
async fn nobody_else_can_read_what_is_stored() {
    let dir = TempDir::new().unwrap();
    let ports = [free_port(), free_port(), free_port()];
    let demo = up(dir.path(), ports).args(["--demo"]);
    let _demo = start(&demo, dir.path(), "up").await;
    curl_lines(dir.path(), "up").await;

    for (name, expected) in [
        ("", 0o700),
        ("proxy", 0o700),
        ("throttleproxy.db", 0o600),
        ("throttleproxy.db-wal", 0o600),
        ("throttleproxy.db-shm", 0o600),
    ] {
        let path = dir.path().join("data").join(name);
        let mode = std::fs::metadata(path).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, expected, "{name} is {mode:o}");
    }
}

/// No log knows this key.
const UNKNOWN_KEY: &str = "key_01ARZ3NDEKTSV4RRFFQ69G5FAV";

/// Runs a command on a data directory to its end.
async fn run(data: &Path, args: &[&str]) -> Output {
    command(args)
        .args(["--data-dir", &data.display().to_string()])
        .run()
        .await
        .unwrap()
}

fn up(dir: &Path, [control, proxy, admin]: [u16; 3]) -> Program {
    command(["up", "--data-dir", &dir.join("data").display().to_string()])
        .env(
            "THROTTLEPROXY__CONTROL__LISTEN",
            format!("127.0.0.1:{control}"),
        )
        .env("THROTTLEPROXY__DATA__LISTEN", format!("127.0.0.1:{proxy}"))
        .env(
            "THROTTLEPROXY__DATA__ADMIN_LISTEN",
            format!("127.0.0.1:{admin}"),
        )
        .env("THROTTLEPROXY__DATA__DRAIN_DELAY_MS", "0")
}

/// Starts it with `<dir>/<name>.log` for what it logs and `<name>.log.out` for what it
/// prints, and waits until it runs on.
async fn start(program: &Program, dir: &Path, name: &str) -> Process {
    let log = dir.join(format!("{name}.log"));
    let mut process = program.start(&log).unwrap();
    eventually("it listens", Duration::from_secs(30), async || {
        if let Some(status) = process.exited() {
            panic!("it ended with {status}: {}", process.log());
        }
        let lines = process.log().matches("listening").count();
        ensure!(lines >= 3, "{}", process.log());
        Ok(())
    })
    .await;
    process
}

async fn curl_lines(dir: &Path, name: &str) -> Vec<String> {
    let path = dir.join(format!("{name}.log.out"));
    eventually(
        "curl lines are printed",
        Duration::from_secs(30),
        async || {
            let text = std::fs::read_to_string(&path)?;
            let lines: Vec<_> = text
                .lines()
                .map(str::trim)
                .filter(|line| line.starts_with("curl "))
                .map(str::to_owned)
                .collect();
            ensure!(!lines.is_empty() && text.ends_with('\n'), "{text:?}");
            ensure!(dir.join("data/demo.json").exists(), "no demo.json yet");
            Ok(lines)
        },
    )
    .await
}

/// Pastes a line into a shell, as a person would; curl only says whether it worked.
async fn run_curl(line: &str) {
    let checked = line.replacen("curl", "curl --fail-with-body --silent --show-error", 1);
    let output = Program::new("/bin/bash")
        .args(["-c", &checked])
        .run()
        .await
        .unwrap();
    assert_eq!(output.code(), 0, "{line}: {output:?}");
}

fn read_demo(dir: &Path) -> Value {
    let text = std::fs::read_to_string(dir.join("data/demo.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

async fn check_key(file: &Value) -> Result<()> {
    let status = ask_proxy(file, file["key"].as_str().context("no key")?).await?;
    ensure!(status == 200, "the key is answered with {status}");
    Ok(())
}

async fn ask_proxy(file: &Value, key: &str) -> Result<u16> {
    let target = file["target"].as_str().context("no target")?;
    let reply = Ask::get(format!("/t/{target}/hello"))
        .header("x-api-key", key)
        .send(address(&file["proxy_url"])?)
        .await?;
    Ok(reply.status)
}

async fn check_token(file: &Value) -> Result<()> {
    let token = file["control_token"].as_str().context("no token")?;
    let path = format!("/v1/api-keys/{}", file["key_id"].as_str().context("no id")?);
    let reply = Ask::get(path)
        .header("authorization", format!("Bearer {token}"))
        .send(address(&file["control_url"])?)
        .await?
        .check(200)?
        .json();
    ensure!(reply["source"] == "demo", "{reply}");
    Ok(())
}

fn address(url: &Value) -> Result<std::net::SocketAddr> {
    let url = url.as_str().context("not a URL")?;
    Ok(url.trim_start_matches("http://").parse()?)
}
