-- Latest acceptable inclusion, where it is later than the promised one (`deadline_ms`), and when that was missed.
ALTER TABLE requests ADD COLUMN valid_until_ms BIGINT;
ALTER TABLE requests ADD COLUMN late_at_ms BIGINT;
