-- The oldest version that works with what a migration leaves; by itself, the version of the migration. A process of an older version than
-- the largest of these does not open the database any more.
ALTER TABLE "{schema}"."{prefix}migrations" ADD COLUMN compatible_from bigint;
