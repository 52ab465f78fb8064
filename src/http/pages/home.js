// Shows the readiness of the service on the home page.

import { request } from "./api.js";

const text = document.getElementById("ready");
const mark = document.getElementById("ready-mark");

try {
  await request("health/ready");
  text.textContent = "The service is ready.";
  mark.dataset.state = "up";
} catch (error) {
  text.textContent = error.status > 0 ? `The service is not ready: ${error.message}` : error.message;
  mark.dataset.state = "down";
}
