-- The schedule of a definition: $1 its name, $2 the spec in the code, $3 its first tick. Where the code says what it said
-- before, whatever was changed since stays; where it says something else, that holds. A pause stays in any case.
INSERT INTO bearmq.schedule AS s (name, spec, deployed, next_at) VALUES ($1, $2, $2, $3)
ON CONFLICT (name) DO UPDATE SET spec = excluded.spec, deployed = excluded.deployed, next_at = excluded.next_at, removed = false
  WHERE s.deployed IS DISTINCT FROM excluded.deployed
