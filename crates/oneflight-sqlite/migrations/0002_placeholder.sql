-- The outbox comes with version 2.
SELECT 1;
