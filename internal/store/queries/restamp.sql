SELECT queued, waiting, lost, failed FROM bearmq.restamp_v1($1)
