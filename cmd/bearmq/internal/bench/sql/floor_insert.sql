-- One row, one commit.
INSERT INTO floor (name, group_key, payload) VALUES ($1, $2, $3);
