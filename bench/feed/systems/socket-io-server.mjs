// A Socket.IO service with the same event as users-api, in the best configuration of its documentation: connection
// state recovery, the adapter of Redis streams, and no reference to the first request of a connection (its page on
// memory usage).
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-streams-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const [port, broker] = process.argv.slice(2);
const redis = createClient({ url: broker });
redis.on("error", (error) => console.error(error.message));
await redis.connect();

const server = createServer((request, response) => {
  let text = "";
  request.on("data", (data) => (text += data)).on("end", () => {
    if (request.method === "POST") {
      const now = new Date().toISOString();
      const user = { id: randomUUID(), ...JSON.parse(text), version: 1, createdAt: now, updatedAt: now };
      // There is nothing to wait for: emit() returns at once, and does not report whether Redis has the event.
      io.to("users").emit("user.created", user);
      text = JSON.stringify(user);
    }
    response.writeHead(request.method === "POST" ? 201 : 204, { "content-type": "application/json" }).end(text);
  });
});
const io = new Server(server, {
  adapter: createAdapter(redis),
  connectionStateRecovery: { maxDisconnectionDuration: 2 * 60 * 1000, skipMiddlewares: true },
});
io.engine.on("connection", (socket) => (socket.request = null));
io.on("connection", (socket) => socket.join("users"));
server.listen(Number(port), "127.0.0.1");
