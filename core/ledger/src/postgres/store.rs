//! Loads the rows affected by a commit and writes back the changed ones. The caller holds the row of `numbers`.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::sql::Rows;
use crate::{
    LedgerError,
    apply::{Cursor, WorkingSet},
    bind::{
        Bind as _, bind_account, bind_attempt, bind_batch, bind_batch_change, bind_batch_id, bind_budget, bind_change,
        bind_count, bind_decision, bind_event, bind_id, bind_key, bind_lane, bind_member, bind_meta, bind_new_key,
        bind_payload, bind_request, bind_sequence, bind_spent, bind_spent_key, bind_target, bind_target_key,
    },
    load::{Table, read_spent},
    needs::Needs,
    rows::{Cells, batch_columns, payload_columns, request_columns},
};

static KEYS: Rows = Rows::new(
    "SELECT i.tenant, i.key, i.body_hash, r.id FROM ",
    "tt",
    " AS v (tenant, key) JOIN idempotency AS i ON i.tenant = v.tenant AND i.key = v.key \
     JOIN requests AS r ON r.seq = i.request",
);
static ANSWERS: Rows = Rows::new(
    concat!("SELECT ", request_columns!(), ", ", payload_columns!(), " FROM "),
    "b",
    " AS v (id) JOIN requests AS r ON r.id = v.id JOIN payloads AS p ON p.request = r.seq",
);
static REQUESTS: Rows =
    Rows::new(concat!("SELECT ", request_columns!(), " FROM "), "b", " AS v (id) JOIN requests AS r ON r.id = v.id");
static HOLDERS: Rows = Rows::new(
    "SELECT r.chain_id, r.forwarder, r.signer, r.signer_nonce, r.id FROM ",
    "nbbn",
    " AS v (chain_id, forwarder, signer, nonce) JOIN requests AS r ON r.chain_id = v.chain_id \
     AND r.forwarder = v.forwarder AND r.signer = v.signer AND r.signer_nonce = v.nonce \
     WHERE r.holds_nonce = 1 AND r.signer_nonce IS NOT NULL",
);
static LANES: Rows = Rows::new(
    "SELECT v.chain_id, v.sender, (SELECT max(b.nonce) FROM batches AS b WHERE b.chain_id = v.chain_id \
     AND b.sender = v.sender) FROM ",
    "nb",
    " AS v (chain_id, sender)",
);
static BATCHES: Rows = Rows::new(
    concat!("SELECT ", batch_columns!(), ", (SELECT max(a.idx) FROM attempts AS a WHERE a.batch = b.seq) FROM "),
    "nbn",
    " AS v (chain_id, sender, nonce) JOIN batches AS b ON b.chain_id = v.chain_id AND b.sender = v.sender \
     AND b.nonce = v.nonce",
);
// Every event names its batch.
static BOUND: Rows = Rows::new(
    "SELECT r.id, b.chain_id, b.sender, b.nonce FROM ",
    "b",
    " AS v (id) JOIN requests AS r ON r.id = v.id JOIN events AS e ON e.request = r.seq \
     JOIN batches AS b ON b.chain_id = e.chain_id AND b.sender = e.batch_sender AND b.nonce = e.batch_nonce \
     WHERE b.state < 3",
);
static ATTEMPTS: Rows = Rows::new(
    "SELECT a.hash, b.chain_id, b.sender, b.nonce FROM ",
    "b",
    " AS v (hash) JOIN attempts AS a ON a.hash = v.hash JOIN batches AS b ON b.seq = a.batch",
);
static SPENT: Rows = Rows::new(
    "SELECT s.hour, s.tenant, s.chain_id, s.reserved_wei, s.spent_wei FROM ",
    "ntn",
    " AS v (hour, tenant, chain_id) JOIN spent AS s ON s.hour = v.hour AND s.tenant = v.tenant \
     AND s.chain_id = v.chain_id",
);
// Hour 0 (the beginning) has running totals: no commit sums all hours.
static BUDGETS: Rows = Rows::new(
    "SELECT v.tenant, v.chain_id, v.hour, s.reserved_wei, s.spent_wei FROM ",
    "tnn",
    " AS v (tenant, chain_id, hour) CROSS JOIN LATERAL ( \
     SELECT h.reserved_wei, h.spent_wei FROM spent AS h \
     WHERE v.hour > 0 AND h.tenant = v.tenant AND h.chain_id = v.chain_id AND h.hour >= v.hour \
     UNION ALL SELECT t.reserved_wei::TEXT, t.spent_wei::TEXT FROM spent_totals AS t \
     WHERE v.hour = 0 AND t.tenant = v.tenant AND t.chain_id = v.chain_id) AS s",
);
// Locked against a change of owner until the commit is over.
static FENCES: Rows = Rows::new(
    "SELECT chain_id, token FROM leases WHERE expires_at > clock_timestamp() AND chain_id IN (SELECT * FROM ",
    "n",
    ") FOR SHARE",
);

