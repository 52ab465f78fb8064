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
  const { build } = await import('./app.js');
  const max = Math.max(1, Math.floor(Number(process.env.POOL_MAX ?? 10) / workers));
  const app = build(process.env.DATABASE_URL, max);
  process.on('SIGTERM', async () => {
    await app.close();
    process.exit();
  });
  await app.listen({ port: Number(process.env.PORT), host: '127.0.0.1' });
}
