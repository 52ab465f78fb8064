import postgres from '@fastify/postgres';
import Fastify from 'fastify';
import { v7 as uuidv7 } from 'uuid';

import * as schemas from './schemas.js';

// A JavaScript Date has only milliseconds, so the database formats timestamps.
const time = (column) => `to_char(${column} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`;
// The driver returns a bigint as a string; the response schema converts it to a number.
const SELECT = `select id, name, email, version,
  ${time('created_at')} as "createdAt", ${time('updated_at')} as "updatedAt" from users`;

const byId = { name: 'user-by-id', text: `${SELECT} where id = $1` };
const byEmail = { name: 'user-by-email', text: `${SELECT} where email_key = $1` };
const first = { name: 'users-first', text: `${SELECT} order by id limit $1` };
const next = { name: 'users-next', text: `${SELECT} where id > $2 order by id limit $1` };
const insert = {
  name: 'user-insert',
  text: `insert into users (id, name, email, email_key, version, created_at, updated_at)
    values ($1, $2, $3, $4, 1, $5, $5)`,
};
const UNIQUE_VIOLATION = '23505';

export function build(connectionString, max) {
  const app = Fastify({
    schemaErrorFormatter: (errors, part) =>
      Object.assign(new Error(`${part}${errors[0].instancePath} ${errors[0].message}`), {
        statusCode: part === 'body' ? 422 : 400,
      }),
  });
  app.register(postgres, { connectionString, max });

  app.get('/health/live', async () => ({ status: 'up' }));

  app.get('/users/:id', { schema: schemas.find }, async (request, reply) => {
    const { rows } = await app.pg.query({ ...byId, values: [request.params.id] });
    if (rows.length === 0) return reply.code(404).send({ error: 'user not found' });
    return rows[0];
  });

  app.get('/users', { schema: schemas.list }, async (request) => {
    const { email, limit, after } = request.query;
    let query;
    if (email !== undefined) query = { ...byEmail, values: [email.toLowerCase()] };
    else if (after !== undefined) query = { ...next, values: [limit, after] };
    else query = { ...first, values: [limit] };
    const { rows } = await app.pg.query(query);
    return rows;
  });

  app.post('/users', { schema: schemas.create }, async (request, reply) => {
    const { email } = request.body;
    const name = request.body.name.trim();
    if (name === '' || [...name].length > 200) {
      return reply.code(422).send({ error: 'name must have 1 to 200 characters' });
    }
    if (!email.includes('@') || Buffer.byteLength(email) > 254) {
      return reply.code(422).send({ error: 'email must be an email address' });
    }
    const id = uuidv7();
    const now = new Date().toISOString().replace('Z', '000Z');
    try {
      await app.pg.query({ ...insert, values: [id, name, email, email.toLowerCase(), now] });
    } catch (error) {
      if (error.code === UNIQUE_VIOLATION) return reply.code(409).send({ error: 'email already in use' });
      throw error;
    }
    reply.code(201).header('location', `/users/${id}`);
    return { id, name, email, version: 1, createdAt: now, updatedAt: now };
  });

  return app;
}
