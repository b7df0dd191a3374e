-- $1 the channel, $2 a word that the listener who sends it knows again.
SELECT pg_notify($1, $2)
