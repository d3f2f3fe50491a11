//! What a workspace keeps for its targets: access groups and upstream credentials.
//!
//! Both are made and deleted, never changed. A group is a name that targets carry and that
//! access lists name; a credential is a reference that a target names and that is copied
//! into the target's events, so that one event of one stream tells a proxy all. Neither is
//! deleted while something names it, so a name never comes to mean something else.

use std::collections::BTreeMap;

use schemas::Timestamp;
use schemas::entry::{PLACEHOLDER, SecretSource, UpstreamCredential};
use serde::{Deserialize, Serialize};

use crate::event::{Event, Recorded};
use crate::refusal::{self, FieldRefusal, Refusal};
use crate::text::{SecretLook, name_key};

/// The most groups, and the most credentials, of a workspace.
pub const ENTRIES_MAX: usize = 1_000;

const NAME_CHARS_MAX: usize = 64;
const REFERENCE_CHARS_MAX: usize = 64;
const HEADER_CHARS_MAX: usize = 64;
const FORMAT_CHARS_MAX: usize = 256;

/// Headers that no credential may be: they say where a message ends, for whom it is, how
/// it is read or which way it came.
const RESERVED_HEADERS: [&str; 19] = [
    "accept-encoding",
    "connection",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-real-ip",
    "alt-svc",
];

/// Beginnings of such headers.
const RESERVED_BEGINNINGS: [&str; 6] = [
    "content-",
    "if-",
    "proxy-",
    "x-forwarded-",
    "x-throttleproxy-",
    "sec-",
];

/// The groups and credentials of a workspace, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Catalog {
    /// Access groups.
    #[serde(default)]
    pub groups: BTreeMap<String, Group>,
    /// Upstream credentials.
    #[serde(default)]
    pub credentials: BTreeMap<String, Credential>,
}

/// A label for targets, which access lists name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// When it was made.
    pub created_at: Timestamp,
    /// Number of the workspace's event that made it.
    pub version: u64,
}

/// A reference to a secret that upstreams are given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// What proxies are told.
    pub credential: UpstreamCredential,
    /// When it was made.
    pub created_at: Timestamp,
    /// Number of the workspace's event that made it.
    pub version: u64,
}

/// An order to the catalog of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogCommand {
    /// Make an access group.
    CreateGroup {
        /// Its name.
        name: String,
    },
    /// Delete one that nothing names.
    DeleteGroup(Removal),
    /// Make a credential.
    CreateCredential(UpstreamCredential),
    /// Delete one that no target names.
    DeleteCredential(Removal),
}

/// What is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Its name.
    pub name: String,
    /// Its version must be one of these; `None` where any will do.
    pub versions: Option<Vec<u64>>,
}

/// What follows from a command, or why nothing does.
///
/// # Errors
/// [`Refusal`]; whether something still names what is deleted is not decided here.
pub fn decide(
    catalog: &Catalog,
    command: &CatalogCommand,
    look: &SecretLook,
) -> Result<Vec<Event>, Refusal> {
    match command {
        CatalogCommand::CreateGroup { name } => {
            let mut refusals = Vec::new();
            check_name("name", name, look, &mut refusals);
            check_room(catalog.groups.len(), "access groups", &mut refusals);
            refusal::none(refusals)?;
            check_free(catalog.groups.keys(), name)?;
            Ok(vec![Event::AccessGroupCreated { name: name.clone() }])
        }
        CatalogCommand::DeleteGroup(removal) => {
            let group = catalog.groups.get(&removal.name);
            check_version(group.map(|it| it.version), removal, "access group")?;
            Ok(vec![Event::AccessGroupDeleted {
                name: removal.name.clone(),
            }])
        }
        CatalogCommand::CreateCredential(asked) => {
            let mut refusals = Vec::new();
            let credential = checked(asked, look, &mut refusals);
            check_room(catalog.credentials.len(), "credentials", &mut refusals);
            refusal::none(refusals)?;
            check_free(catalog.credentials.keys(), &credential.name)?;
            Ok(vec![Event::CredentialCreated(Box::new(credential))])
        }
        CatalogCommand::DeleteCredential(removal) => {
            let credential = catalog.credentials.get(&removal.name);
            check_version(credential.map(|it| it.version), removal, "credential")?;
            Ok(vec![Event::CredentialDeleted {
                name: removal.name.clone(),
            }])
        }
    }
}

// === impl Catalog ===

impl Catalog {
    /// Notes an event of the workspace, where it is about the catalog.
    pub fn evolve(&mut self, recorded: &Recorded) {
        let (created_at, version) = (recorded.at, recorded.stream_version);
        match &recorded.event {
            Event::AccessGroupCreated { name } => {
                let group = Group {
                    created_at,
                    version,
                };
                self.groups.insert(name.clone(), group);
            }
            Event::AccessGroupDeleted { name } => {
                self.groups.remove(name);
            }
            Event::CredentialCreated(made) => {
                let credential = Credential {
                    credential: (**made).clone(),
                    created_at,
                    version,
                };
                self.credentials.insert(made.name.clone(), credential);
            }
            Event::CredentialDeleted { name } => {
                self.credentials.remove(name);
            }
            _ => {}
        }
    }
}

