-- The id of the API key that submitted it; none of what was accepted before this was kept.
ALTER TABLE requests ADD COLUMN submitted_by TEXT;
