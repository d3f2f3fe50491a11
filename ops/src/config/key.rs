//! Every key of the configuration, and which of them this version enforces.

/// A key, and whether what it promises is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    /// The key with its section, dotted. All entries of a list share `regions.…`.
    pub path: &'static str,
    /// A key that is known but would promise what is not enforced is refused.
    pub available: bool,
}

/// A section that may stand several times, as `[[name]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct List {
    /// Its name.
    pub name: &'static str,
    /// What it must look like.
    pub expected: &'static str,
}

const LISTS: [List; 2] = [
    List {
        name: "regions",
        expected: "a list of tables, each under its own `[[regions]]`",
    },
    List {
        name: "oidc",
        expected: "a list of tables, each under its own `[[oidc]]`",
    },
];

/// The list with this name.
pub(super) fn list(name: &str) -> Option<List> {
    LISTS.into_iter().find(|it| it.name == name)
}

const fn has(path: &'static str) -> Key {
    Key {
        path,
        available: true,
    }
}

const fn later(path: &'static str) -> Key {
    Key {
        path,
        available: false,
    }
}

/// Every key, in the order of `ops/config/default.toml`.
pub(super) const ALL: &[Key] = &[
    has("control.listen"),
    has("control.public_url"),
    has("control.database_url"),
    has("control.database_url_file"),
    later("control.tls_cert_file"),
    later("control.tls_key_file"),
    has("data.listen"),
    has("data.admin_listen"),
    has("data.authz_listen"),
    has("data.region"),
    has("data.proxy_id"),
    has("data.snapshot_dir"),
    has("data.credentials_dir"),
    has("data.dns_server"),
    later("data.cold_boot"),
    later("data.control_url"),
    has("data.trusted_proxies"),
    has("data.workers"),
    has("data.tls_cert_file"),
    has("data.tls_key_file"),
    has("data.verify_keys"),
    has("data.drain_delay_ms"),
    has("regions.name"),
    has("regions.redis_url"),
    has("regions.redis_url_file"),
    has("regions.nats_url"),
    has("regions.nats_url_file"),
    has("regions.signing_key_file"),
    has("regions.fleet_secret_file"),
    has("accounts.sign_up"),
    has("mail.smtp_url"),
    has("mail.smtp_url_file"),
    has("mail.from"),
    has("oidc.name"),
    has("oidc.issuer"),
    has("oidc.client_id"),
    has("oidc.client_secret"),
    has("oidc.client_secret_file"),
    later("audit.signing_key_file"),
    later("audit.origin"),
    has("security.allow_private_upstreams"),
    has("log.format"),
    has("log.level"),
];

/// The key with this path.
pub(super) fn find(path: &str) -> Option<Key> {
    ALL.iter().copied().find(|key| key.path == path)
}

/// Whether any key stands in this section.
pub(super) fn is_section(name: &str) -> bool {
    ALL.iter()
        .filter_map(|key| key.path.split_once('.'))
        .any(|(section, _)| section == name)
}

/// The known key that is written most like `path`, which is not one.
pub(super) fn nearest(path: &str) -> &'static str {
    let likeness = |known: &str| {
        let whole = strsim::jaro_winkler(known, path);
        let name = strsim::jaro_winkler(name_of(known), name_of(path));
        // The right name in the wrong section is nearer than a look-alike.
        whole.max(name - 0.02)
    };
    // Of two that are as near, `max_by` takes the last: reversed, that is the first.
    ALL.iter()
        .rev()
        .map(|key| key.path)
        .max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
        .expect("the list is not empty")
}

fn name_of(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
