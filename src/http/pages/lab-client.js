// The lab's access to the demo: its stream, the frames of the pool, and the requests that change something.
import { request } from "./api.js";
import { LiveStream } from "./stream.js";

// Emits `demo` for each document of the demo, and `pool` for each frame of the pool; `detail` is the data.
export class DemoClient extends EventTarget {
  demo = null;
  pool = null;

  constructor(pool) {
    super();
    pool.addEventListener("frame", (event) => {
      this.pool = event.detail;
      this.dispatchEvent(new CustomEvent("pool", { detail: event.detail }));
    });
    this.stream = new LiveStream("demo/live", "demo");
    this.stream.addEventListener("frame", (event) => this.#received(event.detail));
    this.stream.start();
  }

  patch(settings, options) {
    return this.#send("PATCH", "demo", settings, options);
  }

  outage(seconds) {
    return this.#send("PUT", "demo/outage", { seconds });
  }

  slowStatement(seconds) {
    return this.#send("POST", "demo/slow-statement", { seconds });
  }

  async #send(method, path, body, options = {}) {
    const answer = await request(path, { ...options, method, body });
    // The answer is the new document: the page need not wait for the next frame.
    if (answer?.settings) this.#received(answer);
    return answer;
  }

  #received(detail) {
    this.demo = detail;
    this.dispatchEvent(new CustomEvent("demo", { detail }));
  }
}

// The text to show for an error of a request: the reason of a field if there is one, otherwise the detail.
export function errorText(error, field) {
  const problem = error.problem ?? {};
  const reason = problem.errors?.find((entry) => entry.pointer === `/${field}`);
  if (reason) return reason.message;
  if (problem.detail) return problem.detail;
  return error.status ? `The server answers ${error.status}.` : "The server cannot be reached.";
}
