-- Claims 1,000 rows and deletes them, in one statement and one transaction, as queues usually do it.
DELETE FROM floor WHERE id IN (
  SELECT id FROM floor LIMIT 1000 FOR UPDATE SKIP LOCKED)
RETURNING id, created_at, name, group_key, payload;