static INSERT_REQUESTS: Rows = Rows::new(
    "INSERT INTO requests (seq, id, tenant, chain_id, kind, forwarder, signer, signer_nonce, target, status, reason, \
     deadline_ms, valid_until_ms, accepted_at_ms, updated_at_ms, batch_sender, batch_nonce, reserved_wei, \
     ceiling_wei_per_gas, cost_wei, price_wei, gas_used, tx_hash, block_number, batch_failures, events, late_at_ms, open, \
     holds_nonce, submitted_by, price_percent) \
     SELECT * FROM ",
    "nbtntbbnbntnnnnbnttttnbnnnnnntn",
    "",
);
static REMOVE_REQUESTS: Rows = Rows::new("DELETE FROM requests WHERE seq IN (SELECT * FROM ", "n", ")");
static REMOVE_PAYLOADS: Rows = Rows::new("DELETE FROM payloads WHERE request IN (SELECT * FROM ", "n", ")");
static INSERT_PAYLOADS: Rows =
    Rows::new("INSERT INTO payloads (request, payload, promise_signature, quote) SELECT * FROM ", "nbbt", "");
static INSERT_KEYS: Rows = Rows::new(
    "INSERT INTO idempotency (tenant, key, body_hash, request) SELECT * FROM ",
    "ttbn",
    // The key of a request that made way is free.
    " ON CONFLICT (tenant, key) DO UPDATE SET body_hash = excluded.body_hash, request = excluded.request",
);
static INSERT_BATCHES: Rows = Rows::new(
    "INSERT INTO batches (seq, chain_id, sender, nonce, state, recipient, value_wei, gas_limit, deadline_ms, \
     ceiling_wei_per_gas, trigger, created_at_ms, included_hash, block_number, block_hash, gas_used, cost_wei) \
     SELECT * FROM ",
    "nnbnnbtnnttnbnbnt",
    "",
);
static INSERT_MEMBERS: Rows =
    Rows::new("INSERT INTO batch_members (batch, position, request, own_gas) SELECT * FROM ", "nnnn", "");
static INSERT_ATTEMPTS: Rows = Rows::new(
    "INSERT INTO attempts (batch, idx, kind, max_fee_wei_per_gas, max_priority_fee_wei_per_gas, hash, raw, \
     created_at_ms) SELECT * FROM ",
    "nnnttbbn",
    "",
);
static INSERT_EVENTS: Rows = Rows::new(
    "INSERT INTO events (seq, request, request_seq, request_id, tenant, chain_id, status, reason, detail, \
     batch_sender, batch_nonce, tx_hash, block_number, at_ms) SELECT * FROM ",
    "nnnbtnnttbnbnn",
    "",
);
static INSERT_DECISIONS: Rows =
    Rows::new("INSERT INTO decisions (seq, at_ms, prev, hash, body) SELECT * FROM ", "nnbbt", "");
static INSERT_ACCOUNTS: Rows =
    Rows::new("INSERT INTO batch_accounts (batch, account, tenant, chain_id, wei, at_ms) SELECT * FROM ", "nttntn", "");
