//! Loads the rows affected by a commit and writes back the changed ones.

use std::collections::HashMap;

use alloy_primitives::U256;
use sqlx::{Executor, SqliteConnection};

use super::sql::{Found, Rows, Script};
use crate::{
    LedgerError,
    apply::{Cursor, WorkingSet},
    bind::{
        Bind as _, bind_account, bind_attempt, bind_batch, bind_batch_change, bind_batch_id, bind_budget, bind_change,
        bind_count, bind_decision, bind_event, bind_id, bind_key, bind_lane, bind_member, bind_meta, bind_new_key,
        bind_payload, bind_request, bind_sequence, bind_spent, bind_spent_key, bind_target, bind_target_key,
    },
    load::{Table, read_spent},
    needs::{Needs, SpentKey},
    rows::{Cells, batch_columns, payload_columns, request_columns, storage_error},
};

/// Recently written sums of (reserved, spent) wei, to avoid rereading them.
pub(super) type SpentCache = HashMap<SpentKey, (U256, U256)>;

/// Limit on cached sums (hours of tenants); beyond it, the cache is cleared.
const SPENT_CACHE_LIMIT: usize = 4_096;

static KEYS: Rows = Rows::new(
    "SELECT i.tenant, i.key, i.body_hash, r.id FROM (VALUES ",
    2,
    ") AS v CROSS JOIN idempotency AS i ON i.tenant = v.column1 AND i.key = v.column2 \
     CROSS JOIN requests AS r ON r.seq = i.request",
);
static ANSWERS: Rows = Rows::new(
    concat!(
        "SELECT ",
        request_columns!(),
        ", ",
        payload_columns!(),
        " FROM requests AS r JOIN payloads AS p ON p.request = r.seq WHERE r.id IN ("
    ),
    1,
    ")",
);
static REQUESTS: Rows =
    Rows::new(concat!("SELECT ", request_columns!(), " FROM requests AS r WHERE r.id IN ("), 1, ")");
static HOLDERS: Rows = Rows::new(
    "SELECT r.chain_id, r.forwarder, r.signer, r.signer_nonce, r.id FROM (VALUES ",
    4,
    ") AS v CROSS JOIN requests AS r INDEXED BY requests_sequence ON r.chain_id = v.column1 \
     AND r.forwarder = v.column2 AND r.signer = v.column3 AND r.signer_nonce = v.column4 \
     AND r.holds_nonce = 1 AND r.signer_nonce IS NOT NULL",
);
static LANES: Rows = Rows::new(
    "SELECT v.column1, v.column2, (SELECT max(nonce) FROM batches WHERE chain_id = v.column1 AND sender = v.column2) \
     FROM (VALUES ",
    2,
    ") AS v WHERE v.column1 IS NOT NULL",
);
static BATCHES: Rows = Rows::new(
    concat!("SELECT ", batch_columns!(), ", (SELECT max(idx) FROM attempts WHERE batch = b.seq) FROM (VALUES "),
    3,
    ") AS v CROSS JOIN batches AS b ON b.chain_id = v.column1 AND b.sender = v.column2 AND b.nonce = v.column3",
);
// Every event names its batch.
static BOUND: Rows = Rows::new(
    "SELECT r.id, b.chain_id, b.sender, b.nonce FROM requests AS r CROSS JOIN events AS e ON e.request = r.seq \
     CROSS JOIN batches AS b ON b.chain_id = e.chain_id AND b.sender = e.batch_sender AND b.nonce = e.batch_nonce \
     WHERE b.state < 3 AND r.id IN (",
    1,
    ")",
);
static ATTEMPTS: Rows = Rows::new(
    "SELECT a.hash, b.chain_id, b.sender, b.nonce FROM attempts AS a JOIN batches AS b ON b.seq = a.batch \
     WHERE a.hash IN (",
    1,
    ")",
);
static BUDGETS: Rows = Rows::new(
    "SELECT v.column1, v.column2, v.column3, s.reserved_wei, s.spent_wei FROM (VALUES ",
    3,
    ") AS v CROSS JOIN spent AS s ON s.tenant = v.column1 AND s.chain_id = v.column2 AND s.hour >= v.column3",
);
static SPENT: Rows = Rows::new(
    "SELECT s.hour, s.tenant, s.chain_id, s.reserved_wei, s.spent_wei FROM (VALUES ",
    3,
    ") AS v CROSS JOIN spent AS s ON s.hour = v.column1 AND s.tenant = v.column2 AND s.chain_id = v.column3",
);

