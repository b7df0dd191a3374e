-- 10,000 rows a statement and a transaction, by the binary protocol.
COPY floor (name, group_key, payload) FROM STDIN (FORMAT binary);
