//! A target: where the keys of a workspace may go.
//!
//! Rules here are about the *name* of a host. Whether an address may be connected to is
//! judged by the proxy at request time, since a name can point anywhere tomorrow.

mod host;

use std::collections::BTreeMap;

use schemas::entry::{Bodies, GROUPS_MAX, Scheme, Timeouts};
use schemas::{Position, TargetId, Timestamp, WorkspaceId};
use serde::{Deserialize, Serialize};

use crate::catalog;
use crate::command::{CreateTarget, PatchTarget, TargetCommand, TargetRules};
use crate::event::{Event, Recorded, Stream, TargetChanges, TargetFields};
use crate::refusal::{self, FieldRefusal, Refusal};
use crate::text::SecretLook;

const NAME_CHARS_MAX: usize = 64;
const EXTRA_PORTS_MAX: usize = 16;
const BASE_PATH_BYTES_MAX: usize = 512;
const TIMEOUT_MS_MAX: u64 = 3_600_000;
const BODY_BYTES_MAX: u64 = 1 << 40;

/// Ports of databases, caches, brokers and container engines: no API listens there, and
/// a proxy that reaches them is a way into the operator's network.
const FORBIDDEN_PORTS: [u16; 24] = [
    1433, 1521, 2049, 2375, 2376, 2379, 2380, 3306, 4222, 5432, 5672, 5984, 6379, 6380, 7000, 7001,
    8086, 9042, 9092, 9200, 9300, 10250, 11211, 27017,
];

/// A target, folded from its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The target's id.
    pub id: TargetId,
    /// The workspace that approved it.
    pub workspace_id: WorkspaceId,
    /// What can be changed.
    pub fields: TargetFields,
    /// Approved no longer; kept so that proxies learn it.
    pub deleted: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Number of its last event.
    pub version: u64,
    /// Place of its last event in the log.
    pub position: Position,
}

/// What follows from a command, or why nothing does.
///
/// # Errors
/// [`Refusal`]; uniqueness of names and addresses is not decided here, since one target
/// does not know the others.
pub fn decide(
    target: Option<&Target>,
    command: &TargetCommand,
    look: &SecretLook,
) -> Result<Vec<Event>, Refusal> {
    let target = target.filter(|target| !target.deleted);
    if let TargetCommand::Create(create) = command {
        return match target {
            Some(_) => Err(Refusal::Exists("target")),
            None => {
                let rules = (!create.rules.is_demo).then_some(&create.rules);
                let fields = checked(created(create), rules, look)?;
                Ok(vec![Event::TargetCreated(Box::new(fields))])
            }
        };
    }
    let target = target.ok_or(Refusal::NotFound("target"))?;
    let after = match command {
        TargetCommand::Create(_) => unreachable!("handled above"),
        TargetCommand::Delete => return Ok(vec![Event::TargetDeleted {}]),
        TargetCommand::Patch(patch) => {
            let draft = patched(&target.fields, patch);
            // Where it leads was judged when it was approved, perhaps by other rules.
            let moves = !leads_alike(&draft.0, &target.fields);
            checked(draft, moves.then_some(&patch.rules), look)?
        }
        TargetCommand::MoveDemo { port } => TargetFields {
            port: *port,
            ..target.fields.clone()
        },
    };
    let changes = TargetChanges::between(&target.fields, &after);
    Ok(if changes.is_empty() {
        vec![]
    } else {
        vec![Event::TargetUpdated {
            changes: Box::new(changes),
        }]
    })
}

/// The target after an event.
pub fn evolve(target: Option<Target>, recorded: &Recorded) -> Option<Target> {
    let mut target = match (&recorded.event, recorded.stream) {
        (Event::TargetCreated(fields), Stream::Target(id)) => Target {
            id,
            workspace_id: recorded.workspace_id?,
            fields: (**fields).clone(),
            deleted: false,
            created_at: recorded.at,
            version: recorded.stream_version,
            position: recorded.position,
        },
        _ => target?,
    };
    match &recorded.event {
        Event::TargetUpdated { changes } => changes.apply(&mut target.fields),
        Event::TargetDeleted {} => target.deleted = true,
        _ => {}
    }
    target.version = recorded.stream_version;
    target.position = recorded.position;
    Some(target)
}

// === fields ===

/// Ports as they came in, which may not be ports at all.
type Draft = (TargetFields, Vec<FieldRefusal>);