// A violated constraint means that the loaded rows contradict the stored ones, so it ends the transaction; `OR
// ROLLBACK` does that, and spares SQLite the journal for undoing a single statement.
const NEW_ROWS: &str = ") WHERE column1 IS NOT NULL";
static INSERT_REQUESTS: Rows = Rows::new(
    "INSERT OR ROLLBACK INTO requests (seq, id, tenant, chain_id, kind, forwarder, signer, signer_nonce, target, status, reason, \
     deadline_ms, valid_until_ms, accepted_at_ms, updated_at_ms, batch_sender, batch_nonce, reserved_wei, \
     ceiling_wei_per_gas, cost_wei, price_wei, gas_used, tx_hash, block_number, batch_failures, events, late_at_ms, open, \
     holds_nonce, submitted_by, price_percent) \
     SELECT * FROM (VALUES ",
    31,
    NEW_ROWS,
);
static REMOVE_REQUESTS: Rows = Rows::new("DELETE FROM requests WHERE seq IN (", 1, ")");
static REMOVE_PAYLOADS: Rows = Rows::new("DELETE FROM payloads WHERE request IN (", 1, ")");
static INSERT_PAYLOADS: Rows = Rows::new(
    "INSERT OR ROLLBACK INTO payloads (request, payload, promise_signature, quote) SELECT * FROM (VALUES ",
    4,
    NEW_ROWS,
);
static INSERT_KEYS: Rows = Rows::new(
    // The key of a request that made way is free.
    "INSERT OR ROLLBACK INTO idempotency (tenant, key, body_hash, request) SELECT * FROM (VALUES ",
    4,
    ") WHERE column1 IS NOT NULL ON CONFLICT (tenant, key) DO UPDATE SET body_hash = excluded.body_hash, \
     request = excluded.request",
);
static INSERT_BATCHES: Rows = Rows::new(
    "INSERT OR ROLLBACK INTO batches (seq, chain_id, sender, nonce, state, recipient, value_wei, gas_limit, deadline_ms, \
     ceiling_wei_per_gas, trigger, created_at_ms, included_hash, block_number, block_hash, gas_used, cost_wei) SELECT * FROM (VALUES ",
    17,
    NEW_ROWS,
);
static INSERT_MEMBERS: Rows = Rows::new(
    "INSERT OR ROLLBACK INTO batch_members (batch, position, request, own_gas) SELECT * FROM (VALUES ",
    4,
    NEW_ROWS,
);
static INSERT_ATTEMPTS: Rows = Rows::new(
    "INSERT OR ROLLBACK INTO attempts (batch, idx, kind, max_fee_wei_per_gas, max_priority_fee_wei_per_gas, hash, raw, \
     created_at_ms) SELECT * FROM (VALUES ",
    8,
    NEW_ROWS,
);
static INSERT_EVENTS: Rows = Rows::new(
    "INSERT OR ROLLBACK INTO events (seq, request, request_seq, request_id, tenant, chain_id, status, reason, detail, \
     batch_sender, batch_nonce, tx_hash, block_number, at_ms) SELECT * FROM (VALUES ",
    14,
    NEW_ROWS,
);
static INSERT_DECISIONS: Rows =
    Rows::new("INSERT OR ROLLBACK INTO decisions (seq, at_ms, prev, hash, body) SELECT * FROM (VALUES ", 5, NEW_ROWS);
static INSERT_ACCOUNTS: Rows = Rows::new(
    "INSERT OR ROLLBACK INTO batch_accounts (batch, account, tenant, chain_id, wei, at_ms) SELECT * FROM (VALUES ",
    6,
    NEW_ROWS,
);
static SET_META: Rows = Rows::new(
    "INSERT OR ROLLBACK INTO meta (key, value) SELECT * FROM (VALUES ",
    2,
    ") WHERE column1 IS NOT NULL ON CONFLICT (key) DO UPDATE SET value = excluded.value",
);
static SET_TARGETS: Rows = Rows::new(
    "INSERT OR ROLLBACK INTO targets (chain_id, target, clean_runs, surprises, suspect_until_ms, shown_by, seen_at_ms) \
     SELECT * FROM (VALUES ",
    7,
    ") WHERE column1 IS NOT NULL ON CONFLICT (chain_id, target) DO UPDATE SET clean_runs = excluded.clean_runs, \
     surprises = excluded.surprises, suspect_until_ms = excluded.suspect_until_ms, shown_by = excluded.shown_by, \
     seen_at_ms = excluded.seen_at_ms",
);
static FORGET_TARGETS: Rows = Rows::new("DELETE FROM targets WHERE (chain_id, target) IN (VALUES ", 2, ")");
static ADD_COUNTS: Rows = Rows::new(
    "INSERT OR ROLLBACK INTO request_counts (chain_id, status, requests) SELECT * FROM (VALUES ",
    3,
    ") WHERE column1 IS NOT NULL ON CONFLICT (chain_id, status) DO UPDATE SET requests = requests + excluded.requests",
);
static SET_SPENT: Rows = Rows::new(
    "INSERT OR ROLLBACK INTO spent (hour, tenant, chain_id, reserved_wei, spent_wei) SELECT * FROM (VALUES ",
    5,
    ") WHERE column1 IS NOT NULL ON CONFLICT (hour, tenant, chain_id) DO UPDATE SET \
     reserved_wei = excluded.reserved_wei, spent_wei = excluded.spent_wei",
);
static UPDATE_BATCHES: Rows = Rows::new(
    "UPDATE OR ROLLBACK batches SET state = v.column2, recipient = v.column3, value_wei = v.column4, \
     gas_limit = v.column5, deadline_ms = v.column6, ceiling_wei_per_gas = v.column7, trigger = v.column8, \
     created_at_ms = v.column9, included_hash = v.column10, block_number = v.column11, block_hash = v.column12, \
     gas_used = v.column13, cost_wei = v.column14 FROM (VALUES ",
    14,
    ") AS v WHERE batches.seq = v.column1",
);

