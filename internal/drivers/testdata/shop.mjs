// Orders something, and changes its mind about something else. The connection comes from PGHOST, PGPORT and so on.
import pg from 'pg'

const client = new pg.Client()
await client.connect()

// The order and its job are committed together.
await client.query('BEGIN')
await client.query('INSERT INTO orders (id) VALUES ($1)', [17])
const shipped = await client.query('SELECT bearmq.enqueue($1, $2, group_key := $3) AS id', ['ship', JSON.stringify({ order: 17 }), 'customer 4'])
const reminder = await client.query(
  'SELECT bearmq.enqueue($1, $2, delay := $3) AS id', ['remind', JSON.stringify({ order: 17 }), '1 hour'])
await client.query('COMMIT')

// Nothing of this one remains.
await client.query('BEGIN')
await client.query('INSERT INTO orders (id) VALUES ($1)', [18])
await client.query('SELECT bearmq.enqueue($1, $2)', ['ship', JSON.stringify({ order: 18 })])
await client.query('ROLLBACK')

// Several at once.
const many = await client.query('SELECT bearmq.enqueue_many($1, $2::json[], attempts := 5) AS id',
  ['ship', [JSON.stringify({ order: 19 }), JSON.stringify({ order: 20 })]])

// A cancel that is rolled back, and one that is not.
const id = reminder.rows[0].id
await client.query('BEGIN')
await client.query('SELECT bearmq.cancel($1)', [many.rows[1].id])
await client.query('ROLLBACK')
await client.query('BEGIN')
const cancelled = await client.query('SELECT bearmq.cancel($1) AS state', [id])
await client.query('COMMIT')

console.log(JSON.stringify({
  shipped: [shipped, many].flatMap(r => r.rows.map(row => Number(row.id))),
  cancelled: Number(id), state: cancelled.rows[0].state,
}))
await client.end()
