import express from 'express';
import { Op, UniqueConstraintError } from 'sequelize';
import { v7 as uuidv7, validate as isUuid } from 'uuid';

const view = ({ id, name, email, version, createdAt, updatedAt }) => ({
  id,
  name,
  email,
  version,
  createdAt,
  updatedAt,
});

export function app(sequelize) {
  const { User } = sequelize.models;
  const app = express();
  app.disable('x-powered-by');
  app.use(express.json());

  app.get('/health/live', (req, res) => {
    res.json({ status: 'up' });
  });

  app.get('/users/:id', async (req, res) => {
    if (!isUuid(req.params.id)) return res.status(400).json({ error: 'id must be a UUID' });
    const user = await User.findByPk(User.toKey(req.params.id));
    if (!user) return res.status(404).json({ error: 'user not found' });
    res.json(view(user));
  });

  app.get('/users', async (req, res) => {
    const { email, after } = req.query;
    if (email !== undefined) {
      const users = await User.findAll({ where: { emailKey: String(email).toLowerCase() } });
      return res.json(users.map(view));
    }
    const limit = Number(req.query.limit ?? 20);
    if (!Number.isInteger(limit) || limit < 1 || limit > 100) {
      return res.status(400).json({ error: 'limit must be 1 to 100' });
    }
    if (after !== undefined && !isUuid(after)) return res.status(400).json({ error: 'after must be a UUID' });
    const where = after === undefined ? {} : { id: { [Op.gt]: User.toKey(after) } };
    const users = await User.findAll({ where, order: ['id'], limit });
    res.json(users.map(view));
  });

  app.post('/users', async (req, res) => {
    const { email } = req.body ?? {};
    const name = typeof req.body?.name === 'string' ? req.body.name.trim() : '';
    if (name === '' || [...name].length > 200) {
      return res.status(422).json({ error: 'name must have 1 to 200 characters' });
    }
    if (typeof email !== 'string' || !email.includes('@') || Buffer.byteLength(email) > 254) {
      return res.status(422).json({ error: 'email must be an email address' });
    }
    try {
      const user = await User.create({ id: uuidv7(), name, email, emailKey: email.toLowerCase() });
      const now = user.createdAt.toISOString().replace('Z', '000Z');
      res
        .status(201)
        .location(`/users/${user.id}`)
        .json({ ...view(user), createdAt: now, updatedAt: now });
    } catch (error) {
      if (error instanceof UniqueConstraintError) return res.status(409).json({ error: 'email already in use' });
      throw error;
    }
  });

  return app;
}