const CHANGE_WIDTH: usize = 14;
const CHANGE_TAIL: &str = ") AS v WHERE requests.seq = v.column1";
macro_rules! change_head {
    ($more:literal) => {
        concat!(
            "UPDATE OR ROLLBACK requests SET status = v.column2, reason = v.column3, updated_at_ms = v.column4, \
             batch_sender = v.column5, batch_nonce = v.column6, cost_wei = v.column7, price_wei = v.column8, \
             gas_used = v.column9, tx_hash = v.column10, block_number = v.column11, batch_failures = v.column12, \
             events = v.column13, late_at_ms = v.column14",
            $more,
            " FROM (VALUES "
        )
    };
}
// An assigned column makes SQLite rewrite its index entries, changed or not. These indexes change only at the end of a
// request, and the one over sequences is expensive: so each of the three kinds of change has its own statement.
static MOVE_REQUESTS: Rows = Rows::new(change_head!(""), CHANGE_WIDTH, CHANGE_TAIL);
static END_REQUESTS: Rows = Rows::new(change_head!(", open = 0"), CHANGE_WIDTH, CHANGE_TAIL);
static RELEASE_REQUESTS: Rows = Rows::new(change_head!(", open = 0, holds_nonce = 0"), CHANGE_WIDTH, CHANGE_TAIL);

/// The highest numbers in use.
pub(super) async fn load_cursor(connection: &mut SqliteConnection) -> Result<Cursor, LedgerError> {
    let row = connection
        .fetch_one(sqlx::query(
            "SELECT (SELECT coalesce(max(seq), 0) FROM requests), (SELECT coalesce(max(seq), 0) FROM batches), \
             (SELECT coalesce(max(seq), 0) FROM events), (SELECT coalesce(max(seq), 0) FROM decisions), \
             (SELECT hash FROM decisions ORDER BY seq DESC LIMIT 1)",
        ))
        .await
        .map_err(|error| storage_error(&error))?;
    let mut cells = Cells::of("sequence", &row);
    Ok(Cursor {
        request: cells.u64()?,
        batch: cells.u64()?,
        event: cells.u64()?,
        decision: cells.u64()?,
        decision_hash: cells.optional_fixed()?.unwrap_or_default(),
    })
}

/// Begins a transaction and reads the existing rows named by `needs`.
pub(super) async fn load(
    connection: &mut SqliteConnection,
    needs: &Needs,
    cursor: Option<Cursor>,
) -> Result<WorkingSet, LedgerError> {
    let mut script = Script::new().begin();
    script.add(0, &KEYS, &needs.keys, bind_key);
    script.add(0, &ANSWERS, &needs.answers, bind_id);
    script.add(0, &REQUESTS, &needs.requests, bind_id);
    script.add(0, &BOUND, &needs.cancelled, bind_id);
    script.add(0, &HOLDERS, &needs.sequences, bind_sequence);
    script.add(0, &LANES, &needs.lanes, bind_lane);
    script.add(0, &BATCHES, &needs.batches, bind_batch_id);
    script.add(0, &ATTEMPTS, &needs.attempts, |args, hash| args.bytes(hash.as_slice()));
    script.add(0, &BUDGETS, &needs.budgets, bind_budget);
    let found = run(script, connection).await?;

    let cursor = match cursor {
        Some(cursor) => cursor,
        None => load_cursor(connection).await?,
    };
    let mut set = WorkingSet::new(cursor);
    set.read(Table::Answers, found.rows_of(&ANSWERS))?;
    set.read(Table::Keys, found.rows_of(&KEYS))?;
    let more = set.missing_answers();
    if !more.is_empty() {
        let mut script = Script::new();
        script.add(0, &ANSWERS, &more, bind_id);
        set.read(Table::Answers, run(script, connection).await?.rows_of(&ANSWERS))?;
    }
    set.read(Table::Requests, found.rows_of(&REQUESTS))?;
    set.read(Table::Bound, found.rows_of(&BOUND))?;
    set.read(Table::Holders, found.rows_of(&HOLDERS))?;
    set.read(Table::Lanes, found.rows_of(&LANES))?;
    set.read(Table::Batches, found.rows_of(&BATCHES))?;
    set.read(Table::Attempts, found.rows_of(&ATTEMPTS))?;
    set.read(Table::Budgets, found.rows_of(&BUDGETS))?;
    Ok(set)
}

