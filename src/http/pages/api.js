// Requests to the service, and the API key that they carry.

const STORAGE = "users-api.key";

// Dispatches "change" when a key is entered or forgotten.
export const keys = new EventTarget();

// sessionStorage can be disabled; then the key lives as long as the page.
let memory = null;

export function getKey() {
  try {
    return sessionStorage.getItem(STORAGE) ?? memory;
  } catch {
    return memory;
  }
}

export function setKey(key) {
  memory = key;
  try {
    if (key === null) sessionStorage.removeItem(STORAGE);
    else sessionStorage.setItem(STORAGE, key);
  } catch {
    // The copy in memory is used.
  }
  keys.dispatchEvent(new Event("change"));
}

export function clearKey() {
  setKey(null);
}

// The pages work behind any path prefix, so every URL is relative to the document.
export function url(path) {
  return path.replace(/^\/+/, "");
}

export function authorized(headers = {}) {
  const result = new Headers(headers);
  const key = getKey();
  if (key !== null && !result.has("Authorization")) result.set("Authorization", `Bearer ${key}`);
  return result;
}

// Turns a response that is not a success into an Error with `status` and `problem`.
export async function failure(response) {
  let problem = null;
  if ((response.headers.get("Content-Type") ?? "").includes("json")) {
    problem = await response.json().catch(() => null);
  }
  const error = new Error(problem?.detail ?? problem?.title ?? `${response.status} ${response.statusText}`.trim());
  error.status = response.status;
  error.problem = problem;
  return error;
}

// Resolves to the JSON document of the response, or null if it has none. A body that is an object is sent as JSON.
export async function request(path, options = {}) {
  const headers = authorized(options.headers);
  if (!headers.has("Accept")) headers.set("Accept", "application/json");
  let { body } = options;
  if (body !== undefined && body !== null && typeof body !== "string") {
    body = JSON.stringify(body);
    if (!headers.has("Content-Type")) headers.set("Content-Type", "application/json");
  }
  let response;
  try {
    response = await fetch(url(path), { cache: "no-store", ...options, headers, body });
  } catch (cause) {
    if (cause?.name === "AbortError") throw cause;
    const error = new Error("The service does not respond.", { cause });
    error.status = 0;
    error.problem = null;
    throw error;
  }
  if (!response.ok) throw await failure(response);
  const text = await response.text();
  return text === "" ? null : JSON.parse(text);
}
