-- $1 a word that the listener who sends it knows again. A lane it is not.
SELECT pg_notify('bearmq_wake', $1)
