import { DataTypes, literal, Sequelize } from 'sequelize';
import { parse, stringify } from 'uuid';

export function connect(url, max) {
  const sequelize = new Sequelize(url, {
    logging: false,
    pool: { max, min: 0, acquire: 30000, idle: 10000 },
  });
  const mysql = sequelize.getDialect() === 'mysql';

  // A JavaScript Date has only milliseconds, so the database formats timestamps.
  const time = (column) =>
    literal(
      mysql
        ? `date_format(${column}, '%Y-%m-%dT%H:%i:%s.%fZ')`
        : `to_char(${column} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`,
    );

  const binaryId = {
    type: 'BINARY(16)',
    primaryKey: true,
    get() {
      return stringify(this.getDataValue('id'));
    },
    set(id) {
      this.setDataValue('id', toKey(id));
    },
  };
  const toKey = (id) => (mysql ? Buffer.from(parse(id)) : id);

  const User = sequelize.define(
    'User',
    {
      id: mysql ? binaryId : { type: DataTypes.UUID, primaryKey: true },
      name: { type: DataTypes.STRING(200), allowNull: false },
      email: { type: DataTypes.STRING(254), allowNull: false },
      emailKey: { type: DataTypes.STRING(512), allowNull: false, unique: true },
      version: {
        type: DataTypes.BIGINT,
        allowNull: false,
        defaultValue: 1,
        // The PostgreSQL driver returns a bigint as a string.
        get() {
          return Number(this.getDataValue('version'));
        },
      },
      createdAt: { type: DataTypes.DATE(6), allowNull: false },
      updatedAt: { type: DataTypes.DATE(6), allowNull: false },
    },
    {
      tableName: 'users',
      underscored: true,
      defaultScope: {
        attributes: [
          'id',
          'name',
          'email',
          'version',
          [time('created_at'), 'createdAt'],
          [time('updated_at'), 'updatedAt'],
        ],
      },
    },
  );
  User.toKey = toKey;
  return sequelize;
}
