-- The same by the rows' places and in the order of the index: the fastest form that we know, and flat.
DELETE FROM floor WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM floor ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED))
RETURNING id, created_at, name, group_key, payload;