fn created(create: &CreateTarget) -> Draft {
    let mut refusals = Vec::new();
    let port = create.port.map_or(create.scheme.default_port(), |port| {
        to_port("port", port, &mut refusals)
    });
    let extra_ports = to_ports(&create.extra_ports, &mut refusals);
    let fields = TargetFields {
        name: create.name.trim().to_owned(),
        host: host::normal(&create.host),
        scheme: create.scheme,
        port,
        extra_ports,
        base_path: normal_base_path(&create.base_path),
        timeouts: create.timeouts,
        bodies: create.bodies,
        allow_set_cookie: create.allow_set_cookie,
        allow_private: create.allow_private,
        groups: in_order(&create.groups),
        credential: create.credential.clone(),
    };
    (fields, refusals)
}

fn patched(before: &TargetFields, patch: &PatchTarget) -> Draft {
    let mut refusals = Vec::new();
    let mut after = before.clone();
    if let Some(name) = &patch.name {
        after.name = name.trim().to_owned();
    }
    if let Some(host) = &patch.host {
        after.host = host::normal(host);
    }
    if let Some(scheme) = patch.scheme {
        // A port that nobody chose follows the scheme.
        if before.port == before.scheme.default_port() {
            after.port = scheme.default_port();
        }
        after.scheme = scheme;
    }
    if let Some(port) = patch.port {
        after.port = port.map_or(after.scheme.default_port(), |port| {
            to_port("port", port, &mut refusals)
        });
    }
    if let Some(ports) = &patch.extra_ports {
        after.extra_ports = to_ports(ports, &mut refusals);
    }
    if let Some(base_path) = &patch.base_path {
        after.base_path = normal_base_path(base_path);
    }
    if let Some(members) = &patch.timeouts {
        merge_timeouts(&mut after.timeouts, members, &mut refusals);
    }
    if let Some(members) = &patch.bodies {
        merge_bodies(&mut after.bodies, members, &mut refusals);
    }
    if let Some(allow) = patch.allow_set_cookie {
        after.allow_set_cookie = allow;
    }
    if let Some(allow) = patch.allow_private {
        after.allow_private = allow;
    }
    if let Some(groups) = &patch.groups {
        after.groups = in_order(groups);
    }
    if let Some(credential) = &patch.credential {
        after.credential.clone_from(credential);
    }
    (after, refusals)
}

/// Sets the named deadlines, or clears them by `None`.
pub fn merge_timeouts(
    timeouts: &mut Timeouts,
    members: &BTreeMap<String, Option<u64>>,
    refusals: &mut Vec<FieldRefusal>,
) {
    for (name, value) in members {
        match name.as_str() {
            "connect_ms" => timeouts.connect_ms = *value,
            "first_byte_ms" => timeouts.first_byte_ms = *value,
            "idle_ms" => timeouts.idle_ms = *value,
            "total_ms" => timeouts.total_ms = *value,
            _ => refusals.push(FieldRefusal::invalid(
                format!("timeouts.{name}"),
                "not a deadline; connect_ms, first_byte_ms, idle_ms and total_ms are",
            )),
        }
    }
}

/// Sets the named caps, or clears them by `None`.
pub fn merge_bodies(
    bodies: &mut Bodies,
    members: &BTreeMap<String, Option<u64>>,
    refusals: &mut Vec<FieldRefusal>,
) {
    for (name, value) in members {
        match name.as_str() {
            "request_bytes_max" => bodies.request_bytes_max = *value,
            "response_bytes_max" => bodies.response_bytes_max = *value,
            _ => refusals.push(FieldRefusal::invalid(
                format!("bodies.{name}"),
                "not a cap; request_bytes_max and response_bytes_max are",
            )),
        }
    }
}

fn to_port(field: &str, port: u64, refusals: &mut Vec<FieldRefusal>) -> u16 {
    u16::try_from(port)
        .ok()
        .filter(|port| *port > 0)
        .unwrap_or_else(|| {
            refusals.push(FieldRefusal::invalid(field, "a port, 1 to 65535"));
            1
        })
}

