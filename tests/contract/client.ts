// What a client does, by the types that the document gives.
import createClient from "openapi-fetch";
import type { components, paths } from "./openapi";

export type User = components["schemas"]["User"];
export type Problem = components["schemas"]["Problem"];
type Query = NonNullable<paths["/users"]["get"]["parameters"]["query"]>;

const client = createClient<paths>({ baseUrl: "http://localhost:8080" });

export async function create(name: string, email: string, key: string): Promise<User | Problem> {
  const header = { "Idempotency-Key": JSON.stringify(key) };
  const { data, error } = await client.POST("/users", { params: { header }, body: { name, email } });
  return data ?? error;
}

export async function rename(id: string, name: string): Promise<User> {
  const read = await client.GET("/users/{id}", { params: { path: { id } } });
  if (read.error) throw new Error(read.error.code);
  const header = { "If-Match": read.response.headers.get("etag") ?? "*" };
  const written = await client.PATCH("/users/{id}", { params: { path: { id }, header }, body: { name } });
  if (written.error) throw new Error(written.error.code);
  return written.data;
}

export async function namesOfFirst(limit: number): Promise<string[]> {
  const { data, error } = await client.GET("/users", { params: { query: { limit } } });
  if (error) throw new Error(`${error.code}: ${error.errors?.map((fault) => fault.message).join(", ")}`);
  // What `fields` leaves out is not there.
  return data.flatMap((user) => user.name ?? []);
}

export async function idsByName(prefix: string): Promise<string[]> {
  const query: Query = { name: prefix, sort: "-name", fields: ["id", "name"], count: "estimated" };
  const { data } = await client.GET("/users", { params: { query } });
  return data?.flatMap((user) => user.id ?? []) ?? [];
}

export async function importRows(rows: string): Promise<Response> {
  const query = { mode: "upsert", dryRun: false } as const;
  const headers = { "Content-Type": "application/x-ndjson" };
  const written = await client.POST("/users/bulk", {
    params: { query }, body: rows, headers, bodySerializer: (text) => text, parseAs: "stream",
  });
  return written.response;
}

export async function cursorsOf(line: string): Promise<string | undefined> {
  const user: components["schemas"]["ExportedUser"] = JSON.parse(line);
  return user.cursor;
}

export async function remove(id: string): Promise<boolean> {
  const { response } = await client.DELETE("/users/{id}", { params: { path: { id } } });
  return response.status === 204;
}