async fn run(script: Script<'_>, connection: &mut SqliteConnection) -> Result<Found, LedgerError> {
    script.run(connection).await.map_err(|failed| storage_error(&failed.error))
}

/// Stages of [`store`]: first rows that free or are referred to by others, then the rest.
const FIRST: u8 = 0;
const THEN: u8 = 1;

/// Writes back the changes, and commits. Changes precede new requests, so that a sequence is released before it is
/// taken.
pub(super) async fn store(
    connection: &mut SqliteConnection,
    mut set: WorkingSet,
    cache: &mut SpentCache,
) -> Result<(), LedgerError> {
    let mut script = Script::new().commit();
    let (spent, counts) = (set.spent_changes(), set.count_changes());
    let ((new_batches, batches), requests) = (set.batch_changes(), set.request_changes());
    let (gone, shown) = set.target_changes();
    load_spent(connection, &spent, cache).await?;
    script.add(FIRST, &INSERT_BATCHES, new_batches, bind_batch);
    script.add(FIRST, &UPDATE_BATCHES, batches, bind_batch_change);
    script.add(FIRST, &ADD_COUNTS, counts, bind_count);
    script.add(FIRST, &SET_SPENT, spent, |args, change| bind_spent(args, cache, change));
    script.add(FIRST, &REMOVE_REQUESTS, requests.replaced.clone(), |args, seq| args.u64(seq));
    script.add(FIRST, &REMOVE_PAYLOADS, requests.replaced, |args, seq| args.u64(seq));
    script.add(FIRST, &MOVE_REQUESTS, requests.moved, bind_change);
    script.add(FIRST, &END_REQUESTS, requests.ended, bind_change);
    script.add(FIRST, &RELEASE_REQUESTS, requests.released, bind_change);
    script.add(FIRST, &FORGET_TARGETS, gone, bind_target_key);
    script.add(THEN, &INSERT_REQUESTS, requests.new, bind_request);
    script.add(THEN, &INSERT_PAYLOADS, requests.payloads, bind_payload);
    script.add(THEN, &INSERT_MEMBERS, set.new_members, bind_member);
    script.add(THEN, &INSERT_ATTEMPTS, set.new_attempts, bind_attempt);
    script.add(THEN, &INSERT_KEYS, set.new_keys, bind_new_key);
    script.add(THEN, &INSERT_EVENTS, set.new_events, bind_event);
    script.add(THEN, &INSERT_DECISIONS, set.new_decisions, bind_decision);
    script.add(THEN, &INSERT_ACCOUNTS, set.new_accounts, bind_account);
    script.add(THEN, &SET_TARGETS, shown, bind_target);
    script.add(THEN, &SET_META, set.new_meta, bind_meta);
    script.run(connection).await.map(drop).map_err(|failed| match failed.at_commit {
        true => commit_error(&failed.error),
        false => storage_error(&failed.error),
    })
}

/// Error of a failed `COMMIT`.
///
/// Busy: it did not begin. Full, or a failed write: the last page of the transaction, whose header makes it a commit,
/// is written after all others, and its checksum covers all of it; so the commit is not there as a whole. After any
/// other failure, such as a failed sync, the commit may or may not be found in the log at its next recovery.
fn commit_error(error: &sqlx::Error) -> LedgerError {
    const BUSY: i32 = 5;
    const FULL: i32 = 13;
    const IOERR_WRITE: i32 = 778;
    let code = error.as_database_error().and_then(|error| error.code()).and_then(|code| code.parse::<i32>().ok());
    match code {
        Some(IOERR_WRITE) => storage_error(error),
        Some(code) if matches!(code & 0xff, BUSY | FULL) => storage_error(error),
        _ => LedgerError::InDoubt(error.to_string()),
    }
}

/// Loads into `cache` the existing sums that `changes` affects.
async fn load_spent(
    connection: &mut SqliteConnection,
    changes: &HashMap<SpentKey, (U256, U256)>,
    cache: &mut SpentCache,
) -> Result<(), LedgerError> {
    if cache.len() > SPENT_CACHE_LIMIT {
        cache.clear();
    }
    let unknown: Vec<&SpentKey> = changes.keys().filter(|key| !cache.contains_key(key)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let mut script = Script::new();
    script.add(0, &SPENT, unknown, bind_spent_key);
    read_spent(cache, run(script, connection).await?.rows_of(&SPENT))
}
