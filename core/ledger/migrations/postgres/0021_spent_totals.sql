-- What each tenant has reserved and spent on each chain in all: a budget without a period need not sum every hour since the
-- beginning. Kept by a trigger, so that instances of an older version that still run are counted too.
CREATE TABLE spent_totals (
    tenant       TEXT NOT NULL,
    chain_id     BIGINT NOT NULL,
    reserved_wei NUMERIC NOT NULL,
    spent_wei    NUMERIC NOT NULL,
    PRIMARY KEY (tenant, chain_id)
);

CREATE FUNCTION add_to_spent_totals() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    more_reserved NUMERIC := NEW.reserved_wei::NUMERIC;
    more_spent NUMERIC := NEW.spent_wei::NUMERIC;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        more_reserved := more_reserved - OLD.reserved_wei::NUMERIC;
        more_spent := more_spent - OLD.spent_wei::NUMERIC;
    END IF;
    INSERT INTO spent_totals AS t (tenant, chain_id, reserved_wei, spent_wei)
    VALUES (NEW.tenant, NEW.chain_id, more_reserved, more_spent)
    ON CONFLICT (tenant, chain_id) DO UPDATE
    SET reserved_wei = t.reserved_wei + excluded.reserved_wei, spent_wei = t.spent_wei + excluded.spent_wei;
    RETURN NULL;
END
$$;

-- It locks the table until the totals are there: nothing is counted twice, or not at all.
CREATE TRIGGER spent_totals AFTER INSERT OR UPDATE ON spent FOR EACH ROW EXECUTE FUNCTION add_to_spent_totals();

INSERT INTO spent_totals (tenant, chain_id, reserved_wei, spent_wei)
SELECT tenant, chain_id, sum(reserved_wei::NUMERIC), sum(spent_wei::NUMERIC) FROM spent GROUP BY tenant, chain_id;
