-- Who belongs to which workspace, who was asked in, and what readers of events look for.

-- One row per member: each request asks how its caller stands, and a log-in asks where an
-- account belongs. A view: the workspace's events say it all.
CREATE TABLE workspace_members (
    workspace_id  TEXT   NOT NULL,
    account_id    TEXT   NOT NULL,
    role          TEXT   NOT NULL,
    status        TEXT   NOT NULL,
    PRIMARY KEY (workspace_id, account_id)
);

CREATE INDEX workspace_members_of_account ON workspace_members (account_id, workspace_id);

-- What each request asks of its workspace, so that no state has to be read for it.
ALTER TABLE workspaces ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE workspaces ADD COLUMN suspended BIGINT NOT NULL DEFAULT 0;
ALTER TABLE workspaces ADD COLUMN require_totp BIGINT NOT NULL DEFAULT 0;

-- The view of `access/<workspace>`: what was denied within the last minute.
CREATE TABLE denied (
    id     TEXT PRIMARY KEY,
    state  TEXT NOT NULL
);

-- Not in the log: where an invitation was sent, and its link. A row goes when the
-- invitation is accepted or taken back.
CREATE TABLE invitation_links (
    invitation_id  TEXT   PRIMARY KEY,
    workspace_id   TEXT   NOT NULL,
    -- As in accounts: the form that is compared, and the form that is written to.
    email          TEXT   NOT NULL,
    address        TEXT   NOT NULL,
    -- SHA-256 of the token in hex; the token is in the mail and nowhere else.
    hash           TEXT   NOT NULL UNIQUE,
    expires_at_ms  BIGINT NOT NULL
);

CREATE INDEX invitation_links_of_workspace ON invitation_links (workspace_id, invitation_id);
CREATE INDEX invitation_links_by_email ON invitation_links (email);

-- Who the token acts as; null is the person who made it. Its rights are that person's,
-- always.
ALTER TABLE control_tokens ADD COLUMN service_account_id TEXT;

-- What readers of events look for. Both repeat the canonical bytes, as the other columns
-- do: who did it, and the id of what it happened to.
ALTER TABLE events ADD COLUMN actor_id TEXT NOT NULL DEFAULT '';
ALTER TABLE events ADD COLUMN object_id TEXT NOT NULL DEFAULT '';
UPDATE events SET actor_id = ACTOR_ID(canonical), object_id = OBJECT_ID(stream);

CREATE INDEX events_of_actor ON events (workspace_id, actor_id, position);
CREATE INDEX events_of_object ON events (workspace_id, object_id, position);