/// Whether `text` may name a group, a credential or a target: it stands in paths.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=NAME_CHARS_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

fn check_name(field: &str, name: &str, look: &SecretLook, refusals: &mut Vec<FieldRefusal>) {
    if is_name(name) {
        look.check(field, name, NAME_CHARS_MAX, refusals);
    } else {
        refusals.push(FieldRefusal::invalid(
            field,
            format!(
                "1 to {NAME_CHARS_MAX} of letters, digits, '.', '_' and '-', beginning with a \
                 letter or digit"
            ),
        ));
    }
}

fn check_room(count: usize, what: &str, refusals: &mut Vec<FieldRefusal>) {
    if count >= ENTRIES_MAX {
        refusals.push(FieldRefusal::invalid(
            "name",
            format!("a workspace has at most {ENTRIES_MAX} {what}"),
        ));
    }
}

/// Names are compared without regard to case, like all others.
fn check_free<'a>(mut taken: impl Iterator<Item = &'a String>, name: &str) -> Result<(), Refusal> {
    let wanted = name_key(name);
    match taken.any(|it| name_key(it) == wanted) {
        true => Err(Refusal::NameTaken("name")),
        false => Ok(()),
    }
}

fn check_version(
    actual: Option<u64>,
    removal: &Removal,
    what: &'static str,
) -> Result<(), Refusal> {
    let actual = actual.ok_or(Refusal::NotFound(what))?;
    match &removal.versions {
        Some(versions) if !versions.contains(&actual) => Err(Refusal::VersionMismatch { actual }),
        _ => Ok(()),
    }
}

fn checked(
    asked: &UpstreamCredential,
    look: &SecretLook,
    refusals: &mut Vec<FieldRefusal>,
) -> UpstreamCredential {
    let header = asked.header.to_ascii_lowercase();
    check_name("name", &asked.name, look, refusals);
    check_header(&header, look, refusals);
    check_format(&asked.format, look, refusals);
    check_reference(asked, look, refusals);
    UpstreamCredential {
        header,
        ..asked.clone()
    }
}

fn check_header(header: &str, look: &SecretLook, refusals: &mut Vec<FieldRefusal>) {
    // Beyond what a token may be (RFC 9110, 5.6.2) nothing is needed, and less is safer.
    let is_plain = (1..=HEADER_CHARS_MAX).contains(&header.len())
        && header
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
        && header.as_bytes()[0].is_ascii_alphanumeric();
    if !is_plain {
        refusals.push(FieldRefusal::invalid(
            "header",
            format!("a header name of 1 to {HEADER_CHARS_MAX} letters, digits, '-' and '_'"),
        ));
    } else if is_reserved(header) {
        refusals.push(FieldRefusal::invalid(
            "header",
            "a header for credentials, such as authorization or x-api-key; this one says \
             something about the message or its way",
        ));
    } else {
        look.check("header", header, HEADER_CHARS_MAX, refusals);
    }
}

/// Some servers read `_` in a name as `-`.
fn is_reserved(header: &str) -> bool {
    let read = header.replace('_', "-");
    RESERVED_HEADERS.contains(&read.as_str())
        || RESERVED_BEGINNINGS
            .iter()
            .any(|beginning| read.starts_with(beginning))
}

fn check_format(format: &str, look: &SecretLook, refusals: &mut Vec<FieldRefusal>) {
    let is_visible = format.bytes().all(|b| (b' '..=b'~').contains(&b));
    let is_trimmed = format.trim_matches(' ').len() == format.len();
    if format.matches(PLACEHOLDER).count() != 1
        || !is_visible
        || !is_trimmed
        || format.len() > FORMAT_CHARS_MAX
    {
        refusals.push(FieldRefusal::invalid(
            "format",
            format!(
                "at most {FORMAT_CHARS_MAX} visible ASCII characters with {PLACEHOLDER} exactly \
                 once, such as \"Bearer {PLACEHOLDER}\", without spaces around"
            ),
        ));
    } else {
        look.check("format", format, FORMAT_CHARS_MAX, refusals);
    }
}

fn check_reference(
    asked: &UpstreamCredential,
    look: &SecretLook,
    refusals: &mut Vec<FieldRefusal>,
) {
    let reference = asked.reference.as_str();
    let is_plain = (1..=REFERENCE_CHARS_MAX).contains(&reference.len())
        && reference
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if is_plain {
        look.check("ref", reference, REFERENCE_CHARS_MAX, refusals);
        return;
    }
    let place = match asked.source {
        SecretSource::Env => "the variable THROTTLEPROXY_CREDENTIAL_<workspace_id>_<ref>",
        SecretSource::File => "the file <credentials_dir>/<workspace_id>/<ref>",
    };
    refusals.push(FieldRefusal::invalid(
        "ref",
        format!(
            "1 to {REFERENCE_CHARS_MAX} letters, digits and '_'; the secret itself is kept on \
             the proxy's host, in {place}"
        ),
    ));
}

#[cfg(test)]
mod tests;
