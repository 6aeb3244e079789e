-- What final transactions cost beyond their members' shares, by the account that bears it. With the shares it adds up to what
-- left the lanes.
CREATE TABLE batch_accounts (
    batch    BIGINT NOT NULL REFERENCES batches (seq),
    account  TEXT NOT NULL,
    tenant   TEXT NOT NULL, -- empty: the operator's
    chain_id BIGINT NOT NULL,
    wei      TEXT NOT NULL,
    at_ms    BIGINT NOT NULL,
    PRIMARY KEY (batch, account, tenant)
);
