// A stream of server-sent events that can carry an API key, which EventSource cannot.

import { authorized, failure, keys, url } from "./api.js";

// Four frames a second are expected; after this silence the response counts as dead.
const SILENCE_MS = 10_000;
// Maximum length of a line. A faulty response must not exhaust the memory.
const BUFFER_LIMIT = 4_000_000;

// Events: "frame" (detail: the parsed data), "state" (detail: "connecting", "open" or "closed") and
// "unauthorized" (detail: the error, with `status` and `problem`; the stream waits for another key).
export class LiveStream extends EventTarget {
  #path;
  #eventName;
  #running = false;
  #state = "closed";
  #abort = null;
  #timer = 0;
  #refused = false;
  #onVisibility = () => (document.hidden ? this.#disconnect() : this.#connect());
  #onKey = () => {
    this.#refused = false;
    this.#disconnect();
    this.#connect();
  };

  constructor(path, eventName) {
    super();
    this.#path = path;
    this.#eventName = eventName;
  }

  get state() {
    return this.#state;
  }

  start() {
    if (this.#running) return;
    this.#running = true;
    document.addEventListener("visibilitychange", this.#onVisibility);
    keys.addEventListener("change", this.#onKey);
    this.#connect();
  }

  stop() {
    this.#running = false;
    document.removeEventListener("visibilitychange", this.#onVisibility);
    keys.removeEventListener("change", this.#onKey);
    this.#disconnect();
  }

  #setState(state) {
    if (this.#state === state) return;
    this.#state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }

  #disconnect() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#abort?.abort();
    this.#abort = null;
    this.#setState("closed");
  }

  async #connect() {
    if (!this.#running || this.#abort || this.#refused || document.hidden) return;
    clearTimeout(this.#timer);
    const abort = (this.#abort = new AbortController());
    this.#setState("connecting");
    try {
      await this.#read(abort);
    } catch (error) {
      if (this.#abort === abort && (error.status === 401 || error.status === 403)) {
        this.#refused = true;
        this.dispatchEvent(new CustomEvent("unauthorized", { detail: error }));
      }
    }
    // If another connection has been started, this one must not change the state.
    if (this.#abort !== abort) return;
    this.#disconnect();
    // Random, so that the pages that lost a server together do not all return together.
    if (this.#running && !this.#refused) this.#timer = setTimeout(() => this.#connect(), 1000 + Math.random() * 1000);
  }

  async #read(abort) {
    let watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const headers = authorized({ Accept: "text/event-stream" });
      const response = await fetch(url(this.#path), { headers, cache: "no-store", signal: abort.signal });
      if (!response.ok) throw await failure(response);
      this.#setState("open");
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      const parser = new Parser((name, data) => this.#dispatch(name, data));
      for (;;) {
        const { done, value } = await reader.read();
        if (done || this.#abort !== abort) return;
        clearTimeout(watchdog);
        watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
        parser.push(decoder.decode(value, { stream: true }));
      }
    } finally {
      clearTimeout(watchdog);
      abort.abort();
    }
  }

  #dispatch(name, data) {
    if (name !== this.#eventName) return;
    let detail;
    try {
      detail = JSON.parse(data);
    } catch {
      return;
    }
    this.dispatchEvent(new CustomEvent("frame", { detail }));
  }
}

// The subset of the event stream format that the service uses: "event", "data", comments, and LF or CR LF.
class Parser {
  #emit;
  #buffer = "";
  #event = "";
  #data = [];

  constructor(emit) {
    this.#emit = emit;
  }

  push(text) {
    this.#buffer += text;
    let start = 0;
    for (let end; (end = this.#buffer.indexOf("\n", start)) >= 0; start = end + 1) {
      this.#line(this.#buffer.slice(start, this.#buffer[end - 1] === "\r" && end > start ? end - 1 : end));
    }
    this.#buffer = this.#buffer.slice(start);
    if (this.#buffer.length > BUFFER_LIMIT) throw new Error("a line of the stream is too long");
  }

  #line(line) {
    if (line === "") {
      if (this.#data.length > 0) this.#emit(this.#event || "message", this.#data.join("\n"));
      this.#event = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
  }
}
