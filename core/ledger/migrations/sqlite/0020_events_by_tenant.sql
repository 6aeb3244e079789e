-- A tenant's events, without reading past everybody else's.
CREATE INDEX events_tenant ON events (tenant, seq);
