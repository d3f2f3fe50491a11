//! Whose key is this? One SHA-256 and one look-up; only a miss while the table is not
//! current waits for anything.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use percent_encoding::percent_decode;
use schemas::credential::{PREFIX_LEN, Shape, shape};
use schemas::entry::{ErrorProfile, SecretStatus};
use schemas::{CredentialHash, Environment};

use super::headers::{QUERY_KEY, X_API_KEY};
use super::identify::Arrival;
use crate::follow::lookup::{Answer, Exact};
use crate::follow::status::Miss;
use crate::rejection::{Code, Rejection};
use crate::server::Shared;
use crate::table::access::Restriction;
use crate::table::policy::Global;
use crate::table::{Found, Workspace};

/// A key that is known.
#[derive(Debug)]
pub struct Known {
    /// What the look-up went by.
    pub hash: CredentialHash,
    /// What is known of its secret.
    pub found: Found,
    /// Its workspace.
    pub workspace: Arc<Workspace>,
    /// What holds for everybody.
    pub global: Arc<Global>,
    /// The table's version before the look-up: while it stands, so does this.
    pub version: u64,
    /// The region was asked for this one request; the table does not hold the secret.
    pub is_exact: bool,
    /// The public first characters of the key.
    pub prefix: [u8; PREFIX_LEN],
    /// What the key is for.
    pub environment: Environment,
}

/// What a request presents.
#[derive(Debug, PartialEq, Eq)]
enum Presented<'r> {
    Nothing,
    /// Something that cannot be one of our keys.
    Foreign,
    /// Our shape and a checksum that fits.
    Ours {
        key: Cow<'r, [u8]>,
        in_query: bool,
    },
}

/// Finds the key of a request.
///
/// # Errors
/// `ambiguous_credentials`, `missing_key`, `invalid_key`, `ip_blocked`, or `stale` where a
/// look-up is needed and not possible.
pub async fn authenticate(
    shared: &Shared,
    arrival: &Arrival,
    head: &Parts,
) -> Result<Known, Rejection> {
    let (key, in_query) = match presented(&head.headers, head.uri.query())? {
        Presented::Nothing => return Err(missing(shared, arrival)),
        Presented::Foreign => return Err(failed(shared, arrival)),
        Presented::Ours { key, in_query } => (key, in_query),
    };
    if !shared.status.is_ready() {
        return Err(Rejection::stale("The proxy has no current table yet."));
    }
    let hash = CredentialHash::of(&key);
    let known = match look_up(shared, &key, hash) {
        Some(known) => known?,
        // Asked before the table's answer is final: the state may have changed between.
        None => match shared.status.miss() {
            Miss::IsFinal => return Err(failed(shared, arrival)),
            Miss::CannotTell => {
                return Err(Rejection::stale(
                    "The region is not available for a look-up.",
                ));
            }
            Miss::AskRegion => match Box::pin(shared.lookups.ask(hash)).await {
                Answer::Found(exact) => exactly(shared, &key, hash, &exact)?,
                Answer::Unknown => return Err(failed(shared, arrival)),
                Answer::Unavailable => {
                    return Err(Rejection::stale("The key could not be looked up."));
                }
            },
        },
    };
    if known.found.status == Some(SecretStatus::Purged) {
        // Removed before it was ever used: as if it had never been.
        return Err(failed(shared, arrival));
    }
    let allows_query = known
        .workspace
        .policy
        .as_ref()
        .is_some_and(|policy| policy.allow_query_key);
    if in_query && !allows_query {
        return Err(missing(shared, arrival));
    }
    Ok(known)
}

// === impl Known ===

impl Known {
    /// The shape of error bodies for this key.
    pub fn profile(&self) -> ErrorProfile {
        self.workspace
            .policy
            .as_ref()
            .and_then(|policy| policy.error_profile)
            .unwrap_or(self.global.error_profile)
    }

    fn new(
        shared: &Shared,
        key: &[u8],
        hash: CredentialHash,
        version: u64,
        found: Found,
        workspace: Arc<Workspace>,
    ) -> Self {
        let mut prefix = [0; PREFIX_LEN];
        prefix.copy_from_slice(&key[..PREFIX_LEN]);
        Self {
            hash,
            found,
            workspace,
            global: Arc::clone(&shared.table.policies().global),
            version,
            is_exact: false,
            prefix,
            environment: if key.starts_with(b"tp_test_") {
                Environment::Test
            } else {
                Environment::Live
            },
        }
    }
}

