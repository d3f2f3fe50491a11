//! Policies, compiled when they arrive: at request time there are only look-ups and
//! comparisons.

use std::collections::HashMap;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use schemas::entry::{
    BadEntry, ErrorProfile, GlobalPolicy, Owner, Policy, PolicyEntry, PolicyId, Revision, Scheme,
    SecretEntry, TargetPolicy, WorkspacePolicy,
};
use schemas::{TargetId, TeamId, WorkspaceId};

use super::access::Restriction;
use crate::credentials::Injection;
use crate::limit::Rates;
use crate::limit::cell::Pool;

/// Everything that is not about one secret.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    /// What holds for everybody.
    pub global: Arc<Global>,
    workspaces: Vec<Arc<Workspace>>,
}

/// What holds for everybody.
#[derive(Debug, Default)]
pub struct Global {
    /// Caps over all requests.
    pub rates: Rates,
    /// Where they are counted.
    pub pool: Arc<Pool>,
    /// The shape of error bodies for callers without a workspace.
    pub error_profile: ErrorProfile,
}

/// A workspace with everything that its keys need.
#[derive(Debug)]
pub struct Workspace {
    /// The workspace.
    pub id: WorkspaceId,
    /// Its own policy; `None` when it is not known or cannot be read, and then every key
    /// of it is refused until it is.
    pub policy: Option<WorkspacePolicy>,
    /// Where the plan's limits are counted.
    pub pool: Arc<Pool>,
    teams: HashMap<TeamId, Group>,
    owners: HashMap<Owner, Group>,
    targets_by_name: HashMap<Box<str>, Arc<Target>>,
    targets_by_host: HashMap<Box<str>, Vec<Arc<Target>>>,
    /// By what stands after `*.`
    targets_by_parent: HashMap<Box<str>, Vec<Arc<Target>>>,
}

/// A team or an owner, as its keys need it.
#[derive(Debug, Clone)]
pub enum Group {
    /// It is known.
    Known {
        /// Every key of it is refused.
        blocked: bool,
        /// Caps shared by its keys.
        rates: Rates,
        /// Where they are counted.
        pool: Arc<Pool>,
        /// Where its keys may go; `None` is wherever the workspace's may.
        access: Option<Arc<Restriction>>,
    },
    /// Its policy cannot be read by this build, so its keys are refused.
    Unreadable,
}

/// A target, ready to be matched and connected to.
#[derive(Debug)]
pub struct Target {
    /// What the workspace approved.
    pub policy: TargetPolicy,
    /// The host, shared by every connection to it.
    pub host: Arc<str>,
    /// The address, when the host is one.
    pub address: Option<IpAddr>,
    /// What requests are given for the upstream.
    pub credential: Given,
    host_header: HeaderValue,
}

/// What requests are given for an upstream.
#[derive(Debug)]
pub enum Given {
    /// Nothing.
    Nothing,
    /// A header with a secret.
    Header(Injection),
    /// Something that this build does not understand, so no request may go.
    Unreadable,
}

/// The writer's side: every policy as it came, to merge against, and the pools, which
/// outlive every compilation.
#[derive(Debug, Default)]
pub(super) struct PolicyBook {
    held: HashMap<PolicyId, Held>,
    places: HashMap<WorkspaceId, u32>,
    workspaces: Vec<Arc<Workspace>>,
    members: Vec<HashSet<PolicyId>>,
    dirty: HashSet<u32>,
    pools: HashMap<PolicyId, Arc<Pool>>,
    global: Arc<Global>,
}

#[derive(Debug)]
struct Held {
    revision: Revision,
    /// `None`: it came and could not be read.
    policy: Option<Policy>,
}

// === impl Policies ===

impl Policies {
    /// The workspace at a place that the table gave.
    pub fn workspace(&self, place: u32) -> Option<&Arc<Workspace>> {
        self.workspaces.get(place as usize)
    }
}

// === impl Workspace ===

impl Workspace {
    /// A team of the workspace.
    pub fn team(&self, id: TeamId) -> Option<&Group> {
        self.teams.get(&id)
    }

