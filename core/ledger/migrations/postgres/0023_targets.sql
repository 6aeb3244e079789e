-- What targets have shown on chain: how much company their requests get. Bounded by `chain.max_target_records`.
CREATE TABLE targets (
    chain_id         BIGINT NOT NULL,
    target           BYTEA NOT NULL,
    clean_runs       BIGINT NOT NULL, -- final ones, since the last surprise
    surprises        BIGINT NOT NULL,
    suspect_until_ms BIGINT NOT NULL,
    shown_by         BYTEA, -- hash of the transaction that showed the newest surprise
    seen_at_ms       BIGINT NOT NULL,
    PRIMARY KEY (chain_id, target)
);