fn to_ports(ports: &[u64], refusals: &mut Vec<FieldRefusal>) -> Vec<u16> {
    if ports.len() > EXTRA_PORTS_MAX {
        refusals.push(FieldRefusal::invalid(
            "extra_ports",
            format!("at most {EXTRA_PORTS_MAX} ports"),
        ));
        return Vec::new();
    }
    let mut ports: Vec<u16> = ports
        .iter()
        .map(|port| to_port("extra_ports", *port, refusals))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn in_order(groups: &[String]) -> Vec<String> {
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn normal_base_path(path: &str) -> String {
    path.trim_end_matches('/').to_owned()
}

// === rules ===

/// The fields, if they are right. `place` has the rules for where the target may lead;
/// `None` where that needs no judging.
fn checked(
    (fields, mut refusals): Draft,
    place: Option<&TargetRules>,
    look: &SecretLook,
) -> Result<TargetFields, Refusal> {
    if !catalog::is_name(&fields.name) {
        refusals.push(FieldRefusal::invalid(
            "name",
            format!(
                "1 to {NAME_CHARS_MAX} of letters, digits, '.', '_' and '-', beginning with a \
                 letter or digit: it stands in the path /t/<name>/"
            ),
        ));
    } else {
        look.check("name", &fields.name, NAME_CHARS_MAX, &mut refusals);
    }
    if !is_base_path(&fields.base_path) {
        refusals.push(FieldRefusal::invalid(
            "base_path",
            "empty, or '/' and path segments without '.', '..', '//', '%', '?', '#' and '\\'",
        ));
    }
    if fields.groups.len() > GROUPS_MAX {
        refusals.push(FieldRefusal::invalid(
            "groups",
            format!("at most {GROUPS_MAX} groups"),
        ));
    }
    if let Some(rules) = place {
        check_private(&fields, rules, &mut refusals);
        host::check(&fields, &rules.own, &mut refusals);
        check_ports(&fields, &mut refusals);
    }
    check_range(
        "timeouts",
        &timeout_members(&fields.timeouts),
        TIMEOUT_MS_MAX,
        &mut refusals,
    );
    check_range(
        "bodies",
        &body_members(&fields.bodies),
        BODY_BYTES_MAX,
        &mut refusals,
    );
    refusal::none(refusals).map(|()| fields)
}

fn leads_alike(one: &TargetFields, other: &TargetFields) -> bool {
    let place = |it: &TargetFields| {
        (
            it.scheme,
            it.host.clone(),
            it.port,
            it.extra_ports.clone(),
            it.allow_private,
        )
    };
    place(one) == place(other)
}

fn check_ports(fields: &TargetFields, refusals: &mut Vec<FieldRefusal>) {
    let extra_ports = fields.extra_ports.iter().map(|port| ("extra_ports", *port));
    for (field, port) in std::iter::once(("port", fields.port)).chain(extra_ports) {
        if !is_allowed_port(port) {
            refusals.push(FieldRefusal::invalid(
                field,
                "80, 443, or 1024 to 65535 without those of databases, caches, brokers and \
                 container engines",
            ));
        }
    }
}

fn check_private(fields: &TargetFields, rules: &TargetRules, refusals: &mut Vec<FieldRefusal>) {
    if fields.allow_private && !rules.allow_private_upstreams {
        refusals.push(FieldRefusal::invalid(
            "allow_private",
            "false: this installation does not let targets be private; its operator can, with \
             [security] allow_private_upstreams = true",
        ));
    }
    if fields.scheme == Scheme::Http && !fields.allow_private {
        refusals.push(FieldRefusal::invalid(
            "scheme",
            "https; plain http needs allow_private, which needs [security] \
             allow_private_upstreams = true",
        ));
    }
}

fn is_allowed_port(port: u16) -> bool {
    matches!(port, 80 | 443 | 1024..) && !FORBIDDEN_PORTS.contains(&port)
}

/// Only what no decoder can read in two ways: no escapes, no dot segments, no doubled or
/// backward slashes.
fn is_base_path(path: &str) -> bool {
    let is_segment = |segment: &str| {
        !segment.is_empty()
            && !segment.starts_with("..")
            && segment != "."
            && segment.bytes().all(|b| {
                b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'@' | b':')
            })
    };
    path.is_empty()
        || (path.len() <= BASE_PATH_BYTES_MAX
            && path
                .strip_prefix('/')
                .is_some_and(|rest| rest.split('/').all(is_segment)))
}

fn timeout_members(timeouts: &Timeouts) -> [(&'static str, Option<u64>); 4] {
    [
        ("connect_ms", timeouts.connect_ms),
        ("first_byte_ms", timeouts.first_byte_ms),
        ("idle_ms", timeouts.idle_ms),
        ("total_ms", timeouts.total_ms),
    ]
}

fn body_members(bodies: &Bodies) -> [(&'static str, Option<u64>); 2] {
    [
        ("request_bytes_max", bodies.request_bytes_max),
        ("response_bytes_max", bodies.response_bytes_max),
    ]
}

fn check_range(
    field: &str,
    members: &[(&str, Option<u64>)],
    max: u64,
    refusals: &mut Vec<FieldRefusal>,
) {
    for (name, value) in members {
        if value.is_some_and(|value| value == 0 || value > max) {
            refusals.push(FieldRefusal::invalid(
                format!("{field}.{name}"),
                format!("null or 1 to {max}"),
            ));
        }
    }
}

#[cfg(test)]
mod tests;
