//! The house, held by tests: which crate may name which, and what each never holds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;
use serde_json::Value;

/// Our crates and whom they may depend on. An arrow that is missing here is forbidden.
const ARROWS: [(&str, &[&str]); 6] = [
    ("schemas", &[]),
    ("events", &["schemas"]),
    ("control-plane", &["events", "schemas"]),
    ("data-plane", &["schemas"]),
    ("ops", &["control-plane", "data-plane", "events", "schemas"]),
    (
        "tests",
        &["control-plane", "data-plane", "events", "ops", "schemas"],
    ),
];

/// Libraries that wait, talk, tell the time or throw dice: never below the planes.
const IMPURE: [&str; 20] = [
    "async-nats",
    "async-trait",
    "axum",
    "chrono",
    "fastrand",
    "futures",
    "futures-util",
    "getrandom",
    "hyper",
    "log",
    "rand",
    "redis",
    "reqwest",
    "rusqlite",
    "sqlx",
    "tokio",
    "tokio-util",
    "tracing",
    "uuid",
    "time",
];

/// Words of the language and its library that do the same without a library.
const IMPURE_WORDS: [&str; 14] = [
    r"\basync\b",
    r"\.await\b",
    r"\bInstant\b",
    r"\bSystemTime\b",
    r"\bnow\s*\(",
    r"\bthread_rng\b",
    r"\brandom\s*\(",
    r"\bstd::fs\b",
    r"\b(TcpStream|TcpListener|UdpSocket|ToSocketAddrs)\b",
    r"\bstd::io\b",
    r"\bstd::thread\b",
    r"\bstd::env\b",
    r"\bstd::process\b",
    r"\btracing::",
];

#[test]
fn every_arrow_between_our_crates_is_drawn() {
    let depends = dependencies();
    let ours: BTreeSet<_> = ARROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        depends.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        ours,
        "the workspace has other crates than these"
    );
    for (name, allowed) in ARROWS {
        let found: BTreeSet<_> = depends[name]
            .iter()
            .map(String::as_str)
            .filter(|it| ours.contains(it))
            .collect();
        let forbidden: Vec<_> = found
            .difference(&allowed.iter().copied().collect())
            .copied()
            .collect();
        assert!(forbidden.is_empty(), "{name} may not name {forbidden:?}");
    }
}

#[test]
fn what_both_planes_stand_on_is_pure() {
    let depends = dependencies();
    for name in ["schemas", "events"] {
        let impure: Vec<_> = depends[name]
            .iter()
            .filter(|it| IMPURE.contains(&it.as_str()))
            .collect();
        assert!(impure.is_empty(), "{name} depends on {impure:?}");
        check_words(name, &IMPURE_WORDS);
    }
}

#[test]
fn the_data_plane_opens_no_database_and_sees_no_event() {
    let depends = dependencies();
    for never in ["sqlx", "rusqlite", "events", "control-plane", "ops"] {
        assert!(!depends["data-plane"].contains(never), "{never}");
    }
    check_words(
        "data-plane",
        &[r"\bsqlx\b", r"\bcontrol_plane\b", r"\bevents::"],
    );
}

#[test]
fn the_control_plane_does_not_know_the_data_plane() {
    assert!(!dependencies()["control-plane"].contains("data-plane"));
    check_words("control-plane", &[r"\bdata_plane\b"]);
}

/// Adapters are chosen in one place, so that nothing else of `ops` talks to a server.
#[test]
fn ops_names_adapters_in_one_place() {
    let adapters = Regex::new(r"\b(async_nats|redis|sqlx)::").unwrap();
    for (path, text) in sources("ops") {
        let named = path.ends_with("src/wire.rs") || path.starts_with(root().join("ops/bench"));
        if !named {
            check_absent(&path, &text, &adapters);
        }
    }
}

/// Tests may sleep nowhere and statics may hold state only in the harness, which has no
/// other way to share servers between tests.
#[test]
fn the_product_keeps_no_state_in_statics() {
    let state = Regex::new(
        r"\bstatic\s+(mut\s+)?[A-Z_]+\s*:\s*[^=]*(Mutex|RwLock|Atomic|OnceLock|OnceCell|LazyLock|Cell)",
    )
    .unwrap();
    for name in ["schemas", "events", "control-plane", "data-plane", "ops"] {
        for (path, text) in sources(name) {
            check_absent(&path, &text, &state);
        }
    }
}

