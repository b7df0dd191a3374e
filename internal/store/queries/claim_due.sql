SELECT id, token, created_at, attempt, losses, ticket, alone, name, group_key, payload, options FROM bearmq.claim_due_v1($1, $2, $3, $4, $5, $6, $7, $8, $9)
