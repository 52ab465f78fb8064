import { fileURLToPath } from "node:url";
import { io } from "socket.io-client";
import WebSocket from "ws";
import { Redis, call } from "../lib.mjs";
import { System } from "./system.mjs";

const server = fileURLToPath(new URL("socket-io-server.mjs", import.meta.url));

export class SocketIo extends System {
  name = "Socket.IO, Redis streams";
  health = "/health";
  broker = new Redis();

  program(port) {
    const args = [server, `${port}`, `redis://127.0.0.1:${this.broker.port}`];
    return { command: process.execPath, args, env: { NODE_ENV: "production" } };
  }

  write(value) {
    const body = { name: value, email: `${value.replace(" ", "")}@example.com` };
    return call(`${this.url(0)}/users`, { method: "POST", body });
  }

  /** Speaks just enough of Engine.IO 4 and Socket.IO 5. */
  open(url, onValue) {
    return new Promise((done, fail) => {
      const address = `${url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket`;
      const socket = new WebSocket(address, { perMessageDeflate: false });
      socket.on("error", fail).on("message", (data) => {
        const text = `${data}`;
        if (text.startsWith("42")) onValue(JSON.parse(text.slice(2))[1].name);
        else if (text.startsWith("40")) done({ close: () => socket.terminate() });
        else if (text.startsWith("0")) socket.send("40");
        else if (text === "2") socket.send("3");
      });
    });
  }

  connect(url, onValue) {
    // A separate connection for each client, and WebSocket only, as for users-api.
    const socket = io(url, { forceNew: true, transports: ["websocket"] });
    socket.on("user.created", (user) => onValue(user.name));
    const client = { close: () => socket.disconnect() };
    return Object.defineProperty(client, "connected", { get: () => socket.connected });
  }
}
