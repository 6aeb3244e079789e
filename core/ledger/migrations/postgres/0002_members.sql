-- What each instance told about itself when it was last seen: its identity and whom it serves, for the others to compare.
CREATE TABLE members (
    instance TEXT PRIMARY KEY,
    told     TEXT NOT NULL,
    seen_at  TIMESTAMPTZ NOT NULL
);
