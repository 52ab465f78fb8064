import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import WebSocket from "ws";
import { Redis, call, postgres } from "../lib.mjs";
import { System } from "./system.mjs";

const built = fileURLToPath(new URL("../../../target/release/users-api", import.meta.url));
export const binary = resolve(process.env.USERS_API ?? built);

function subscribe(url, after, onMessage) {
  const socket = new WebSocket(`${url.replace("http", "ws")}/ws`, "users-api.v1", { perMessageDeflate: false });
  socket.on("open", () => socket.send(JSON.stringify({ type: "subscribe", after })));
  return socket.on("message", (text) => onMessage(JSON.parse(text)));
}

export class UsersApi extends System {
  health = "/health/ready";

  constructor(broker = "redis") {
    super();
    this.name = `users-api, broker ${broker}`;
    if (broker === "redis") this.broker = new Redis();
  }

  async prepare() {
    this.database = await postgres(this.folder);
  }

  program(port) {
    const env = {
      DATABASE_URL: this.database.url,
      RUST_LOG: "warn",
      USERS_API__FEED__BROKER: this.broker ? `redis://127.0.0.1:${this.broker.port}` : "none",
    };
    return { command: binary, args: ["serve", "--host", "127.0.0.1", "--port", `${port}`], env };
  }

  write(value) {
    const body = { name: value, email: `${value.replace(" ", "")}@example.com` };
    return call(`${this.url(0)}/users`, { method: "POST", body });
  }

  open(url, onValue) {
    return new Promise((done, fail) => {
      const socket = subscribe(url, undefined, ({ type, events }) => {
        if (type === "hello") done({ close: () => socket.terminate() });
        events?.forEach((event) => onValue(event.data.name));
      }).on("error", fail);
    });
  }

  /** As in examples/feed/node.mjs: connects again after 1 to 3 s, and continues after the last position. */
  connect(url, onValue) {
    let position, socket, timer;
    const client = { connected: false, resyncs: 0 };
    client.close = () => ((client.isClosed = true), clearTimeout(timer), socket.terminate());
    const attempt = () => {
      socket = subscribe(url, position, (message) => {
        client.connected = true;
        message.events?.forEach((event) => onValue(event.data.name));
        if (message.type === "resync") client.resyncs++;
        position = message.position ?? position;
      });
      socket.on("error", () => {}).on("close", () => {
        client.connected = false;
        if (!client.isClosed) timer = setTimeout(attempt, 1000 + 2000 * Math.random());
      });
    };
    attempt();
    return client;
  }
}
