// Calls every operation with openapi-fetch and the types that openapi-typescript generates from the OpenAPI document.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import createClient from "openapi-fetch";
import type { components, paths } from "./openapi.js";

type Schemas = components["schemas"];
type Query = NonNullable<paths["/users"]["get"]["parameters"]["query"]>;
type Listed = paths["/users"]["get"]["responses"][200]["content"]["application/json"][number];
type Headers = NonNullable<paths["/users/{id}"]["patch"]["parameters"]["header"]>;

// Checks the generated types at compile time.
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
type Literals<T> = string extends T ? false : true;
const holds = <_ extends true>() => {};
holds<Same<Listed["email"], string>>();
holds<Same<Listed, Schemas["User"]>>();
holds<Literals<Schemas["Problem"]["code"]>>();
holds<Same<Query["sort"], Schemas["UserSort"] | undefined>>();
holds<Same<Query["fields"], Schemas["UserField"][] | undefined>>();
holds<Same<Headers["If-Match"], string | undefined>>();
// @ts-expect-error: no such order
const order: Query["sort"] = "age";
// @ts-expect-error: no such code
const code: Schemas["Problem"]["code"] = "no-such-code";
void [order, code];

const authorization = `Bearer ${process.env["USERS_API_KEY"]}`;
const client = createClient<paths>({ baseUrl: process.env["USERS_API_URL"], headers: { authorization } });

/** Returns the data of a response; throws its problem. */
function given<T>({ data, error }: { data?: T; error?: Schemas["Problem"] | string }): T {
  assert.ok(data !== undefined, JSON.stringify(error));
  return data;
}

const email = (name: string) => `${name}@openapi-fetch.example`;
const text = { bodySerializer: (rows: string) => rows, parseAs: "text" } as const;
const parsed = <T>(lines: string): T[] => lines.trimEnd().split("\n").map((line) => JSON.parse(line) as T);

// One user.
const key = { "Idempotency-Key": `"${randomUUID()}"` };
const draft = { name: "Fetched Ann", email: email("ann") };
const created = await client.POST("/users", { params: { header: key }, body: draft });
const ann: Schemas["User"] = given(created);
assert.equal(created.response.status, 201);
assert.equal(created.response.headers.get("etag"), '"1"');
assert.ok(created.response.headers.get("x-request-id"));
const again = await client.POST("/users", { params: { header: key }, body: draft });
assert.deepEqual([given(again), again.response.headers.get("idempotency-replayed")], [ann, "true"]);
const bob = given(await client.POST("/users", { body: { name: "Fetched Bob", email: email("bob") } }));
const path = { id: ann.id };
assert.deepEqual(given(await client.GET("/users/{id}", { params: { path } })), ann);

const first = { path, header: { "If-Match": '"1"' } };
const second = { path, header: { "If-Match": '"2"' } };
const put = await client.PUT("/users/{id}", { params: first, body: { name: "Fetched Anna", email: email("anna") } });
assert.deepEqual([given(put).name, given(put).version], ["Fetched Anna", 2]);
const patched = given(await client.PATCH("/users/{id}", { params: second, body: { name: "Fetched Ann" } }));
assert.deepEqual([patched.name, patched.email, patched.version], ["Fetched Ann", email("anna"), 3]);

const changes = given(await client.GET("/users/{id}/history", { params: { path, query: { limit: 2 } } }));
assert.deepEqual(changes.map(({ version, action, changed }) => [version, action, changed]), [[3, "updated", ["name"]], [2, "updated", ["name", "email"]]]);
const secret = given(await client.POST("/keys", { body: { name: "fetched", scope: "users:read" } }));
assert.ok(secret.key?.startsWith(`uak_${secret.id}_`));
assert.equal((await client.DELETE("/keys/{id}", { params: { path: { id: secret.id } } })).response.status, 204);

