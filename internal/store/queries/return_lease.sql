SELECT bearmq.return_lease_v1($1, $2)
