-- The ledger. Amounts of wei are decimal text (256 bits do not fit an INTEGER), hashes and addresses are blobs,
-- instants are Unix milliseconds, and unsigned 64-bit numbers are stored as the signed number with the same bits.
--
-- Rows refer to each other by the small numbers that the ledger assigns (`seq`), in order, so that new rows of every
-- table and index except the four marked "random" land next to each other.
--
-- Retention must leave the newest row of `requests`, `batches`, `events` and `decisions`: the next number follows it.

PRAGMA application_id = 0x534c4b57; -- "SLKW"

-- What changes about a request. What never changes and is large is in `payloads`.
CREATE TABLE requests (
    seq                 INTEGER PRIMARY KEY,
    id                  BLOB NOT NULL UNIQUE CHECK (length(id) = 32), -- random
    tenant              TEXT NOT NULL,
    chain_id            INTEGER NOT NULL,
    kind                TEXT NOT NULL,
    forwarder           BLOB,
    signer              BLOB,
    signer_nonce        INTEGER,
    target              BLOB NOT NULL,
    status              INTEGER NOT NULL,
    reason              TEXT,
    deadline_ms         INTEGER NOT NULL,
    accepted_at_ms      INTEGER NOT NULL,
    updated_at_ms       INTEGER NOT NULL,
    -- The batch it is in, on the request's chain.
    batch_sender        BLOB,
    batch_nonce         INTEGER,
    reserved_wei        TEXT NOT NULL,
    ceiling_wei_per_gas TEXT NOT NULL,
    cost_wei            TEXT,
    gas_used            INTEGER,
    tx_hash             BLOB,
    block_number        INTEGER,
    batch_failures      INTEGER NOT NULL,
    -- Number of its events.
    events              INTEGER NOT NULL,
    -- Not in a terminal status. A column of its own, so that most changes of status leave its index alone.
    open                INTEGER NOT NULL CHECK (open = (status < 4)),
    -- Live, or has consumed its (forwarder, signer, nonce).
    holds_nonce         INTEGER NOT NULL CHECK (holds_nonce = (status < 6)),
    CHECK ((forwarder IS NULL) = (signer IS NULL) AND (signer IS NULL) = (signer_nonce IS NULL)),
    CHECK ((batch_sender IS NULL) = (batch_nonce IS NULL)),
    CHECK (status <> 0 OR batch_sender IS NULL)
) STRICT;

-- At most one live or executed request per (forwarder, signer, nonce): invariant I1. Random.
CREATE UNIQUE INDEX requests_sequence ON requests (chain_id, forwarder, signer, signer_nonce)
    WHERE holds_nonce = 1 AND signer_nonce IS NOT NULL;
CREATE INDEX requests_open ON requests (chain_id, seq) WHERE open = 1;
CREATE INDEX requests_status ON requests (status, seq);
CREATE INDEX requests_tenant ON requests (tenant, seq);

CREATE TABLE payloads (
    request           INTEGER PRIMARY KEY,
    payload           BLOB NOT NULL,
    promise_signature BLOB NOT NULL,
    quote             TEXT NOT NULL
) STRICT;

-- Random.
CREATE TABLE idempotency (
    tenant    TEXT NOT NULL,
    key       TEXT NOT NULL,
    body_hash BLOB NOT NULL,
    request   INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;

-- A batch is bound to one (lane, nonce) for ever: invariant I3.
CREATE TABLE batches (
    seq                 INTEGER PRIMARY KEY,
    chain_id            INTEGER NOT NULL,
    sender              BLOB NOT NULL,
    nonce               INTEGER NOT NULL CHECK (nonce >= 0),
    state               INTEGER NOT NULL,
    recipient           BLOB NOT NULL,
    value_wei           TEXT NOT NULL,
    gas_limit           INTEGER NOT NULL,
    deadline_ms         INTEGER NOT NULL,
    ceiling_wei_per_gas TEXT NOT NULL,
    trigger             TEXT NOT NULL,
    created_at_ms       INTEGER NOT NULL,
    included_hash       BLOB,
    block_number        INTEGER,
    block_hash          BLOB,
    gas_used            INTEGER,
    cost_wei            TEXT,
    UNIQUE (chain_id, sender, nonce)
) STRICT;

CREATE INDEX batches_open ON batches (chain_id, sender, nonce) WHERE state < 3;

-- Which request was in which batch: kept when a request goes back to the queue.
CREATE TABLE batch_members (
    batch    INTEGER NOT NULL REFERENCES batches (seq),
    position INTEGER NOT NULL,
    request  INTEGER NOT NULL,
    PRIMARY KEY (batch, position)
) STRICT, WITHOUT ROWID;

-- Every signed transaction, durable before it is broadcast: invariant I2. Unique hashes are random.
CREATE TABLE attempts (
    batch                            INTEGER NOT NULL REFERENCES batches (seq),
    idx                              INTEGER NOT NULL,
    kind                             INTEGER NOT NULL,
    max_fee_wei_per_gas              TEXT NOT NULL,
    max_priority_fee_wei_per_gas     TEXT NOT NULL,
    hash                             BLOB NOT NULL UNIQUE,
    raw                              BLOB NOT NULL,
    created_at_ms                    INTEGER NOT NULL,
    PRIMARY KEY (batch, idx)
) STRICT;

-- Numbered without gaps: invariant I10. Carries what a stream needs, so that no join is needed to send it.
CREATE TABLE events (
    seq          INTEGER PRIMARY KEY,
    request      INTEGER NOT NULL,
    request_seq  INTEGER NOT NULL,
    request_id   BLOB NOT NULL,
    tenant       TEXT NOT NULL,
    chain_id     INTEGER NOT NULL,
    status       INTEGER NOT NULL,
    reason       TEXT,
    detail       TEXT,
    batch_sender BLOB,
    batch_nonce  INTEGER,
    tx_hash      BLOB,
    block_number INTEGER,
    at_ms        INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX events_request ON events (request, request_seq);

CREATE TABLE decisions (
    seq   INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    prev  BLOB NOT NULL,
    hash  BLOB NOT NULL,
    body  TEXT NOT NULL
) STRICT;

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Running numbers, changed in the same transaction as the requests they count, so that nothing has to be scanned.
CREATE TABLE request_counts (
    chain_id INTEGER NOT NULL,
    status   INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    PRIMARY KEY (chain_id, status)
) STRICT, WITHOUT ROWID;

-- Wei by the hour in which the requests were accepted.
CREATE TABLE spent (
    tenant       TEXT NOT NULL,
    chain_id     INTEGER NOT NULL,
    hour         INTEGER NOT NULL, -- since the Unix epoch
    reserved_wei TEXT NOT NULL,    -- held by requests that have not ended
    spent_wei    TEXT NOT NULL,    -- cost of requests that have
    PRIMARY KEY (hour, tenant, chain_id)
) STRICT, WITHOUT ROWID;
