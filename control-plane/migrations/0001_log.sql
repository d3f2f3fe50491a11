-- BYTEA stands for the type of bytes: SQLite is given BLOB.

-- The log: the only truth. Everything else in this database, and in every region, can be
-- rebuilt from it, except what section "Not in the log" below holds.

-- One row. Each append locks it, so that positions are dense and in the order of commits:
-- a reader that remembers the last position it saw misses nothing.
CREATE TABLE head (
    only_row    BIGINT PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    position    BIGINT NOT NULL,
    chain_hash  BYTEA  NOT NULL,
    lineage     TEXT   NOT NULL,
    generation  BIGINT NOT NULL,
    -- The form that the views are in. A program with another form builds them anew from the
    -- log when it starts.
    view_form   BIGINT NOT NULL
);

CREATE TABLE events (
    position        BIGINT PRIMARY KEY,
    lineage         TEXT   NOT NULL,
    generation      BIGINT NOT NULL,
    stream          TEXT   NOT NULL,
    stream_version  BIGINT NOT NULL,
    id              TEXT   NOT NULL,
    type            TEXT   NOT NULL,
    schema_version  BIGINT NOT NULL,
    workspace_id    TEXT,
    at_ms           BIGINT NOT NULL,
    -- RFC 8785 bytes of the whole event. The columns beside it repeat parts of it for
    -- queries; `audit verify` checks that they agree.
    canonical       BYTEA  NOT NULL,
    leaf_hash       BYTEA  NOT NULL,
    chain_hash      BYTEA  NOT NULL,
    UNIQUE (stream, stream_version)
);

CREATE INDEX events_of_workspace ON events (workspace_id, position);

-- Views, written in the transaction of the event: a caller reads its own writes on any
-- control plane. `state` is the folded aggregate; the columns are what lists filter by.

CREATE TABLE keys (
    id            TEXT   PRIMARY KEY,
    workspace_id  TEXT   NOT NULL,
    -- NFC, lower case: names are compared without regard to case.
    name_key      TEXT   NOT NULL,
    -- Whether the name is free again: the key is revoked or purged.
    name_free     BIGINT NOT NULL,
    state_name    TEXT   NOT NULL,
    purged        BIGINT NOT NULL,
    expires_at_ms BIGINT,
    category      TEXT,
    prefixes      TEXT   NOT NULL,
    state         TEXT   NOT NULL
);

CREATE INDEX keys_of_workspace ON keys (workspace_id, id);
CREATE UNIQUE INDEX keys_by_name ON keys (workspace_id, name_key) WHERE name_free = 0;

CREATE TABLE targets (
    id            TEXT   PRIMARY KEY,
    workspace_id  TEXT   NOT NULL,
    name_key      TEXT   NOT NULL,
    deleted       BIGINT NOT NULL,
    state         TEXT   NOT NULL
);

CREATE INDEX targets_of_workspace ON targets (workspace_id, id);
CREATE UNIQUE INDEX targets_by_name ON targets (workspace_id, name_key) WHERE deleted = 0;

-- Every `scheme://host:port` that a target answers for, extra ports included: a URL leads
-- to one target.
CREATE TABLE target_origins (
    workspace_id  TEXT   NOT NULL,
    origin        TEXT   NOT NULL,
    target_id     TEXT   NOT NULL,
    PRIMARY KEY (workspace_id, origin)
);

CREATE INDEX target_origins_of_target ON target_origins (target_id);

CREATE TABLE workspaces (
    id     TEXT PRIMARY KEY,
    state  TEXT NOT NULL
);

CREATE TABLE instances (
    id     TEXT PRIMARY KEY,
    state  TEXT NOT NULL
);

-- The first answer to a POST with an idempotency key, without its secret. Written in the
-- transaction of the change, so that only committed changes are remembered.
CREATE TABLE idempotency (
    scope          TEXT   NOT NULL,
    key            TEXT   NOT NULL,
    -- SHA-256 of the body: the same key with another body is a mistake.
    fingerprint    TEXT   NOT NULL,
    stream         TEXT   NOT NULL,
    state          TEXT   NOT NULL,
    position       BIGINT NOT NULL,
    created_at_ms  BIGINT NOT NULL,
    PRIMARY KEY (scope, key)
);

CREATE INDEX idempotency_by_age ON idempotency (created_at_ms);

-- Not in the log: people can be erased, tokens are secrets, and the rest changes too
-- often to be history.

CREATE TABLE accounts (
    id             TEXT   PRIMARY KEY,
    email          TEXT   NOT NULL UNIQUE,
    email_verified BIGINT NOT NULL,
    created_at_ms  BIGINT NOT NULL
);

CREATE TABLE control_tokens (
    id             TEXT   PRIMARY KEY,
    -- SHA-256 of the whole token; the token itself is shown once and kept nowhere.
    hash           TEXT   NOT NULL UNIQUE,
    account_id     TEXT   NOT NULL,
    workspace_id   TEXT   NOT NULL,
    name           TEXT   NOT NULL,
    -- A JSON array of permissions; null is all that the account has.
    scopes         TEXT,
    created_at_ms  BIGINT NOT NULL,
    expires_at_ms  BIGINT
);

CREATE INDEX control_tokens_of_account ON control_tokens (workspace_id, account_id);

-- One row per region: who projects into it, and the newest build of its table.
CREATE TABLE regions (
    name           TEXT   PRIMARY KEY,
    leader         TEXT   NOT NULL,
    -- Rises with every change of the leader; the region refuses a lower one.
    fence          BIGINT NOT NULL,
    -- Moved by the leader each second. Hosts disagree about the time of day, so others judge
    -- by how long they have seen it stand still.
    beat           BIGINT NOT NULL,
    epoch          BIGINT NOT NULL
);

-- What proxies last said, one row per proxy.
CREATE TABLE members (
    region         TEXT   NOT NULL,
    proxy_id       TEXT   NOT NULL,
    boot_id        TEXT   NOT NULL,
    position       BIGINT NOT NULL,
    -- Every use up to here is in secret_uses.
    uses_position  BIGINT NOT NULL,
    renewed_at_ms  BIGINT NOT NULL,
    version        TEXT   NOT NULL,
    state          TEXT   NOT NULL,
    freshness_ms   BIGINT NOT NULL,
    PRIMARY KEY (region, proxy_id)
);

CREATE TABLE secret_uses (
    secret_id    TEXT   PRIMARY KEY,
    key_id       TEXT   NOT NULL,
    first_at_ms  BIGINT NOT NULL,
    last_at_ms   BIGINT NOT NULL,
    requests     BIGINT NOT NULL
);

CREATE INDEX secret_uses_of_key ON secret_uses (key_id);

-- Requests of a secret by the minute, for the last hour and a little more.
CREATE TABLE secret_use_minutes (
    secret_id  TEXT   NOT NULL,
    minute     BIGINT NOT NULL,
    requests   BIGINT NOT NULL,
    PRIMARY KEY (secret_id, minute)
);

CREATE INDEX secret_use_minutes_by_age ON secret_use_minutes (minute);
