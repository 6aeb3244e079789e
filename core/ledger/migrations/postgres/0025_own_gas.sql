-- Gas that a member uses by itself, as simulated when the batch was planned: a restart shares the cost by it. NULL in older batches.
ALTER TABLE batch_members ADD COLUMN own_gas BIGINT;
