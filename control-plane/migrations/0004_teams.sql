-- Teams, their people and their service accounts, and which team and owner a key has.

-- Of keys: what lists filter by and what is counted under the lock of the head. `owner` is
-- the id of an account or of a service account, which tell themselves apart.
ALTER TABLE keys ADD COLUMN team_id TEXT;
ALTER TABLE keys ADD COLUMN owner TEXT;

CREATE INDEX keys_of_team ON keys (team_id, owner);
CREATE INDEX keys_of_owner ON keys (workspace_id, owner);

CREATE TABLE teams (
    id            TEXT   PRIMARY KEY,
    workspace_id  TEXT   NOT NULL,
    deleted       BIGINT NOT NULL,
    state         TEXT   NOT NULL
);

CREATE INDEX teams_of_workspace ON teams (workspace_id, id);

-- The people of the teams that there are, to be found from the person's side: each request
-- asks for the roles of its caller.
CREATE TABLE team_members (
    team_id       TEXT   NOT NULL,
    account_id    TEXT   NOT NULL,
    workspace_id  TEXT   NOT NULL,
    role          TEXT   NOT NULL,
    PRIMARY KEY (team_id, account_id)
);

CREATE INDEX team_members_of_account ON team_members (workspace_id, account_id);

CREATE TABLE service_accounts (
    id            TEXT   PRIMARY KEY,
    workspace_id  TEXT   NOT NULL,
    team_id       TEXT   NOT NULL,
    -- NFC, lower case: names are compared without regard to case, within the team.
    name_key      TEXT   NOT NULL,
    state         TEXT   NOT NULL
);

CREATE INDEX service_accounts_of_workspace ON service_accounts (workspace_id, id);
CREATE UNIQUE INDEX service_accounts_by_name ON service_accounts (team_id, name_key);
