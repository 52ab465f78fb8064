// Calls every operation with the client that @hey-api/openapi-ts generates from the OpenAPI document.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import * as api from "./hey_api_client/sdk.gen.js";
import type { BulkLine, ExportedUser, ListUsersData, ListUsersResponse, PatchUserData, Problem, User, UserField, UserSort } from "./hey_api_client/types.gen.js";
import { client } from "./hey_api_client/client.gen.js";

type Query = NonNullable<ListUsersData["query"]>;

// Checks the generated types at compile time.
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
type Literals<T> = string extends T ? false : true;
const holds = <_ extends true>() => {};
holds<Same<ListUsersResponse[number]["email"], string>>();
holds<Same<ListUsersResponse, User[]>>();
holds<Literals<Problem["code"]>>();
holds<Same<Query["sort"], UserSort | undefined>>();
holds<Same<Query["fields"], UserField[] | undefined>>();
holds<Same<NonNullable<PatchUserData["headers"]>["If-Match"], string | undefined>>();
// @ts-expect-error: no such order
const order: Query["sort"] = "age";
// @ts-expect-error: no such code
const code: Problem["code"] = "no-such-code";
void [order, code];

client.setConfig({ baseUrl: process.env["USERS_API_URL"], auth: process.env["USERS_API_KEY"] });

/** Returns the data of a response; throws its problem. */
function given<T>({ data, error }: { data?: T; error?: unknown }): T {
  assert.ok(data !== undefined, JSON.stringify(error));
  return data;
}

const email = (name: string) => `${name}@hey-api.example`;
const parsed = async <T>(lines: Blob): Promise<T[]> => (await lines.text()).trimEnd().split("\n").map((line) => JSON.parse(line) as T);

// One user.
const key = { "Idempotency-Key": `"${randomUUID()}"` };
const draft = { name: "Hailed Ann", email: email("ann") };
const created = await api.createUser({ headers: key, body: draft });
const ann: User = given(created);
assert.equal(created.response.status, 201);
assert.equal(created.response.headers.get("etag"), '"1"');
assert.ok(created.response.headers.get("x-request-id"));
const again = await api.createUser({ headers: key, body: draft });
assert.deepEqual([given(again), again.response.headers.get("idempotency-replayed")], [ann, "true"]);
const bob = given(await api.createUser({ body: { name: "Hailed Bob", email: email("bob") } }));
const path = { id: ann.id };
assert.deepEqual(given(await api.getUser({ path })), ann);

const first = { path, headers: { "If-Match": '"1"' } };
const second = { path, headers: { "If-Match": '"2"' } };
const put = given(await api.replaceUser({ ...first, body: { name: "Hailed Anna", email: email("anna") } }));
assert.deepEqual([put.name, put.version], ["Hailed Anna", 2]);
const patched = given(await api.patchUser({ ...second, body: { name: "Hailed Ann" } }));
assert.deepEqual([patched.name, patched.email, patched.version], ["Hailed Ann", email("anna"), 3]);

// Requests that are refused.
const stale = await api.patchUser({ ...first, body: { name: "X" } });
assert.equal(stale.error?.code, "precondition-failed");
const taken = await api.createUser({ body: { name: "X", email: email("anna") } });
assert.equal(taken.error?.code, "email-taken");
const nobody = await api.getUser({ path: { id: randomUUID() } });
assert.equal(nobody.error?.code, "user-not-found");
const invalid = await api.createUser({ body: { name: "X", email: "nobody" } });
assert.equal(invalid.error?.code, "validation-failed");
assert.deepEqual(invalid.error?.errors?.map((fault) => [fault.pointer, fault.code]), [["/email", "malformed"]]);

// Lists.
const list = async (query: Query) => given(await api.listUsers({ query }));
const emails = (await list({ name: "hailed", sort: "-name", createdAfter: "2000-01-01T00:00:00Z" })).map((user) => user.email);
assert.deepEqual(emails, [email("bob"), email("anna")]);
assert.deepEqual((await list({ ids: [ann.id, bob.id], limit: 1 })).map((user) => user.id), [ann.id]);
assert.deepEqual((await list({ email: email("BOB") })).map((user) => user.id), [bob.id]);
const page = await api.listUsers({ query: { q: "hailed", limit: 1, count: "exact" } });
assert.equal(page.response.headers.get("x-total-count"), "2");
const cursor = page.response.headers.get("link")?.match(/cursor=([^>]+)>; rel="next"/)?.[1];
assert.deepEqual((await list({ q: "hailed", limit: 1, cursor })).map((user) => user.id), [bob.id]);
assert.deepEqual(await list({ ids: [ann.id], fields: ["name", "version"] }), [{ name: "Hailed Ann", version: 3 }]);

// Many users. Without `bodySerializer: null` the client would serialize the rows as a JSON string.
const rows = [0, 1, 2].map((n) => `${JSON.stringify({ name: `Heap ${n}`, email: email(`row${n % 2}`) })}\n`).join("");
const lines = await parsed<BulkLine>(given(await api.writeUsers({ body: rows, bodySerializer: null })));
assert.deepEqual(lines.map((line) => line.outcome), ["created", "created", "refused"]);
assert.equal(lines[2]?.problem?.code, "email-taken");
const headers = { "Content-Type": "text/csv", "If-Match": "*" };
const body = `name,email\nHeap zero,${email("row0")}\n`;
const upsert = await api.writeUsers({ query: { mode: "upsert" }, headers, body, bodySerializer: null });
assert.equal((await parsed<BulkLine>(given(upsert)))[0]?.outcome, "updated");

const exported = await parsed<ExportedUser>(given(await api.exportUsers({ query: { name: "heap", cursors: true } })));
assert.deepEqual(exported.map((user) => user.name), ["Heap zero", "Heap 1"]);
const rest = await api.exportUsers({ query: { name: "heap", cursor: exported[0]?.cursor } });
assert.deepEqual((await parsed<ExportedUser>(given(rest))).map((user) => user.id), [exported[1]?.id]);
const csv = await api.exportUsers({ query: { name: "heap", sort: "email" }, headers: { Accept: "text/csv" } });
assert.match(String(given(csv)), /^id,name,email,.*\r?\n.*,Heap zero,/);

// Operations.
assert.equal(given(await api.live()).status, "live");
assert.equal(given(await api.ready()).status, "ready");
const pool = given(await api.pool());
assert.deepEqual([pool.state, pool.phase], ["up", "serving"]);
assert.ok(pool.limits.max >= pool.total && pool.total >= 1);
assert.match(given(await api.metrics()), /\n# TYPE /);
assert.match(String(given(await api.openapi())["openapi"]), /^3\.1/);

for (const id of [ann, bob, ...exported].flatMap((user) => user.id ?? [])) {
  assert.equal((await api.deleteUser({ path: { id } })).response.status, 204);
}
