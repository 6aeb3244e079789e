-- What targets have shown on chain: how much company their requests get. Bounded by `chain.max_target_records`.
CREATE TABLE targets (
    chain_id         INTEGER NOT NULL,
    target           BLOB NOT NULL,
    clean_runs       INTEGER NOT NULL, -- final ones, since the last surprise
    surprises        INTEGER NOT NULL,
    suspect_until_ms INTEGER NOT NULL,
    shown_by         BLOB, -- hash of the transaction that showed the newest surprise
    seen_at_ms       INTEGER NOT NULL,
    PRIMARY KEY (chain_id, target)
) STRICT, WITHOUT ROWID;
