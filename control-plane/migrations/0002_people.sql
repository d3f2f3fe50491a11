-- People: accounts, how they prove who they are, and the mail they get. Nothing of this is
-- in the log, so that a person can be erased; the log knows an account by its id only.

-- `email` is the form in which addresses are compared: NFC and lower case as a whole, the
-- domain in ASCII. `address` is what its owner wrote, and where mail goes.
ALTER TABLE accounts ADD COLUMN address TEXT NOT NULL DEFAULT '';
UPDATE accounts SET address = email;

ALTER TABLE accounts ADD COLUMN name TEXT NOT NULL DEFAULT '';
-- A PHC string of argon2id. Null is an account without a password: one that signs in with
-- OpenID Connect, or has still to set one.
ALTER TABLE accounts ADD COLUMN password_hash TEXT;
-- More than one person may have signed up with the address before it was verified, and
-- nobody can tell whose password this is. It ends when the address is verified.
ALTER TABLE accounts ADD COLUMN password_contested BIGINT NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN suspended BIGINT NOT NULL DEFAULT 0;

-- One-time links in mails. A row is removed by its use: whoever removes it has used it.
CREATE TABLE account_links (
    -- SHA-256 of the token in hex; the token is in the mail and nowhere else.
    hash           TEXT   PRIMARY KEY,
    -- What it does: verify, reset or sign_in.
    purpose        TEXT   NOT NULL,
    account_id     TEXT   NOT NULL,
    expires_at_ms  BIGINT NOT NULL
);

CREATE INDEX account_links_of_account ON account_links (account_id, purpose);
CREATE INDEX account_links_by_end ON account_links (expires_at_ms);

CREATE TABLE sessions (
    id               TEXT   PRIMARY KEY,
    -- SHA-256 of the token in hex.
    hash             TEXT   NOT NULL UNIQUE,
    account_id       TEXT   NOT NULL,
    -- The active workspace; null until the account has one.
    workspace_id     TEXT,
    -- Whether it lives in a cookie of a browser, so that changes need a second proof.
    is_cookie        BIGINT NOT NULL,
    -- What the browser or program calls itself, by family only.
    agent            TEXT   NOT NULL,
    created_at_ms    BIGINT NOT NULL,
    last_used_at_ms  BIGINT NOT NULL,
    ends_at_ms       BIGINT NOT NULL
);

CREATE INDEX sessions_of_account ON sessions (account_id, id);
CREATE INDEX sessions_by_end ON sessions (ends_at_ms);

-- From where an account has logged in before: from there, and only there, log-ins go on
-- while somebody else guesses its password. Addresses are hashed with the account's id.
CREATE TABLE familiar_addresses (
    account_id    TEXT   NOT NULL,
    address_hash  TEXT   NOT NULL,
    last_at_ms    BIGINT NOT NULL,
    PRIMARY KEY (account_id, address_hash)
);

CREATE INDEX familiar_addresses_by_age ON familiar_addresses (last_at_ms);

-- Second factors.
CREATE TABLE totps (
    account_id   TEXT   PRIMARY KEY,
    -- Base32. Checking a code needs the secret itself, so it cannot be hashed.
    secret       TEXT   NOT NULL,
    -- 0 while its owner has not shown that an authenticator holds it.
    enabled      BIGINT NOT NULL,
    -- The last time step whose code was used: a code works once.
    last_step    BIGINT NOT NULL,
    -- Wrong codes beside a right password since the last right code.
    wrong_codes  BIGINT NOT NULL
);

-- Who an account is at OpenID Connect providers.
CREATE TABLE oidc_subjects (
    provider    TEXT NOT NULL,
    subject     TEXT NOT NULL,
    account_id  TEXT NOT NULL,
    PRIMARY KEY (provider, subject)
);

CREATE INDEX oidc_subjects_of_account ON oidc_subjects (account_id);

-- Mail that has not been handed over yet. A row is removed when it is.
CREATE TABLE outbox (
    id             TEXT   PRIMARY KEY,
    -- sign_up, verify and reset are written when they are sent, so that their tokens are
    -- nowhere before, and so that asking for one takes as long whether the address is known
    -- or not. plain stands here as it will be sent.
    kind           TEXT   NOT NULL,
    -- As in accounts: the form that is compared, and the form that is written to.
    email          TEXT   NOT NULL,
    address        TEXT   NOT NULL,
    subject        TEXT   NOT NULL,
    body           TEXT   NOT NULL,
    created_at_ms  BIGINT NOT NULL,
    -- When it is tried next; a sender moves this first, so that no other takes it.
    next_at_ms     BIGINT NOT NULL,
    attempts       BIGINT NOT NULL
);

CREATE INDEX outbox_by_turn ON outbox (next_at_ms);
