//! Limits: what is counted where, and one decision over all of it.
//!
//! A request counts against its key, its owner, its team, its workspace and the whole
//! instance. The decision is all or nothing: what was taken is put back when any of them
//! refuses. Counts live apart from the table, so that they survive a rotated secret, a
//! changed limit and a resync.
//!
//! These limits hold for each proxy by itself. Limits shared by the proxies of a region
//! come in at [`decide`], which is why nothing else counts.

pub mod cell;
pub mod failures;
pub mod window;

use std::sync::Arc;

use cell::Pool;
use window::{Full, Taken};

/// Caps of one scope that this proxy enforces; requests in a second and in a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rates {
    /// Requests in any second.
    pub rps: Option<u64>,
    /// Requests in any minute.
    pub rpm: Option<u64>,
}

/// Whom a limit holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One key.
    Key,
    /// All keys of an owner.
    Owner,
    /// All keys of a team.
    Team,
    /// All keys of a workspace: the limits of its plan.
    Workspace,
    /// Everybody.
    Global,
}

/// A limit's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Span {
    /// `rps`
    Second,
    /// `rpm`
    Minute,
}

/// One scope of a request, and what holds there.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// Whom the limits hold for.
    pub scope: Scope,
    /// Where it is counted.
    pub pool: &'a Arc<Pool>,
    /// The caps; a window without one counts all the same.
    pub rates: Rates,
}

/// How one limit stands, for headers and for `me`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whom it holds for.
    pub scope: Scope,
    /// Its window.
    pub span: Span,
    /// The cap.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// Milliseconds until the oldest counted requests leave the window.
    pub reset_ms: u64,
}

/// The most limits that one request can meet: five scopes, two windows each.
const STANDINGS_MAX: usize = 10;
const SCOPES_MAX: usize = STANDINGS_MAX / 2;

/// Every limit that a request met, in the order of their scopes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standings {
    rows: [Option<Standing>; STANDINGS_MAX],
    len: usize,
}

/// The right to send one request. It was paid for; [`Permit::give_back`] returns the
/// price when the request turns out not to be sent.
#[derive(Debug, Default)]
pub struct Permit {
    paid: [Option<(Arc<Pool>, Taken, Taken)>; SCOPES_MAX],
    /// How the limits stand, this request included.
    pub standings: Standings,
}

/// The limit that refused. Nothing is counted.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    /// The limit.
    pub refused: Standing,
    /// How all limits stand that were looked at.
    pub standings: Standings,
}

/// Decides over all demands at once, at `now_ms` of the steady clock.
///
/// # Errors
/// [`Refusal`] with the first limit that is used up; what earlier ones had taken is put
/// back.
pub fn decide<'a>(
    demands: impl Iterator<Item = Demand<'a>>,
    now_ms: u64,
) -> Result<Permit, Box<Refusal>> {
    let mut permit = Permit::default();
    for (place, demand) in demands.take(SCOPES_MAX).enumerate() {
        match demand.pool.take(now_ms, demand.rates) {
            Ok((second, minute)) => {
                permit
                    .standings
                    .note(&demand, Span::Second, second.total, now_ms);
                permit
                    .standings
                    .note(&demand, Span::Minute, minute.total, now_ms);
                permit.paid[place] = Some((Arc::clone(demand.pool), second, minute));
            }
            Err((span, full)) => {
                permit.put_back();
                let refused = Standing {
                    scope: demand.scope,
                    span,
                    limit: demand.rates.get(span).unwrap_or(0),
                    remaining: 0,
                    reset_ms: full.free_in_ms,
                };
                let mut standings = Standings::default();
                standings.push(refused);
                return Err(Box::new(Refusal { refused, standings }));
            }
        }
    }
    Ok(permit)
}

/// How limits stand without taking anything.
pub fn look<'a>(demands: impl Iterator<Item = Demand<'a>>, now_ms: u64) -> Standings {
    let mut standings = Standings::default();
    for demand in demands {
        let (second, minute) = demand.pool.used(now_ms);
        standings.note(&demand, Span::Second, second, now_ms);
        standings.note(&demand, Span::Minute, minute, now_ms);
    }
    standings
}

// === impl Rates ===

impl Rates {
    /// The cap of a window.
    pub fn get(self, span: Span) -> Option<u64> {
        match span {
            Span::Second => self.rps,
            Span::Minute => self.rpm,
        }
    }

    /// Whether there is no cap at all.
    pub fn is_unlimited(self) -> bool {
        self.rps.is_none() && self.rpm.is_none()
    }
}

impl From<schemas::Limits> for Rates {
    fn from(limits: schemas::Limits) -> Self {
        Self {
            rps: limits.rps,
            rpm: limits.rpm,
        }
    }
}

impl From<schemas::PlanLimits> for Rates {
    fn from(limits: schemas::PlanLimits) -> Self {
        Self {
            rps: limits.rps,
            rpm: limits.rpm,
        }
    }
}

// === impl Scope ===

impl Scope {
    /// The scope as it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Owner => "owner",
            Self::Team => "team",
            Self::Workspace => "workspace",
            Self::Global => "global",
        }
    }

    /// What stands before a limit's name in headers.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Key => "",
            Self::Owner => "owner-",
            Self::Team => "team-",
            Self::Workspace => "workspace-",
            Self::Global => "global-",
        }
    }
}

// === impl Span ===

impl Span {
    /// The limit's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Second => "rps",
            Self::Minute => "rpm",
        }
    }

    /// Length of the window in seconds.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
        }
    }
}

// === impl Standing ===

impl Standing {
    /// Seconds until something is free again: whole and at least 1.
    pub fn reset_seconds(&self) -> u64 {
        self.reset_ms.div_ceil(1_000).max(1)
    }

    /// Whether waiting can help: a cap of 0 refuses all, always.
    pub fn is_retryable(&self) -> bool {
        self.limit > 0
    }
}

// === impl Standings ===

impl Standings {
    /// The limits, in the order of their scopes.
    pub fn iter(&self) -> impl Iterator<Item = &Standing> {
        self.rows[..self.len].iter().flatten()
    }

    /// Whether there is no limit at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The limit with the least left of it, in proportion.
    pub fn tightest(&self) -> Option<&Standing> {
        // Cross-multiplied, so that no division rounds two limits into a tie.
        self.iter().reduce(|least, it| {
            let mine = u128::from(it.remaining) * u128::from(least.limit.max(1));
            let its = u128::from(least.remaining) * u128::from(it.limit.max(1));
            if mine < its { it } else { least }
        })
    }

    fn note(&mut self, demand: &Demand<'_>, span: Span, used: u64, now_ms: u64) {
        if let Some(limit) = demand.rates.get(span) {
            self.push(Standing {
                scope: demand.scope,
                span,
                limit,
                remaining: limit.saturating_sub(used),
                reset_ms: demand.pool.free_in_ms(span, now_ms),
            });
        }
    }

    fn push(&mut self, standing: Standing) {
        if let Some(row) = self.rows.get_mut(self.len) {
            *row = Some(standing);
            self.len += 1;
        }
    }
}

// === impl Permit ===

impl Permit {
    /// Returns the price: the request was not sent.
    pub fn give_back(mut self) {
        self.put_back();
    }

    fn put_back(&mut self) {
        for (pool, second, minute) in self.paid.iter_mut().filter_map(Option::take) {
            pool.give_back(second, minute);
        }
    }
}

/// The window that is full, and until when.
pub(crate) type PoolFull = (Span, Full);

#[cfg(test)]
mod tests;