// Requests that are refused.
const stranger = await client.GET("/users", { headers: { authorization: "Bearer unknown" } });
assert.equal(stranger.error?.code, "credentials-invalid");
const stale = await client.PATCH("/users/{id}", { params: first, body: { name: "X" } });
assert.equal(stale.error?.code, "precondition-failed");
const taken = await client.POST("/users", { body: { name: "X", email: email("anna") } });
assert.equal(taken.error?.code, "email-taken");
const nobody = await client.GET("/users/{id}", { params: { path: { id: randomUUID() } } });
assert.equal(nobody.error?.code, "user-not-found");
const invalid = await client.POST("/users", { body: { name: "X", email: "nobody" } });
assert.equal(invalid.error?.code, "validation-failed");
assert.deepEqual(invalid.error?.errors?.map((fault) => [fault.pointer, fault.code]), [["/email", "malformed"]]);

// Lists.
const list = async (query: Query) => given(await client.GET("/users", { params: { query } }));
const emails = (await list({ name: "fetched", sort: "-name", createdAfter: "2000-01-01T00:00:00Z" })).map((user) => user.email);
assert.deepEqual(emails, [email("bob"), email("anna")]);
assert.deepEqual((await list({ ids: [ann.id, bob.id], limit: 1 })).map((user) => user.id), [ann.id]);
assert.deepEqual((await list({ email: email("BOB") })).map((user) => user.id), [bob.id]);
const page = await client.GET("/users", { params: { query: { q: "fetched", limit: 1, count: "exact" } } });
assert.equal(page.response.headers.get("x-total-count"), "2");
const cursor = page.response.headers.get("link")?.match(/cursor=([^>]+)>; rel="next"/)?.[1];
assert.deepEqual((await list({ q: "fetched", limit: 1, cursor })).map((user) => user.id), [bob.id]);
assert.deepEqual(await list({ ids: [ann.id], fields: ["name", "version"] }), [{ name: "Fetched Ann", version: 3 }]);

// Many users.
const rows = [0, 1, 2].map((n) => `${JSON.stringify({ name: `Piece ${n}`, email: email(`row${n % 2}`) })}\n`).join("");
const ndjson = { headers: { "Content-Type": "application/x-ndjson" }, body: rows, ...text };
const lines = parsed<Schemas["BulkLine"]>(given(await client.POST("/users/bulk", ndjson)));
assert.deepEqual(lines.map((line) => line.outcome), ["created", "created", "refused"]);
assert.equal(lines[2]?.problem?.code, "email-taken");
const upsert = { query: { mode: "upsert" }, header: { "If-Match": "*" } } as const;
const csv = { headers: { "Content-Type": "text/csv" }, body: `name,email\nPiece zero,${email("row0")}\n`, ...text };
const [line] = parsed<Schemas["BulkLine"]>(given(await client.POST("/users/bulk", { params: upsert, ...csv })));
assert.equal(line?.outcome, "updated");

const whole = await client.GET("/users/export", { params: { query: { name: "piece", cursors: true } }, parseAs: "text" });
const exported = parsed<Schemas["ExportedUser"]>(given(whole));
assert.deepEqual(exported.map((user) => user.name), ["Piece zero", "Piece 1"]);
const behind = { name: "piece", cursor: exported[0]?.cursor };
const rest = await client.GET("/users/export", { params: { query: behind }, parseAs: "text" });
assert.deepEqual(parsed<Schemas["ExportedUser"]>(given(rest)).map((user) => user.id), [exported[1]?.id]);
const asCsv = { params: { query: { name: "piece", sort: "email" } }, headers: { Accept: "text/csv" }, parseAs: "text" } as const;
assert.match(given(await client.GET("/users/export", asCsv)), /^id,name,email,.*\r?\n.*,Piece zero,/);

// Operations.
assert.equal(given(await client.GET("/health/live")).status, "live");
assert.equal(given(await client.GET("/health/ready")).status, "ready");
const pool = given(await client.GET("/pool"));
assert.deepEqual([pool.state, pool.phase], ["up", "serving"]);
assert.ok(pool.limits.max >= pool.total && pool.total >= 1);
assert.match(given(await client.GET("/metrics", { parseAs: "text" })), /\n# TYPE /);
assert.match(String(given(await client.GET("/openapi.json"))["openapi"]), /^3\.1/);

for (const id of [ann, bob, ...exported].flatMap((user) => user.id ?? [])) {
  const { response } = await client.DELETE("/users/{id}", { params: { path: { id } } });
  assert.equal(response.status, 204);
}