    /// An owner of keys in the workspace. Owners that nothing was ever said about have
    /// no policy.
    pub fn owner(&self, owner: Owner) -> Option<&Group> {
        self.owners.get(&owner)
    }

    /// The target with this name.
    pub fn target_by_name(&self, name: &str) -> Option<&Arc<Target>> {
        self.targets_by_name.get(name)
    }

    /// The targets with this host, lower case.
    pub fn targets_by_host(&self, host: &str) -> &[Arc<Target>] {
        self.targets_by_host.get(host).map_or(&[], Vec::as_slice)
    }

    /// The targets whose wildcard covers this host, lower case: `*.example.com` is every
    /// host that is one label longer than `example.com`, and nothing else. A host that has
    /// a target of its own is covered by no wildcard.
    pub fn targets_by_wildcard(&self, host: &str) -> &[Arc<Target>] {
        let covering = match host.split_once('.') {
            Some((label, parent))
                if !label.is_empty() && !self.targets_by_host.contains_key(host) =>
            {
                self.targets_by_parent.get(parent)
            }
            _ => None,
        };
        covering.map_or(&[], Vec::as_slice)
    }

    fn empty(id: WorkspaceId) -> Self {
        Self {
            id,
            policy: None,
            pool: Arc::default(),
            teams: HashMap::new(),
            owners: HashMap::new(),
            targets_by_name: HashMap::new(),
            targets_by_host: HashMap::new(),
            targets_by_parent: HashMap::new(),
        }
    }
}

// === impl Target ===

impl Target {
    fn compile(policy: &TargetPolicy) -> Self {
        let host = policy.host.to_ascii_lowercase();
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        Self {
            address: literal.parse().ok(),
            host_header: host_header(&host, policy.scheme, policy.port),
            credential: match &policy.credential {
                None => Given::Nothing,
                Some(credential) => Injection::compile(policy.workspace_id, credential)
                    .map_or(Given::Unreadable, Given::Header),
            },
            host: host.into(),
            policy: policy.clone(),
        }
    }

    /// The `Host` header of requests to one of its ports.
    pub fn host_header(&self, port: u16) -> HeaderValue {
        if port == self.policy.port {
            self.host_header.clone()
        } else {
            host_header(&self.host, self.policy.scheme, port)
        }
    }

    /// The `Host` header of requests to a host that the target's wildcard covers.
    pub fn host_header_of(&self, host: &str, port: u16) -> HeaderValue {
        host_header(host, self.policy.scheme, port)
    }

    /// Whether the host is a wildcard.
    pub fn is_wildcard(&self) -> bool {
        self.parent().is_some()
    }

    fn parent(&self) -> Option<&str> {
        self.host.strip_prefix("*.")
    }

    /// The target's id.
    pub fn id(&self) -> TargetId {
        self.policy.target_id
    }

    /// Whether requests of this scheme and port are for this target.
    pub fn answers_at(&self, scheme: Scheme, port: u16) -> bool {
        self.policy.scheme == scheme
            && (self.policy.port == port || self.policy.extra_ports.contains(&port))
    }

    /// Whether a request that was routed to `self` would be routed to `other` just so.
    pub fn routes_like(&self, other: &Self) -> bool {
        let (mine, its) = (&self.policy, &other.policy);
        mine.scheme == its.scheme
            && mine.host == its.host
            && mine.port == its.port
            && mine.extra_ports == its.extra_ports
            && mine.base_path == its.base_path
            && mine.allow_private == its.allow_private
            && mine.name == its.name
            && mine.credential == its.credential
    }
}

// === impl PolicyBook ===

impl PolicyBook {
    pub(super) fn index_of(&self, id: WorkspaceId) -> Option<u32> {
        self.places.get(&id).copied()
    }

    /// Gives a workspace its place; true when it is new.
    pub(super) fn ensure_workspace(&mut self, id: WorkspaceId) -> bool {
        if self.places.contains_key(&id) {
            return false;
        }
        // Places are never taken back: a proxy sees far fewer workspaces than 2^32.
        let Ok(place) = u32::try_from(self.workspaces.len()) else {
            return false;
        };
        self.places.insert(id, place);
        self.workspaces.push(Arc::new(Workspace::empty(id)));
        self.members.push(HashSet::new());
        true
    }

