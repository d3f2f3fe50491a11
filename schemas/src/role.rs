//! The roles that people have in workspaces and teams. What a role may do is the control
//! plane's business; here are their names.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The text is not one of the names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {expected}")]
pub struct BadName {
    /// The names that there are.
    pub expected: &'static str,
}

macro_rules! names {
    ($(
        $(#[$doc:meta])*
        $name:ident { $($(#[$member_doc:meta])* $member:ident = $text:literal,)* } as $all:literal
    )*) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
            Serialize, Deserialize, JsonSchema,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$member_doc])* $member,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$member,)*];

            /// Their names in one sentence.
            pub const NAMES: &'static str = $all;

            /// The name as it stands on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$member => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|it| it.as_str() == text)
                    .ok_or(BadName { expected: $all })
            }
        }
    )*};
}

names! {
    /// What a member is in a workspace.
    Role {
        /// Everything, other owners included.
        Owner = "owner",
        /// Everything but owners, admins, billing and the workspace's own life.
        Admin = "admin",
        /// All keys, targets and records.
        Developer = "developer",
        /// What was used and what it cost.
        Billing = "billing",
        /// Looks, without seeing who owns what.
        Viewer = "viewer",
        /// Reads everything, the history too; changes nothing.
        Auditor = "auditor",
        /// Nothing by itself: the roles in teams give the rest.
        Member = "member",
    } as "owner, admin, developer, billing, viewer, auditor and member"

    /// What a member is in a team.
    TeamRole {
        /// Manages the team, its people and its keys.
        TeamAdmin = "team_admin",
        /// Makes keys of their own, under the team's policy.
        TeamDeveloper = "team_developer",
        /// Looks.
        TeamViewer = "team_viewer",
    } as "team_admin, team_developer and team_viewer"

    /// Whether a member is let in.
    MemberStatus {
        /// Yes.
        Active = "active",
        /// No, until reinstated.
        Suspended = "suspended",
    } as "active and suspended"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_wire_are_the_names_in_words() {
        for role in Role::ALL {
            assert_eq!(serde_json::json!(role), role.as_str());
            assert_eq!(role.as_str().parse(), Ok(*role));
            assert!(Role::NAMES.contains(role.as_str()));
        }
        for role in TeamRole::ALL {
            assert_eq!(serde_json::json!(role), role.as_str());
            assert_eq!(role.as_str().parse(), Ok(*role));
            assert!(TeamRole::NAMES.contains(role.as_str()));
        }
        for status in MemberStatus::ALL {
            assert_eq!(serde_json::json!(status), status.as_str());
            assert_eq!(status.as_str().parse(), Ok(*status));
        }
        for bad in ["", "Owner", "root", "team_admin"] {
            assert!(bad.parse::<Role>().is_err(), "{bad}");
        }
    }
}
