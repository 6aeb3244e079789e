-- The ledger, as in SQLite: amounts of wei are decimal text, hashes and addresses are bytes, instants are Unix
-- milliseconds, and unsigned 64-bit numbers are stored as the signed number with the same bits.
--
-- All tables are in a schema of their own, which is first in the search path.

CREATE TABLE requests (
    seq                 BIGINT PRIMARY KEY,
    id                  BYTEA NOT NULL UNIQUE CHECK (length(id) = 32),
    tenant              TEXT NOT NULL,
    chain_id            BIGINT NOT NULL,
    kind                TEXT NOT NULL,
    forwarder           BYTEA,
    signer              BYTEA,
    signer_nonce        BIGINT,
    target              BYTEA NOT NULL,
    status              BIGINT NOT NULL,
    reason              TEXT,
    deadline_ms         BIGINT NOT NULL,
    accepted_at_ms      BIGINT NOT NULL,
    updated_at_ms       BIGINT NOT NULL,
    batch_sender        BYTEA,
    batch_nonce         BIGINT,
    reserved_wei        TEXT NOT NULL,
    ceiling_wei_per_gas TEXT NOT NULL,
    cost_wei            TEXT,
    gas_used            BIGINT,
    tx_hash             BYTEA,
    block_number        BIGINT,
    batch_failures      BIGINT NOT NULL,
    events              BIGINT NOT NULL,
    open                BIGINT NOT NULL CHECK ((open = 1) = (status < 4)),
    holds_nonce         BIGINT NOT NULL CHECK ((holds_nonce = 1) = (status < 6)),
    CHECK ((forwarder IS NULL) = (signer IS NULL) AND (signer IS NULL) = (signer_nonce IS NULL)),
    CHECK ((batch_sender IS NULL) = (batch_nonce IS NULL)),
    CHECK (status <> 0 OR batch_sender IS NULL)
);

-- At most one live or executed request per (forwarder, signer, nonce): invariant I1.
CREATE UNIQUE INDEX requests_sequence ON requests (chain_id, forwarder, signer, signer_nonce)
    WHERE holds_nonce = 1 AND signer_nonce IS NOT NULL;
CREATE INDEX requests_open ON requests (chain_id, seq) WHERE open = 1;
CREATE INDEX requests_status ON requests (status, seq);
CREATE INDEX requests_tenant ON requests (tenant, seq);

CREATE TABLE payloads (
    request           BIGINT PRIMARY KEY,
    payload           BYTEA NOT NULL,
    promise_signature BYTEA NOT NULL,
    quote             TEXT NOT NULL
);

CREATE TABLE idempotency (
    tenant    TEXT NOT NULL,
    key       TEXT NOT NULL,
    body_hash BYTEA NOT NULL,
    request   BIGINT NOT NULL,
    PRIMARY KEY (tenant, key)
);

-- A batch is bound to one (lane, nonce) for ever: invariant I3.
CREATE TABLE batches (
    seq                 BIGINT PRIMARY KEY,
    chain_id            BIGINT NOT NULL,
    sender              BYTEA NOT NULL,
    nonce               BIGINT NOT NULL CHECK (nonce >= 0),
    state               BIGINT NOT NULL,
    recipient           BYTEA NOT NULL,
    value_wei           TEXT NOT NULL,
    gas_limit           BIGINT NOT NULL,
    deadline_ms         BIGINT NOT NULL,
    ceiling_wei_per_gas TEXT NOT NULL,
    trigger             TEXT NOT NULL,
    created_at_ms       BIGINT NOT NULL,
    included_hash       BYTEA,
    block_number        BIGINT,
    block_hash          BYTEA,
    gas_used            BIGINT,
    cost_wei            TEXT,
    UNIQUE (chain_id, sender, nonce)
);

CREATE INDEX batches_open ON batches (chain_id, sender, nonce) WHERE state < 3;

CREATE TABLE batch_members (
    batch    BIGINT NOT NULL REFERENCES batches (seq),
    position BIGINT NOT NULL,
    request  BIGINT NOT NULL,
    PRIMARY KEY (batch, position)
);

-- Every signed transaction, durable before it is broadcast: invariant I2.
CREATE TABLE attempts (
    batch                        BIGINT NOT NULL REFERENCES batches (seq),
    idx                          BIGINT NOT NULL,
    kind                         BIGINT NOT NULL,
    max_fee_wei_per_gas          TEXT NOT NULL,
    max_priority_fee_wei_per_gas TEXT NOT NULL,
    hash                         BYTEA NOT NULL UNIQUE,
    raw                          BYTEA NOT NULL,
    created_at_ms                BIGINT NOT NULL,
    PRIMARY KEY (batch, idx)
);

-- Numbered without gaps, in the order in which commits become visible: invariant I10.
CREATE TABLE events (
    seq          BIGINT PRIMARY KEY,
    request      BIGINT NOT NULL,
    request_seq  BIGINT NOT NULL,
    request_id   BYTEA NOT NULL,
    tenant       TEXT NOT NULL,
    chain_id     BIGINT NOT NULL,
    status       BIGINT NOT NULL,
    reason       TEXT,
    detail       TEXT,
    batch_sender BYTEA,
    batch_nonce  BIGINT,
    tx_hash      BYTEA,
    block_number BIGINT,
    at_ms        BIGINT NOT NULL
);

CREATE UNIQUE INDEX events_request ON events (request, request_seq);

CREATE TABLE decisions (
    seq   BIGINT PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    prev  BYTEA NOT NULL,
    hash  BYTEA NOT NULL,
    body  TEXT NOT NULL
);

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE request_counts (
    chain_id BIGINT NOT NULL,
    status   BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    PRIMARY KEY (chain_id, status)
);

CREATE TABLE spent (
    tenant       TEXT NOT NULL,
    chain_id     BIGINT NOT NULL,
    hour         BIGINT NOT NULL,
    reserved_wei TEXT NOT NULL,
    spent_wei    TEXT NOT NULL,
    PRIMARY KEY (hour, tenant, chain_id)
);

CREATE INDEX spent_tenant ON spent (tenant, chain_id, hour);

-- The numbers given out. One row, locked from the first statement of a commit to its end: commits happen one after the
-- other, whoever makes them, so numbers have no gaps and what a commit has read is still so when it is durable.
CREATE TABLE numbers (
    one           BIGINT PRIMARY KEY CHECK (one = 1),
    request       BIGINT NOT NULL,
    batch         BIGINT NOT NULL,
    event         BIGINT NOT NULL,
    decision      BIGINT NOT NULL,
    decision_hash BYTEA NOT NULL
);

INSERT INTO numbers VALUES (1, 0, 0, 0, 0, decode(repeat('00', 32), 'hex'));

-- The newest commit of each writer, written with the commit: who lost the answer to a COMMIT looks here.
CREATE TABLE writers (
    id      BYTEA PRIMARY KEY,
    commits BIGINT NOT NULL,
    seen_at TIMESTAMPTZ NOT NULL
);

-- Who drives a chain's lanes. The token grows with every change of owner; `expires_at` is by this database's clock.
CREATE TABLE leases (
    chain_id   BIGINT PRIMARY KEY,
    owner      TEXT NOT NULL,
    token      BIGINT NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);
