import { execFileSync } from "node:child_process";
import { request } from "node:http";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { EventSource } from "eventsource";
import Client from "pocketbase";
import { call } from "../lib.mjs";
import { System } from "./system.mjs";

const installed = fileURLToPath(new URL("../venv/bin/pocketbase", import.meta.url));
export const binary = resolve(process.env.POCKETBASE ?? installed);
const account = ["bench@example.com", "bench-password"];
globalThis.EventSource = EventSource; // the library expects the one of browsers

/** One process by design: it embeds SQLite, and its subscriptions are in its memory. */
export class PocketBase extends System {
  name = "PocketBase, 1 process";
  health = "/api/health";
  processes = 1;

  async prepare() {
    const args = ["superuser", "create", ...account, "--dir", `${this.folder}/data`];
    execFileSync(binary, args, { cwd: this.folder, stdio: ["ignore", "ignore", "inherit"] });
  }

  program(port) {
    const args = ["serve", "--http", `127.0.0.1:${port}`, "--dir", `${this.folder}/data`, "--automigrate=false"];
    return { command: binary, args, env: { HOME: this.folder } };
  }

  /** A collection with the members of a user, for everyone. */
  async configure() {
    const login = { method: "POST", body: { identity: account[0], password: account[1] } };
    const { token } = await call(`${this.url(0)}/api/collections/_superusers/auth-with-password`, login);
    const body = {
      name: "members",
      type: "base",
      listRule: "",
      viewRule: "",
      createRule: "",
      fields: [
        { name: "name", type: "text", required: true },
        { name: "email", type: "email", required: true },
        { name: "createdAt", type: "autodate", onCreate: true },
        { name: "updatedAt", type: "autodate", onCreate: true, onUpdate: true },
      ],
      indexes: ["CREATE UNIQUE INDEX members_email ON members (email)"],
    };
    await call(`${this.url(0)}/api/collections`, { method: "POST", headers: { authorization: token }, body });
  }

  write(value) {
    const body = { name: value, email: `${value.replace(" ", "")}@example.com` };
    return call(`${this.url(0)}/api/collections/members/records`, { method: "POST", body });
  }

  /** The event stream itself: the first event has the id that the subscription needs. */
  open(url, onValue) {
    return new Promise((done, fail) => {
      const stream = request(`${url}/api/realtime`, { agent: false }, (response) => {
        let rest = "";
        response.setEncoding("utf8").on("error", () => {}).on("data", (data) => {
          const lines = (rest + data).split("\n");
          rest = lines.pop();
          for (const line of lines.filter((it) => it.startsWith("data:"))) {
            const { clientId, record } = JSON.parse(line.slice(5));
            if (record) onValue(record.name);
            else {
              const body = { clientId, subscriptions: ["members/*"] };
              const subscribed = call(`${url}/api/realtime`, { method: "POST", body });
              subscribed.then(() => done({ close: () => stream.destroy() }), fail);
            }
          }
        });
      });
      stream.on("error", fail).end();
    });
  }

  connect(url, onValue) {
    const library = new Client(url);
    const subscribed = library.collection("members").subscribe("*", ({ record }) => onValue(record.name));
    subscribed.catch(() => {}); // it tries again by itself
    const client = { close: () => library.realtime.unsubscribe().catch(() => {}) };
    return Object.defineProperty(client, "connected", { get: () => library.realtime.isConnected });
  }
}
