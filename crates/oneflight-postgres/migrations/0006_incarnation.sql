-- A row that is another one after each crash of the server, and in a standby that took its place: unlogged, so that it is gone then,
-- and is written anew. Numbers of transactions of which nothing had come to the disk are given out once more by then. So a number says
-- which transaction is meant as long as this stays, and no longer.
CREATE UNLOGGED TABLE "{schema}"."{prefix}incarnation" (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id       uuid    NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO "{schema}"."{prefix}incarnation" DEFAULT VALUES;

-- Roles that have rights on the records alone begin transactions as well, and need not know of this table.
CREATE FUNCTION "{schema}"."{prefix}incarnate"() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    INSERT INTO "{schema}"."{prefix}incarnation" DEFAULT VALUES ON CONFLICT DO NOTHING;
END
$function$;
GRANT SELECT ON "{schema}"."{prefix}incarnation" TO PUBLIC;