/// What the table says; `None` when it does not hold the secret.
fn look_up(shared: &Shared, key: &[u8], hash: CredentialHash) -> Option<Result<Known, Rejection>> {
    // The version first: a change after this is noticed by the last look.
    let version = shared.table.version();
    let found = shared.table.get(&hash)?;
    let Some(workspace) = shared
        .table
        .policies()
        .workspace(found.workspace)
        .map(Arc::clone)
    else {
        return Some(Err(Rejection::stale("The key's entry cannot be read.")));
    };
    Some(Ok(Known::new(shared, key, hash, version, found, workspace)))
}

/// A key as the region itself knows it, for this request only. Targets are the table's.
fn exactly(
    shared: &Shared,
    key: &[u8],
    hash: CredentialHash,
    exact: &Exact,
) -> Result<Known, Rejection> {
    let version = shared.table.version();
    let secret = &exact.secret;
    let (place, workspace) = shared
        .table
        .workspace_with(secret, &exact.policies)
        .ok_or_else(|| Rejection::stale("The key's workspace is not known here yet."))?;
    let found = Found {
        key_id: secret.key_id,
        secret_id: secret.secret_id,
        status: Some(secret.status),
        revision: secret.revision,
        expires_at_ms: secret.expires_at_ms,
        ends_at_ms: secret.ends_at_ms,
        workspace: place,
        team: secret.team_id,
        owner: secret.owner,
        rates: secret.limits.into(),
        access: Restriction::compile(&secret.access),
    };
    Ok(Known {
        is_exact: true,
        ..Known::new(shared, key, hash, version, found, workspace)
    })
}

/// No key: it does not count against the address, but a blocked one is told so.
fn missing(shared: &Shared, arrival: &Arrival) -> Rejection {
    blocked(shared, arrival).unwrap_or_else(|| {
        Rejection::new(
            Code::MissingKey,
            "Send the key as `x-api-key` or as `Authorization: Bearer`.",
        )
    })
}

/// A key that is none: it counts against the address.
fn failed(shared: &Shared, arrival: &Arrival) -> Rejection {
    blocked(shared, arrival).unwrap_or_else(|| {
        shared.failures.count(arrival.client, arrival.now.steady_ms);
        Rejection::new(Code::InvalidKey, "The key is not known.")
    })
}

fn blocked(shared: &Shared, arrival: &Arrival) -> Option<Rejection> {
    let left_ms = shared
        .failures
        .blocked_ms(arrival.client, arrival.now.steady_ms)?;
    Some(
        Rejection::new(
            Code::IpBlocked,
            "Too many failed keys came from this address.",
        )
        .retry_after(left_ms.div_ceil(1_000)),
    )
}

/// Takes the key out of headers and query.
fn presented<'r>(
    headers: &'r HeaderMap,
    query: Option<&'r str>,
) -> Result<Presented<'r>, Rejection> {
    let mut ours = OneKey::default();
    let mut saw_foreign = false;

    let mut same = None;
    for value in headers.get_all(X_API_KEY) {
        let value = value.as_bytes().trim_ascii();
        same_as_before(&mut same, value)?;
        saw_foreign |= ours.take(Cow::Borrowed(value), false)?;
    }
    let mut same = None;
    for value in headers.get_all(AUTHORIZATION) {
        let value = value.as_bytes();
        same_as_before(&mut same, value)?;
        if let Some(token) = bearer(value) {
            saw_foreign |= ours.take(Cow::Borrowed(token), false)?;
        }
    }
    if let Some(query) = query.filter(|it| !it.is_empty()) {
        for value in query_keys(query) {
            // A foreign one is nobody's key: it is stripped like one of ours.
            ours.take(percent_decode(value.as_bytes()).into(), true)?;
        }
    }
    Ok(match ours.key {
        Some((key, in_query)) => match shape(&key) {
            Shape::Ours => Presented::Ours { key, in_query },
            _ => Presented::Foreign,
        },
        None if saw_foreign => Presented::Foreign,
        None => Presented::Nothing,
    })
}

/// The one string of our shape that a request may hold.
#[derive(Default)]
struct OneKey<'r> {
    key: Option<(Cow<'r, [u8]>, bool)>,
}

impl<'r> OneKey<'r> {
    /// Takes a string; true when it is somebody else's.
    fn take(&mut self, text: Cow<'r, [u8]>, in_query: bool) -> Result<bool, Rejection> {
        if text.is_empty() {
            return Ok(false);
        }
        if shape(&text) == Shape::Foreign {
            return Ok(true);
        }
        match &self.key {
            None => self.key = Some((text, in_query)),
            Some((held, _)) if *held == text => {}
            Some(_) => {
                return Err(Rejection::new(
                    Code::AmbiguousCredentials,
                    "Two different keys were presented.",
                ));
            }
        }
        Ok(false)
    }
}