static SET_META: Rows = Rows::new(
    "INSERT INTO meta (key, value) SELECT * FROM ",
    "tt",
    " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
);
static SET_TARGETS: Rows = Rows::new(
    "INSERT INTO targets (chain_id, target, clean_runs, surprises, suspect_until_ms, shown_by, seen_at_ms) SELECT * FROM ",
    "nbnnnbn",
    " ON CONFLICT (chain_id, target) DO UPDATE SET clean_runs = excluded.clean_runs, \
     surprises = excluded.surprises, suspect_until_ms = excluded.suspect_until_ms, shown_by = excluded.shown_by, \
     seen_at_ms = excluded.seen_at_ms",
);
static FORGET_TARGETS: Rows = Rows::new(
    "DELETE FROM targets AS t USING ",
    "nb",
    " AS v (chain_id, target) WHERE t.chain_id = v.chain_id AND t.target = v.target",
);
static ADD_COUNTS: Rows = Rows::new(
    "INSERT INTO request_counts AS c (chain_id, status, requests) SELECT * FROM ",
    "nnn",
    " ON CONFLICT (chain_id, status) DO UPDATE SET requests = c.requests + excluded.requests",
);
static SET_SPENT: Rows = Rows::new(
    "INSERT INTO spent (hour, tenant, chain_id, reserved_wei, spent_wei) SELECT * FROM ",
    "ntntt",
    " ON CONFLICT (hour, tenant, chain_id) DO UPDATE SET reserved_wei = excluded.reserved_wei, \
     spent_wei = excluded.spent_wei",
);
static UPDATE_BATCHES: Rows = Rows::new(
    "UPDATE batches AS b SET state = v.state, recipient = v.recipient, value_wei = v.value_wei, \
     gas_limit = v.gas_limit, deadline_ms = v.deadline_ms, ceiling_wei_per_gas = v.ceiling_wei_per_gas, \
     trigger = v.trigger, created_at_ms = v.created_at_ms, included_hash = v.included_hash, \
     block_number = v.block_number, block_hash = v.block_hash, gas_used = v.gas_used, cost_wei = v.cost_wei FROM ",
    "nnbtnnttnbnbnt",
    " AS v (seq, state, recipient, value_wei, gas_limit, deadline_ms, ceiling_wei_per_gas, trigger, created_at_ms, \
     included_hash, block_number, block_hash, gas_used, cost_wei) WHERE b.seq = v.seq",
);

macro_rules! change_head {
    ($ends:literal) => {
        concat!(
            "UPDATE requests AS r SET status = v.status, reason = v.reason, updated_at_ms = v.updated_at_ms, \
             batch_sender = v.batch_sender, batch_nonce = v.batch_nonce, cost_wei = v.cost_wei, price_wei = v.price_wei, \
             gas_used = v.gas_used, tx_hash = v.tx_hash, block_number = v.block_number, \
             batch_failures = v.batch_failures, events = v.events, late_at_ms = v.late_at_ms",
            $ends,
            " FROM "
        )
    };
}
const CHANGE_TYPES: &str = "nntnbnttnbnnnn";
const CHANGE_TAIL: &str = " AS v (seq, status, reason, updated_at_ms, batch_sender, batch_nonce, cost_wei, price_wei, \
                           gas_used, tx_hash, block_number, batch_failures, events, late_at_ms) WHERE r.seq = v.seq";
// An ended request stays ended, so the flags need no values: each of the three kinds of change has its own statement,
// as in SQLite.
static MOVE_REQUESTS: Rows = Rows::new(change_head!(""), CHANGE_TYPES, CHANGE_TAIL);
static END_REQUESTS: Rows = Rows::new(change_head!(", open = 0"), CHANGE_TYPES, CHANGE_TAIL);
static RELEASE_REQUESTS: Rows = Rows::new(change_head!(", open = 0, holds_nonce = 0"), CHANGE_TYPES, CHANGE_TAIL);

