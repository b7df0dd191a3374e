-- An empty round trip.
SELECT;
