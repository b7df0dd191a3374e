SELECT dead_leases_v1 FROM bearmq.dead_leases_v1($1)
