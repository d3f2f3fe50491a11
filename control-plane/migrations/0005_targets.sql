-- Which targets, teams and keys name which access groups and upstream credentials of their
-- workspace. What is named is not deleted, so that a name never comes to mean something
-- else. A holder that is gone (a deleted target or team, a revoked or purged key) has no
-- rows.

CREATE TABLE catalog_uses (
    workspace_id  TEXT NOT NULL,
    -- 'group' or 'credential'
    kind          TEXT NOT NULL,
    name          TEXT NOT NULL,
    -- The id of the target, team or key; ids tell themselves apart.
    holder        TEXT NOT NULL,
    PRIMARY KEY (workspace_id, kind, name, holder)
);

CREATE INDEX catalog_uses_of_holder ON catalog_uses (holder);