/// Failure to load or store.
pub(super) enum StoreError {
    Sql(sqlx::Error),
    Ledger(LedgerError),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<LedgerError> for StoreError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

/// Reads the existing rows named by `needs`.
pub(super) async fn load(
    connection: &mut PgConnection,
    needs: &Needs,
    cursor: Cursor,
) -> Result<WorkingSet, StoreError> {
    let mut set = WorkingSet::new(cursor);
    for row in FENCES.run(connection, &needs.fences, |args, chain_id| args.u64(*chain_id)).await? {
        let mut cells = Cells::of("lease", &row);
        set.load_fence(cells.u64()?, cells.u64()?);
    }
    set.read(Table::Answers, &ANSWERS.run(connection, &needs.answers, bind_id).await?)?;
    set.read(Table::Keys, &KEYS.run(connection, &needs.keys, bind_key).await?)?;
    set.read(Table::Answers, &ANSWERS.run(connection, &set.missing_answers(), bind_id).await?)?;
    set.read(Table::Requests, &REQUESTS.run(connection, &needs.requests, bind_id).await?)?;
    set.read(Table::Bound, &BOUND.run(connection, &needs.cancelled, bind_id).await?)?;
    set.read(Table::Holders, &HOLDERS.run(connection, &needs.sequences, bind_sequence).await?)?;
    set.read(Table::Lanes, &LANES.run(connection, &needs.lanes, bind_lane).await?)?;
    set.read(Table::Batches, &BATCHES.run(connection, &needs.batches, bind_batch_id).await?)?;
    let attempts = ATTEMPTS.run(connection, &needs.attempts, |args, hash| args.bytes(hash.as_slice()));
    set.read(Table::Attempts, &attempts.await?)?;
    set.read(Table::Budgets, &BUDGETS.run(connection, &needs.budgets, bind_budget).await?)?;
    Ok(set)
}

/// Writes back the changes. Changes precede new requests, so that a sequence is released before it is taken.
pub(super) async fn store(connection: &mut PgConnection, mut set: WorkingSet) -> Result<(), StoreError> {
    let (spent, counts) = (set.spent_changes(), set.count_changes());
    let ((new_batches, batches), requests) = (set.batch_changes(), set.request_changes());
    let (gone, shown) = set.target_changes();
    INSERT_BATCHES.run(connection, new_batches, bind_batch).await?;
    UPDATE_BATCHES.run(connection, batches, bind_batch_change).await?;
    ADD_COUNTS.run(connection, counts, bind_count).await?;
    let mut sums = HashMap::new();
    read_spent(&mut sums, &SPENT.run(connection, spent.keys(), bind_spent_key).await?)?;
    SET_SPENT.run(connection, spent, |args, change| bind_spent(args, &mut sums, change)).await?;
    REMOVE_REQUESTS.run(connection, &requests.replaced, |args, seq| args.u64(*seq)).await?;
    REMOVE_PAYLOADS.run(connection, &requests.replaced, |args, seq| args.u64(*seq)).await?;
    MOVE_REQUESTS.run(connection, requests.moved, bind_change).await?;
    END_REQUESTS.run(connection, requests.ended, bind_change).await?;
    RELEASE_REQUESTS.run(connection, requests.released, bind_change).await?;
    INSERT_REQUESTS.run(connection, requests.new, bind_request).await?;
    INSERT_PAYLOADS.run(connection, requests.payloads, bind_payload).await?;
    INSERT_MEMBERS.run(connection, set.new_members, bind_member).await?;
    INSERT_ATTEMPTS.run(connection, set.new_attempts, bind_attempt).await?;
    INSERT_KEYS.run(connection, set.new_keys, bind_new_key).await?;
    INSERT_EVENTS.run(connection, set.new_events, bind_event).await?;
    INSERT_DECISIONS.run(connection, set.new_decisions, bind_decision).await?;
    INSERT_ACCOUNTS.run(connection, set.new_accounts, bind_account).await?;
    FORGET_TARGETS.run(connection, gone, bind_target_key).await?;
    SET_TARGETS.run(connection, shown, bind_target).await?;
    SET_META.run(connection, set.new_meta, bind_meta).await?;
    Ok(())
}
