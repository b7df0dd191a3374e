# Orders something, and changes its mind about something else. The connection comes from PGHOST, PGPORT and so on.
import json

import psycopg2

connection = psycopg2.connect("")


def one(cursor, sql, *args):
    cursor.execute(sql, args)
    return cursor.fetchone()[0]


# The order and its job are committed together.
with connection, connection.cursor() as cursor:
    cursor.execute("INSERT INTO orders (id) VALUES (%s)", (17,))
    shipped = [one(cursor, "SELECT bearmq.enqueue(%s, %s, group_key := %s)", "ship", json.dumps({"order": 17}), "customer 4")]
    reminder = one(cursor, "SELECT bearmq.enqueue(%s, %s, delay := %s)", "remind", json.dumps({"order": 17}), "1 hour")

# Nothing of this one remains.
with connection.cursor() as cursor:
    cursor.execute("INSERT INTO orders (id) VALUES (%s)", (18,))
    one(cursor, "SELECT bearmq.enqueue(%s, %s)", "ship", json.dumps({"order": 18}))
connection.rollback()

# Several at once.
with connection, connection.cursor() as cursor:
    cursor.execute("SELECT bearmq.enqueue_many(%s, %s::json[], attempts := 5)",
                   ("ship", [json.dumps({"order": 19}), json.dumps({"order": 20})]))
    shipped += [row[0] for row in cursor.fetchall()]

# A cancel that is rolled back, and one that is not.
with connection.cursor() as cursor:
    one(cursor, "SELECT bearmq.cancel(%s)", shipped[2])
connection.rollback()
with connection, connection.cursor() as cursor:
    state = one(cursor, "SELECT bearmq.cancel(%s)", reminder)

print(json.dumps({"shipped": shipped, "cancelled": reminder, "state": state}))
connection.close()
