const string = { type: 'string' };
const uuid = { type: 'string', format: 'uuid' };

const user = {
  type: 'object',
  properties: {
    id: string,
    name: string,
    email: string,
    version: { type: 'integer' },
    createdAt: string,
    updatedAt: string,
  },
};

export const find = {
  params: { type: 'object', properties: { id: uuid } },
  response: { 200: user },
};

export const list = {
  querystring: {
    type: 'object',
    properties: { email: string, limit: { type: 'integer', minimum: 1, maximum: 100, default: 20 }, after: uuid },
  },
  response: { 200: { type: 'array', items: user } },
};

export const create = {
  body: { type: 'object', required: ['name', 'email'], properties: { name: string, email: string } },
  response: { 201: user },
};
