use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;

use serde_json::Value;
use tempfile::NamedTempFile;

use super::{Config, Error, key};

const DEFAULT_FILE: &str = include_str!("../../config/default.toml");

fn written(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, Error> {
    let file = written(text);
    let variables = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::load(Some(file.path()), Path::new("data"), variables)
}

/// The message for a file, `FILE` in place of its path.
fn message(text: &str) -> String {
    let file = written(text);
    let error = Config::load(Some(file.path()), Path::new("data"), []).unwrap_err();
    error
        .to_string()
        .replace(file.path().to_str().unwrap(), "FILE")
}

fn message_of_variable(name: &str, value: &str) -> String {
    load("", &[(name, value)]).unwrap_err().to_string()
}

#[test]
fn the_default_file_says_what_the_defaults_are() {
    assert_eq!(
        load(DEFAULT_FILE, &[]).unwrap(),
        Config::default_in(Path::new("data"))
    );
    assert_eq!(
        load("", &[]).unwrap(),
        Config::default_in(Path::new("data"))
    );
}

#[test]
fn the_default_file_names_every_key() {
    for key in key::ALL {
        let (section, name) = key.path.split_once('.').unwrap();
        let mut in_section = false;
        let line = |line: &str| {
            let line = line.strip_prefix("# ").unwrap_or(line);
            if line.starts_with('[') {
                in_section = line.trim_matches(['[', ']']) == section;
            }
            in_section && line.split_once(" = ").is_some_and(|(word, _)| word == name)
        };
        let found = if key.available {
            DEFAULT_FILE.lines().any(line)
        } else {
            !DEFAULT_FILE.lines().any(line) && DEFAULT_FILE.contains(name)
        };
        assert!(found, "{}", key.path);
    }
}

#[test]
fn every_available_key_has_a_place_in_the_configuration() {
    let mut places = BTreeSet::new();
    let provider = "[[oidc]]\nname = \"id\"\nissuer = \"https://id.example.com\"\n\
                    client_id = \"c\"\nclient_secret = \"s\"";
    let config = serde_json::to_value(load(provider, &[]).unwrap()).unwrap();
    for (section, value) in config.as_object().unwrap() {
        let keys = match value {
            Value::Array(entries) => &entries[0],
            table => table,
        };
        for name in keys.as_object().unwrap().keys() {
            places.insert(format!("{section}.{name}"));
        }
    }
    // A value may be given as the file that holds it; some are a file themselves.
    let is_twin = |path: &str| {
        path.strip_suffix("_file")
            .is_some_and(|it| key::find(it).is_some())
    };
    let available: BTreeSet<String> = key::ALL
        .iter()
        .filter(|key| key.available && !is_twin(key.path))
        .map(|key| key.path.to_owned())
        .collect();
    assert_eq!(places, available);
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let config = load(
        "[data]\nregion = \"eu\"\nworkers = 3\n[log]\nlevel = \"warn\"\n[[regions]]\nname = \"eu\"",
        &[
            ("THROTTLEPROXY__DATA__WORKERS", "2"),
            ("THROTTLEPROXY__DATA__PROXY_ID", "1"),
            ("THROTTLEPROXY__DATA__TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
            ("THROTTLEPROXY__SECURITY__ALLOW_PRIVATE_UPSTREAMS", "true"),
            ("THROTTLEPROXY_CONFIG", "not a key"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(config.data.region, "eu");
    assert_eq!(config.data.workers, 2);
    assert_eq!(config.data.proxy_id.as_deref(), Some("1"));
    assert_eq!(config.data.trusted_proxies.len(), 2);
    assert!(config.security.allow_private_upstreams);
    assert_eq!(config.log.level, super::log::Level::Warn);
    assert_eq!(config.control.listen.port(), 7070);
}

#[test]
fn the_data_directory_moves_the_default_files() {
    let config = Config::load(None, Path::new("/srv/x"), []).unwrap();
    assert_eq!(
        config.control.database_url,
        "sqlite:///srv/x/throttleproxy.db"
    );
    let odd = Config::load(None, Path::new("/srv/50% ?"), []).unwrap();
    assert_eq!(
        odd.control.database_url,
        "sqlite:///srv/50%25%20%3F/throttleproxy.db"
    );
    assert_eq!(config.data.snapshot_dir, Path::new("/srv/x/proxy"));
}

#[test]
fn a_mistake_names_the_place_the_key_and_what_was_expected() {
    for (text, expected) in [
        (
            "[data]\nlissen = \"127.0.0.1:1\"",
            "FILE: unknown key `data.lissen`; the nearest known one is `data.listen`",
        ),
        (
            "[contorl]\nlisten = \"127.0.0.1:1\"",
            "FILE: unknown key `contorl.listen`; the nearest known one is `control.listen`",
        ),
        (
            "[control]\nadmin_listen = \"127.0.0.1:1\"",
            "FILE: unknown key `control.admin_listen`; the nearest known one is `data.admin_listen`",
        ),
        (
            "listen = \"127.0.0.1:1\"",
            "FILE: unknown key `listen`; the nearest known one is `control.listen`",
        ),
        (
            "[[regions]]\nname = \"eu\"\nredis = \"redis://h\"",
            "FILE: unknown key `regions.redis`; the nearest known one is `regions.redis_url`",
        ),
        (
            "[data]\nworkers = \"2\"",
            "FILE: `data.workers` must be a whole number from 0 (one per core) to 1024, not \"2\"",
        ),
        (
            "[data]\nworkers = -1",
            "FILE: `data.workers` must be a whole number from 0 (one per core) to 1024, not -1",
        ),
        (
            "[data]\nlisten = 7080",
            "FILE: `data.listen` must be an IP address and a port such as 127.0.0.1:7070, not 7080",
        ),
        (
            "[security]\nallow_private_upstreams = \"true\"",
            "FILE: `security.allow_private_upstreams` must be true or false, not \"true\"",
        ),
        (
            "[log]\nformat = \"xml\"",
            "FILE: `log.format` must be `text` or `json`, not \"xml\"",
        ),
        (
            "[data]\ntrusted_proxies = [\"10.0.0.0/99\"]",
            "FILE: `data.trusted_proxies` must be a list of addresses or networks such as \
             [\"10.0.0.0/8\"], not a list",
        ),
        (
            "[[regions]]\nname = \"EU\"",
            "FILE: `regions.name` must be a region's name: 1 to 32 of a-z, 0-9 and `-`, not \"EU\"",
        ),
        (
            "[[regions]]\nredis_url = \"redis://h\"",
            "FILE: `regions.name` must be a region's name: 1 to 32 of a-z, 0-9 and `-`, not left out",
        ),
        (
            "[[regions]]\nname = \"eu\"\n[[regions]]\nname = \"eu\"",
            "FILE: two `[[regions]]` are named `eu`",
        ),
        (
            "[regions]\nname = \"eu\"",
            "FILE: `regions` must be a list of tables, each under its own `[[regions]]`, not a table",
        ),
        (
            "[accounts]\nsign_up = \"closed\"",
            "FILE: `accounts.sign_up` must be open or invite, not \"closed\"",
        ),
        (
            "[mail]\nfrom = \"nobody\"",
            "FILE: `mail.from` must be an address such as `ThrottleProxy <keys@example.com>`, \
             not \"nobody\"",
        ),
        (
            "[mail]\nsmtp_url = \"http://u:secret@h\"",
            "FILE: `mail.smtp_url` must be an smtp:// or smtps:// address, not what is written \
             there",
        ),
        (
            "[[oidc]]\nname = \"id\"\nissuer = \"http://id.example.com\"",
            "FILE: `oidc.issuer` must be an https:// address, or an http:// one on this machine, \
             not \"http://id.example.com\"",
        ),
        (
            "[[oidc]]\nname = \"id\"\nissuer = \"https://i\"\nclient_id = \"c\"",
            "FILE: `oidc.client_secret` must be the client secret that the provider gave, not \
             left out",
        ),
        (
            "[[oidc]]\nname = \"id\"\nissuer = \"https://i\"\nclient_id = \"c\"\n\
             client_secret = \"s\"\n[[oidc]]\nname = \"id\"\nissuer = \"https://j\"\n\
             client_id = \"c\"\nclient_secret = \"s\"",
            "FILE: two `[[oidc]]` are named `id`",
        ),
        (
            "[oidc]\nname = \"id\"",
            "FILE: `oidc` must be a list of tables, each under its own `[[oidc]]`, not a table",
        ),
        (
            "[data]\ncold_boot = true",
            "FILE: `data.cold_boot` is not available yet; leave it out",
        ),
        (
            "[data]\ntls_cert_file = \"a.pem\"",
            "FILE: `data.tls_key_file` must be the file of the key of `data.tls_cert_file`, \
             not left out",
        ),
        (
            "[data]\ntls_key_file = \"a.pem\"",
            "FILE: `data.tls_cert_file` must be the file of the certificate whose key \
             `data.tls_key_file` is, not left out",
        ),
        (
            "[control]\ndatabase_url = \"mysql://u:secret@h/db\"",
            "FILE: `control.database_url` must be a sqlite:// or postgres:// address, \
             not what is written there",
        ),
        (
            "[control]\ndatabase_url = \"sqlite://a\"\ndatabase_url_file = \"b\"",
            "FILE: give either `control.database_url` or `control.database_url_file`, not both",
        ),
        (
            "[control]\ndatabase_url_file = \"/nowhere/url\"",
            "FILE: `control.database_url_file`: cannot read /nowhere/url",
        ),
        (
            "[control]\ndatabase_url_file = \"/dev/null\"",
            "FILE: `control.database_url_file` must be a sqlite:// or postgres:// address, \
             not what is written in that file",
        ),
        (
            "[[regions]]\nname = \"eu\"\nredis_url_file = \"/nowhere/url\"",
            "FILE: `regions.redis_url_file`: cannot read /nowhere/url",
        ),
        (
            "[data]\nregion = \"eu\"",
            "FILE: `data.region` is `eu`, but there is no `[[regions]]` entry of that name",
        ),
        (
            "[data]\nregion = \"local\"\n[[regions]]\nname = \"eu\"",
            "FILE: `data.region` is `local`, but there is no `[[regions]]` entry of that name",
        ),
    ] {
        assert_eq!(message(text), expected, "{text}");
    }
}

#[test]
fn a_file_that_is_not_toml_is_told_by_its_line_and_not_quoted() {
    let message = message("[control]\ndatabase_url = \"postgres://u:secret@h/db\n");
    assert!(
        message.starts_with("FILE is not TOML: line 2: "),
        "{message}"
    );
    assert!(!message.contains("secret"), "{message}");
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    for (name, value, expected) in [
        (
            "THROTTLEPROXY__DATA__WORKERS",
            "many",
            "environment variable THROTTLEPROXY__DATA__WORKERS: `data.workers` must be \
             a whole number from 0 (one per core) to 1024, not \"many\"",
        ),
        (
            "THROTTLEPROXY__DATA__WORKER",
            "1",
            "environment variable THROTTLEPROXY__DATA__WORKER: unknown key `data.worker`; \
             the nearest known one is `data.workers`",
        ),
        (
            "THROTTLEPROXY__REGIONS__NAME",
            "eu",
            "environment variable THROTTLEPROXY__REGIONS__NAME: `[[regions]]` can stand in \
             the configuration file only",
        ),
        (
            "THROTTLEPROXY__DATA__REGION",
            "eu",
            "environment variable THROTTLEPROXY__DATA__REGION: `data.region` is `eu`, but \
             there is no `[[regions]]` entry of that name",
        ),
        (
            "THROTTLEPROXY__CONTROL__DATABASE_URL_FILE",
            "/nowhere/url",
            "environment variable THROTTLEPROXY__CONTROL__DATABASE_URL_FILE: \
             `control.database_url_file`: cannot read /nowhere/url",
        ),
    ] {
        assert_eq!(message_of_variable(name, value), expected);
    }
}

#[test]
fn a_secret_may_stand_in_a_file_of_its_own() {
    let secret = written("postgres://u:p@h/db\n");
    let path = secret.path().to_str().unwrap();
    let config = load(
        "[control]\ndatabase_url = \"sqlite://of-the-file\"",
        &[("THROTTLEPROXY__CONTROL__DATABASE_URL_FILE", path)],
    )
    .unwrap();
    assert_eq!(config.control.database_url, "postgres://u:p@h/db");
    assert_eq!(
        config.redacted().control.database_url,
        "postgres://redacted@h/db"
    );
}

#[test]
fn secrets_of_people_are_not_shown() {
    let config = load(
        "[mail]\nsmtp_url = \"smtps://u:p@mail.example.com\"\n[[oidc]]\nname = \"id\"\n\
         issuer = \"https://id.example.com\"\nclient_id = \"c\"\nclient_secret = \"s3cret\"",
        &[],
    )
    .unwrap();
    assert_eq!(config.oidc[0].client_secret, "s3cret");
    let shown = toml::to_string(&config.redacted()).unwrap();
    assert!(
        shown.contains("smtps://redacted@mail.example.com"),
        "{shown}"
    );
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn a_proxy_needs_only_its_own_region() {
    let config = load("[[regions]]\nname = \"eu\"\n[data]\nregion = \"eu\"", &[]).unwrap();
    assert_eq!(config.own_region().unwrap().name, "eu");

    // Without a proxy it needs none: a control plane names no region of its own.
    let config = load("[[regions]]\nname = \"eu\"", &[]).unwrap();
    assert_eq!(
        config.own_region().unwrap_err().to_string(),
        "configuration: `data.region` is `local`, but there is no `[[regions]]` entry of that name"
    );
}
