-- The outbox comes with version 4.
SELECT 1;
