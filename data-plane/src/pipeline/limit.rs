//! Is there room for one more? One decision over the key, its owner, its team, its
//! workspace and everybody, all or nothing.

use std::sync::Arc;

use super::admit::Admitted;
use crate::clock::Now;
use crate::limit::cell::SecretCell;
use crate::limit::{self, Demand, Rates, Refusal, Scope, Standings};
use crate::server::Shared;
use crate::table::policy::Group;

/// The right to send one request upstream.
#[derive(Debug)]
pub struct Permit {
    paid: limit::Permit,
    /// The secret's cell, where the use is marked.
    pub cell: Arc<SecretCell>,
}

/// Decides over all limits of a key.
///
/// # Errors
/// [`Refusal`]: the limit that is used up; nothing is counted.
pub fn limit(shared: &Shared, admitted: &Admitted, now: Now) -> Result<Permit, Box<Refusal>> {
    let found = &admitted.known.found;
    let cell = shared
        .cells
        .secret(found.key_id, found.secret_id, now.steady_ms);
    let paid = limit::decide(demands(admitted, &cell), now.steady_ms)?;
    Ok(Permit { paid, cell })
}

/// How the limits of a key stand.
pub fn look(shared: &Shared, admitted: &Admitted, now: Now) -> Standings {
    let found = &admitted.known.found;
    let cell = shared
        .cells
        .secret(found.key_id, found.secret_id, now.steady_ms);
    limit::look(demands(admitted, &cell), now.steady_ms)
}

/// The scopes of a key, narrowest first. The key counts always, so that a limit set later
/// finds its count; a wider scope counts while it has a limit, because a count that all
/// cores write on every request costs more than it is worth.
fn demands<'a>(admitted: &'a Admitted, cell: &'a SecretCell) -> impl Iterator<Item = Demand<'a>> {
    let known = &admitted.known;
    let workspace = &*known.workspace;
    let group = |scope, group: Option<&'a Group>| match group {
        Some(Group::Known { rates, pool, .. }) => Some(Demand {
            scope,
            pool,
            rates: *rates,
        }),
        _ => None,
    };
    let owner = known.found.owner.and_then(|it| workspace.owner(it));
    let team = known.found.team.and_then(|it| workspace.team(it));
    let plan: Rates = workspace
        .policy
        .as_ref()
        .map_or_else(Rates::default, |policy| policy.plan_limits.into());
    let shared = [
        group(Scope::Owner, owner),
        group(Scope::Team, team),
        Some(Demand {
            scope: Scope::Workspace,
            pool: &workspace.pool,
            rates: plan,
        }),
        Some(Demand {
            scope: Scope::Global,
            pool: &known.global.pool,
            rates: known.global.rates,
        }),
    ];
    std::iter::once(Demand {
        scope: Scope::Key,
        pool: cell.pool(),
        rates: known.found.rates,
    })
    .chain(
        shared
            .into_iter()
            .flatten()
            .filter(|demand| !demand.rates.is_unlimited()),
    )
}

// === impl Permit ===

impl Permit {
    /// How the limits stand, this request included.
    pub fn standings(&self) -> Standings {
        self.paid.standings
    }

    /// Returns the price: the request was not sent.
    pub fn give_back(self) {
        self.paid.give_back();
    }
}