    /// Merges one policy; true when something changed and [`Self::compile`] is due.
    pub(super) fn merge(&mut self, id: PolicyId, entry: Result<PolicyEntry, BadEntry>) -> bool {
        match entry {
            Ok(entry) => {
                let old = self.held.get(&id);
                let is_newer = old.is_none_or(|old| {
                    entry.revision > old.revision
                        || old.policy.is_none() && entry.revision == old.revision
                });
                if !is_newer {
                    return false;
                }
                let before = old
                    .and_then(|old| old.policy.as_ref())
                    .and_then(workspace_of);
                let after = workspace_of(&entry.policy);
                self.held.insert(
                    id,
                    Held {
                        revision: entry.revision,
                        policy: Some(entry.policy),
                    },
                );
                for workspace in [before, after].into_iter().flatten() {
                    self.touch(workspace, id);
                }
                true
            }
            // What holds for everybody goes on as last known: refusing everybody because
            // of one value would be the larger harm.
            Err(_) if id == PolicyId::Global => false,
            Err(_) => {
                let workspace = match (id, self.held.get(&id)) {
                    (PolicyId::Workspace(workspace), _) => Some(workspace),
                    (_, Some(held)) => held.policy.as_ref().and_then(workspace_of),
                    _ => None,
                };
                let Some(workspace) = workspace else {
                    return false;
                };
                self.touch(workspace, id);
                if let Some(held) = self.held.get_mut(&id) {
                    held.policy = None;
                }
                true
            }
        }
    }

    /// Drops policies that a whole snapshot does not hold and that are not newer than it;
    /// true when there were any.
    pub(super) fn drop_absent(&mut self, present: &HashSet<PolicyId>, through: Revision) -> bool {
        let absent: Vec<PolicyId> = self
            .held
            .iter()
            .filter(|(id, held)| !present.contains(id) && held.revision <= through)
            .map(|(&id, _)| id)
            .collect();
        for id in &absent {
            let held = self.held.remove(id);
            if let Some(workspace) = held
                .and_then(|it| it.policy)
                .as_ref()
                .and_then(workspace_of)
            {
                self.touch(workspace, *id);
            }
        }
        !absent.is_empty()
    }

    /// The policies as readers see them. Only workspaces that changed are built anew.
    pub(super) fn compile(&mut self) -> Policies {
        for place in std::mem::take(&mut self.dirty) {
            let at = place as usize;
            let id = self.workspaces[at].id;
            let members = self.members[at].clone();
            let overrides = HashMap::new();
            self.workspaces[at] = Arc::new(self.build(id, &members, &overrides));
        }
        self.global = self.build_global();
        Policies {
            global: Arc::clone(&self.global),
            workspaces: self.workspaces.clone(),
        }
    }

    /// A workspace as compiled, with newer policies of a look-up in place of the held.
    pub(super) fn workspace_with(
        &mut self,
        secret: &SecretEntry,
        policies: &[PolicyEntry],
    ) -> Option<(u32, Arc<Workspace>)> {
        let place = self.index_of(secret.workspace_id)?;
        let mut members = self.members[place as usize].clone();
        let newer: HashMap<PolicyId, &Policy> = policies
            .iter()
            .map(|entry| (entry.policy.id(), entry))
            .filter(|(id, entry)| {
                workspace_of(&entry.policy) == Some(secret.workspace_id)
                    && self
                        .held
                        .get(id)
                        .is_none_or(|held| entry.revision > held.revision)
            })
            .map(|(id, entry)| (id, &entry.policy))
            .collect();
        members.extend(newer.keys());
        Some((
            place,
            Arc::new(self.build(secret.workspace_id, &members, &newer)),
        ))
    }