fn same_as_before<'r>(before: &mut Option<&'r [u8]>, value: &'r [u8]) -> Result<(), Rejection> {
    match before.replace(value) {
        Some(other) if other != value => Err(Rejection::new(
            Code::AmbiguousCredentials,
            "A header that carries a key was sent twice with different values.",
        )),
        _ => Ok(()),
    }
}

/// The token of `Bearer <token>`; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

/// The values, still encoded, of every parameter that is `x_api_key` once decoded.
fn query_keys(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        is_query_key(name).then_some(value)
    })
}

/// Whether a query parameter's encoded name is the key's.
pub(crate) fn is_query_key(name: &str) -> bool {
    name == QUERY_KEY || name.contains('%') && percent_decode(name.as_bytes()).eq(QUERY_KEY.bytes())
}

#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(test)]
mod tests {
    use schemas::Credential;

    use super::*;

    fn key(seed: u8) -> String {
        let mut next = seed;
        let key = Credential::generate(Environment::Live, move || {
            next = next.wrapping_mul(7).wrapping_add(seed | 1);
            next
        });
        key.reveal().to_owned()
    }

    #[test]
    fn where_keys_are_found() {
        let (a, b) = (key(1), key(2));
        let mut wrong = a.clone();
        wrong.replace_range(20..21, if &a[20..21] == "x" { "y" } else { "x" });
        let check = |lines: &[(&str, &str)], query: &str, expected: &str| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                let value = value
                    .replace("$A", &a)
                    .replace("$B", &b)
                    .replace("$W", &wrong);
                headers.append(
                    http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    value.parse().unwrap(),
                );
            }
            let query = query.replace("$A", &a).replace("$B", &b);
            let outcome = match presented(&headers, Some(&query)) {
                Ok(Presented::Nothing) => "nothing".to_owned(),
                Ok(Presented::Foreign) => "foreign".to_owned(),
                Ok(Presented::Ours { key, in_query }) => {
                    let name = if *key == *a.as_bytes() { "A" } else { "B" };
                    format!("{name}{}", if in_query { " in query" } else { "" })
                }
                Err(rejection) => rejection.code.as_str().to_owned(),
            };
            assert_eq!(outcome, expected, "{lines:?} {query}");
        };
        check(&[], "", "nothing");
        check(&[("x-api-key", "")], "", "nothing");
        check(&[("x-api-key", "$A")], "", "A");
        check(&[("authorization", "Bearer $A")], "", "A");
        check(&[("authorization", "bEaReR  $A ")], "", "A");
        check(&[("authorization", "Basic $A")], "", "nothing");
        check(&[("x-api-key", "sk-123")], "", "foreign");
        check(&[("authorization", "Bearer sk-123")], "", "foreign");
        check(&[("x-api-key", "$W")], "", "foreign");
        // A foreign credential beside one of ours is ignored.
        check(
            &[("x-api-key", "sk-123"), ("authorization", "Bearer $A")],
            "",
            "A",
        );
        check(
            &[("x-api-key", "$A"), ("authorization", "Basic dTpw")],
            "",
            "A",
        );
        // The same key twice is one key; two are none.
        check(
            &[("x-api-key", "$A"), ("authorization", "Bearer $A")],
            "",
            "A",
        );
        check(&[("x-api-key", "$A"), ("x-api-key", "$A")], "", "A");
        check(
            &[("x-api-key", "$A"), ("authorization", "Bearer $B")],
            "",
            "ambiguous_credentials",
        );
        check(
            &[("x-api-key", "$A"), ("authorization", "Bearer $W")],
            "",
            "ambiguous_credentials",
        );
        check(
            &[("x-api-key", "one"), ("x-api-key", "two")],
            "",
            "ambiguous_credentials",
        );
        check(
            &[("authorization", "Bearer $A"), ("authorization", "Basic x")],
            "",
            "ambiguous_credentials",
        );
        check(&[], "x_api_key=$A", "A in query");
        check(&[], "a=b&x%5Fapi%5fkey=$A", "A in query");
        check(&[("x-api-key", "$A")], "x_api_key=$A", "A");
        check(
            &[("x-api-key", "$A")],
            "x_api_key=$B",
            "ambiguous_credentials",
        );
        check(&[("x-api-key", "$A")], "x_api_key=sk-1", "A");
        check(&[], "x_api_key=sk-1&X_API_KEY=$A", "nothing");
    }
}