#[test]
fn modules_are_files_with_their_own_name() {
    for (name, _) in ARROWS {
        for (path, _) in sources(name) {
            assert!(!path.ends_with("mod.rs"), "{}", path.display());
        }
    }
}

#[test]
fn every_crate_has_a_readme_that_is_its_documentation() {
    for (name, _) in ARROWS {
        let dir = root().join(name);
        let readme = std::fs::read_to_string(dir.join("README.md"))
            .unwrap_or_else(|err| panic!("{name}/README.md: {err}"));
        assert!(
            readme.starts_with("# ") && readme.lines().count() >= 10,
            "{name}/README.md says too little"
        );
        let front = ["src/lib.rs", "src/main.rs"]
            .map(|it| std::fs::read_to_string(dir.join(it)).unwrap_or_default())
            .concat();
        assert!(
            front.contains(r#"#![doc = include_str!("../README.md")]"#),
            "{name}: the README is not the crate's documentation"
        );
    }
    assert!(root().join("README.md").is_file());
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        assert!(root().join(licence).is_file(), "{licence}");
    }
}

/// Links of our documents lead somewhere inside the repository, and nowhere outside it:
/// a clone is all a reader has.
#[test]
fn documents_stand_on_their_own() {
    let link = Regex::new(r"\]\(([^)#\s]+)[^)]*\)").unwrap();
    let here = root().canonicalize().unwrap();
    let outside = Regex::new(&regex::escape(&here.display().to_string())).unwrap();
    for path in files(&root()) {
        let extension = path.extension().and_then(|it| it.to_str()).unwrap_or("");
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        if path.file_name().is_some_and(|it| it != "Cargo.lock") {
            check_absent(&path, &text, &outside);
        }
        if extension == "md" {
            for target in link.captures_iter(&text).map(|found| found[1].to_owned()) {
                let inside = !target.contains("://") && !target.starts_with("mailto:");
                let leads_to = path.with_file_name("").join(&target).canonicalize();
                assert!(
                    !inside || leads_to.is_ok_and(|it| it.starts_with(&here)),
                    "{} links to {target}, which is not in the repository",
                    path.display()
                );
            }
        }
    }
}

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// What each of our crates depends on, build dependencies included and development
/// dependencies not: a test may lean on anything.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let depends = package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|it| it["kind"] != "dev")
                .map(|it| it["name"].as_str().unwrap().to_owned())
                .collect();
            (package["name"].as_str().unwrap().to_owned(), depends)
        })
        .collect()
}

fn check_words(name: &str, words: &[&str]) {
    for word in words {
        let word = Regex::new(word).unwrap();
        for (path, text) in sources(name) {
            let is_test =
                path.ends_with("tests.rs") || path.components().any(|it| it.as_os_str() == "tests");
            if !is_test {
                check_absent(&path, without_tests(&text), &word);
            }
        }
    }
}

/// Fails when a line outside of comments matches.
fn check_absent(path: &Path, text: &str, pattern: &Regex) {
    for (index, line) in text.lines().enumerate() {
        let code = match path.extension().is_some_and(|it| it == "rs") {
            true => line.split("//").next().unwrap_or_default(),
            false => line,
        };
        assert!(
            !pattern.is_match(code),
            "{}:{}: {pattern} may not stand here: {line}",
            path.display(),
            index + 1
        );
    }
}

/// The part of a file before its `mod tests`, which by our style is the last thing.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(text)
}

/// The Rust files of a crate.
fn sources(name: &str) -> Vec<(PathBuf, String)> {
    let found: Vec<_> = files(&root().join(name))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|it| it == "rs"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect();
    assert!(!found.is_empty(), "{name} has no sources");
    found
}

/// All files below a directory, without what is built, stored or hidden there.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let skipped = name == "target" || name == "data" || name == ".git";
        if skipped {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