    fn build(
        &mut self,
        id: WorkspaceId,
        members: &HashSet<PolicyId>,
        overrides: &HashMap<PolicyId, &Policy>,
    ) -> Workspace {
        let mut built = Workspace::empty(id);
        built.pool = self.pool(PolicyId::Workspace(id));
        for &member in members {
            let policy = match overrides.get(&member) {
                Some(&policy) => Some(policy.clone()),
                None => match self.held.get(&member) {
                    Some(held) => held.policy.clone(),
                    None => continue,
                },
            };
            match (member, policy) {
                (PolicyId::Workspace(_), Some(Policy::Workspace(policy))) => {
                    built.policy = Some(policy);
                }
                (PolicyId::Team(team), policy) => {
                    let group = match policy {
                        Some(Policy::Team(it)) if it.workspace_id == id => Group::Known {
                            blocked: it.blocked,
                            rates: it.limits.into(),
                            pool: self.pool(member),
                            access: Restriction::compile(&it.access),
                        },
                        Some(_) => continue,
                        None => Group::Unreadable,
                    };
                    built.teams.insert(team, group);
                }
                (PolicyId::Owner(_, owner), policy) => {
                    let group = match policy {
                        Some(Policy::Owner(it)) if it.workspace_id == id => Group::Known {
                            blocked: it.blocked,
                            rates: it.limits.into(),
                            pool: self.pool(member),
                            access: None,
                        },
                        Some(_) => continue,
                        None => Group::Unreadable,
                    };
                    built.owners.insert(owner, group);
                }
                (PolicyId::Target(_), Some(Policy::Target(policy)))
                    if policy.workspace_id == id && !policy.deleted =>
                {
                    let target = Arc::new(Target::compile(&policy));
                    // Names are unique in a workspace; should two meet all the same, as
                    // messages may come in any order, the later made one is it.
                    let named = built
                        .targets_by_name
                        .entry(policy.name.as_str().into())
                        .or_insert_with(|| Arc::clone(&target));
                    if named.id() < target.id() {
                        *named = Arc::clone(&target);
                    }
                    let by_host = match target.parent() {
                        None => built.targets_by_host.entry((&*target.host).into()),
                        Some(parent) => built.targets_by_parent.entry(parent.into()),
                    };
                    by_host.or_default().push(target);
                }
                _ => {}
            }
        }
        // A fixed order, so that the same policies always route the same way.
        let lists = built.targets_by_host.values_mut();
        for targets in lists.chain(built.targets_by_parent.values_mut()) {
            targets.sort_by_key(|it| (std::cmp::Reverse(it.policy.base_path.len()), it.id()));
        }
        built
    }

    fn build_global(&mut self) -> Arc<Global> {
        let Some(Policy::Global(GlobalPolicy {
            limits,
            error_profile,
        })) = self
            .held
            .get(&PolicyId::Global)
            .and_then(|held| held.policy.clone())
        else {
            return Arc::clone(&self.global);
        };
        Arc::new(Global {
            rates: limits.into(),
            pool: Arc::clone(&self.global.pool),
            error_profile,
        })
    }

    /// The counts of a policy, which survive its changes.
    fn pool(&mut self, id: PolicyId) -> Arc<Pool> {
        Arc::clone(self.pools.entry(id).or_default())
    }

    fn touch(&mut self, workspace: WorkspaceId, member: PolicyId) {
        self.ensure_workspace(workspace);
        if let Some(place) = self.index_of(workspace) {
            self.members[place as usize].insert(member);
            self.dirty.insert(place);
        }
    }
}

/// A host of the table was checked when it was written; should it not be one all the same,
/// an upstream refuses the empty one.
fn host_header(host: &str, scheme: Scheme, port: u16) -> HeaderValue {
    let text = if port == scheme.default_port() {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    };
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn workspace_of(policy: &Policy) -> Option<WorkspaceId> {
    match policy {
        Policy::Workspace(it) => Some(it.workspace_id),
        Policy::Team(it) => Some(it.workspace_id),
        Policy::Owner(it) => Some(it.workspace_id),
        Policy::Target(it) => Some(it.workspace_id),
        Policy::Global(_) => None,
    }
}
