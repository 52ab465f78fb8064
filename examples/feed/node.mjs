// Keeps a copy of all users correct over WebSocket, and prints each change. Needs Node.js 20 and the package ws.
import { on, once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import WebSocket from "ws";

const url = process.env.USERS_API_URL ?? "http://127.0.0.1:8080";
const key = process.env.USERS_API_KEY;
const headers = key ? { authorization: `Bearer ${key}` } : {};
let users, position;

async function load() {
  const response = await fetch(`${url}/users/export`, { headers: { ...headers, accept: "application/x-ndjson" } });
  if (!response.ok) throw new Error(`The export failed: ${response.status}`);
  const lines = (await response.text()).split("\n").filter(Boolean);
  users = new Map(lines.map((line) => JSON.parse(line)).map((user) => [user.id, user]));
  position = response.headers.get("feed-position");
  console.log(`${users.size} users`);
}

function apply({ type, data: user }) {
  if (user.version <= (users.get(user.id)?.version ?? 0)) return;
  // The earlier events of a user who has been deleted have no values either.
  if (type === "user.deleted" || user.email === undefined) users.delete(user.id);
  else users.set(user.id, user);
  console.log(type, JSON.stringify(user));
}

async function follow() {
  const socket = new WebSocket(`${url.replace(/^http/, "ws")}/ws`, "users-api.v1", { headers });
  // The service sends a bookmark after 15 s without events, so a longer silence means that the connection is lost.
  const silence = setTimeout(() => socket.terminate(), 45_000);
  try {
    await once(socket, "open");
    socket.send(JSON.stringify({ type: "subscribe", after: position }));
    for await (const [text] of on(socket, "message", { close: ["close"] })) {
      silence.refresh();
      const message = JSON.parse(text);
      message.events?.forEach(apply);
      position = message.type === "resync" ? undefined : (message.position ?? position);
      if (!position) return;
    }
  } finally {
    clearTimeout(silence);
    socket.on("error", () => {}).terminate();
  }
}

process.on("SIGINT", () => process.exit());
for (;;) {
  try {
    if (!position) await load();
    await follow();
  } catch (error) {
    console.error(error.message);
    if (/: 40[13]$/.test(error.message)) process.exit(1); // another attempt is useless
  }
  await sleep(1000 + 2000 * Math.random());
}
