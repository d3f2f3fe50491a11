//! May this key be used now?

use schemas::entry::{Owner, SecretStatus};

use super::authenticate::Known;
use crate::clock::Now;
use crate::rejection::{Code, Rejection};
use crate::table::policy::Group;
use crate::table::{Found, Workspace};

/// A key that may be used.
#[derive(Debug)]
pub struct Admitted {
    /// The key.
    pub known: Known,
}

/// Judges a key at a time. The reasons are told only here, to a caller whose hash matched.
///
/// # Errors
/// `inactive_key`, `expired_key`, or `stale` when something that must be known is not.
pub fn admit(known: Known, now: Now) -> Result<Admitted, Rejection> {
    judge(&known.found, &known.workspace, now.unix_ms)?;
    Ok(Admitted { known })
}

/// The verdict on a secret, in the documented order: revoked, inactive, expired.
///
/// # Errors
/// As for [`admit`].
pub fn judge(found: &Found, workspace: &Workspace, unix_ms: i64) -> Result<(), Rejection> {
    let inactive = |detail: &'static str| Err(Rejection::new(Code::InactiveKey, detail));
    match found.status {
        Some(SecretStatus::Active) => {}
        Some(SecretStatus::Inactive) => return inactive("The key is switched off."),
        Some(SecretStatus::Revoked | SecretStatus::Purged) => {
            return inactive("The key was revoked.");
        }
        Some(SecretStatus::Ended) => return inactive("This secret of the key was replaced."),
        None => return Err(Rejection::stale("The key's entry cannot be read.")),
    }
    if found.ends_at_ms.is_some_and(|at| unix_ms >= at) {
        return inactive("This secret of the key was replaced.");
    }
    let Some(policy) = &workspace.policy else {
        return Err(Rejection::stale("The key's workspace is not known."));
    };
    if policy.suspended {
        return inactive("The workspace is suspended.");
    }
    match found.team.map(|team| workspace.team(team)) {
        None | Some(Some(Group::Known { blocked: false, .. })) => {}
        Some(Some(Group::Known { .. })) => return inactive("The key's team is blocked."),
        Some(Some(Group::Unreadable) | None) => {
            return Err(Rejection::stale("The key's team is not known."));
        }
    }
    match found.owner.map(|owner| (owner, workspace.owner(owner))) {
        // Of most people nothing is ever said, so an unknown one is not a missing one.
        None | Some((Owner::User(_), None)) => {}
        Some((_, Some(Group::Known { blocked: false, .. }))) => {}
        Some((_, Some(Group::Known { .. }))) => return inactive("The key's owner is blocked."),
        Some((_, Some(Group::Unreadable)) | (Owner::ServiceAccount(_), None)) => {
            return Err(Rejection::stale("The key's owner is not known."));
        }
    }
    if found.expires_at_ms.is_some_and(|at| unix_ms >= at) {
        return Err(Rejection::new(Code::ExpiredKey, "The key has expired."));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
