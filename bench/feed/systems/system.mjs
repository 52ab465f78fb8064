// What the scenarios need of a system: `processes`, each at its own port, and perhaps a broker and a database.
//   open(url, onValue)      a simple subscriber without a library, as cheap as possible, that does not reconnect
//   connect(url, onValue)   a subscriber that reconnects, with the system's own client library: { connected, close() }
//   write(value)            a write at process 0; resolves when it is acknowledged
import { call, freePort, remove, run, temporaryFolder, until } from "../lib.mjs";

export class System {
  processes = 2;
  nodes = [];

  /** The process of the subscribers. The other one writes. */
  get reader() {
    return this.processes - 1;
  }

  url(index) {
    return `http://127.0.0.1:${this.nodes[index].port}`;
  }

  async start() {
    this.folder = temporaryFolder();
    await this.broker?.start(this.folder);
    await this.prepare();
    for (let index = 0; index < this.processes; index++) {
      this.nodes[index] = { port: await freePort() };
      await this.restart(index);
    }
    await this.configure();
  }

  /** Before and after its processes start. */
  async prepare() {}
  async configure() {}

  async restart(index) {
    const { command, args, env } = this.program(this.nodes[index].port);
    // Nothing of the caller's settings.
    const child = run(`${index}`, this.folder, command, args, { env: { PATH: process.env.PATH, ...env } });
    this.nodes[index].child = child;
    const isReady = () => call(this.url(index) + this.health).then(() => true, () => false);
    await until(isReady, this.name, { child });
  }

  kill(index) {
    return this.nodes[index].child.end("SIGKILL");
  }

  get servicePids() {
    return this.nodes.map(({ child }) => child.pid);
  }

  get otherPids() {
    return [this.broker, this.database].filter(Boolean).map(({ child }) => child.pid);
  }

  async stop() {
    const servers = [...this.nodes, this.broker, this.database].map((it) => it?.child).filter((it) => it?.isRunning);
    await Promise.all(servers.map((child) => child.end()));
    remove(this.folder);
  }
}
