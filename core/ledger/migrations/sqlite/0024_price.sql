-- What a tenant is charged for a request: so many percent of its cost, by its policy when it was accepted.
ALTER TABLE requests ADD COLUMN price_percent INTEGER NOT NULL DEFAULT 100;
-- Wei; NULL where it is the cost.
ALTER TABLE requests ADD COLUMN price_wei TEXT;
