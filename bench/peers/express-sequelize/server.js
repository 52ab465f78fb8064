import cluster from 'node:cluster';
import { availableParallelism } from 'node:os';

const workers = Number(process.env.WORKERS ?? availableParallelism());

if (cluster.isPrimary) {
  let stopping = false;
  for (let i = 0; i < workers; i++) cluster.fork();
  process.on('SIGTERM', () => {
    stopping = true;
    for (const worker of Object.values(cluster.workers)) worker.process.kill('SIGTERM');
  });
  // Exits when a worker dies, so that a partial cluster is not measured as a full one.
  cluster.on('exit', () => {
    if (!stopping) process.exit(1);
  });
} else {
  const { app } = await import('./app.js');
  const { connect } = await import('./models.js');
  const max = Math.max(1, Math.floor(Number(process.env.POOL_MAX ?? 10) / workers));
  const sequelize = connect(process.env.DATABASE_URL, max);
  const server = app(sequelize).listen(Number(process.env.PORT), '127.0.0.1', (error) => {
    if (error) throw error;
  });
  process.on('SIGTERM', () => {
    server.close(async () => {
      await sequelize.close();
      process.exit();
    });
    // Otherwise a client that is never idle would keep its connection open.
    setTimeout(() => server.closeAllConnections(), 1000).unref();
  });
}
