//! What callers may be allowed to do.

/// A permission in a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Permission {
    KeyRead,
    KeyCreate,
    KeyUpdate,
    KeyRevoke,
    KeyRotate,
    TargetRead,
    TargetUpdate,
    WorkspaceUpdate,
    AuditRead,
    FleetRead,
}

impl Permission {
    pub(crate) const ALL: [Self; 10] = [
        Self::KeyRead,
        Self::KeyCreate,
        Self::KeyUpdate,
        Self::KeyRevoke,
        Self::KeyRotate,
        Self::TargetRead,
        Self::TargetUpdate,
        Self::WorkspaceUpdate,
        Self::AuditRead,
        Self::FleetRead,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::KeyRead => "key.read",
            Self::KeyCreate => "key.create",
            Self::KeyUpdate => "key.update",
            Self::KeyRevoke => "key.revoke",
            Self::KeyRotate => "key.rotate",
            Self::TargetRead => "target.read",
            Self::TargetUpdate => "target.update",
            Self::WorkspaceUpdate => "workspace.update",
            Self::AuditRead => "audit.read",
            Self::FleetRead => "fleet.read",
        }
    }

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == name)
    }
}
