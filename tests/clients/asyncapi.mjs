// Validates the description of the live feed.
import { Parser } from "@asyncapi/parser";

const response = await fetch(`${process.env.USERS_API_URL}/asyncapi.json`);
const { document, diagnostics } = await new Parser().parse(await response.text());
const faults = diagnostics.filter(({ severity }) => severity <= 1);
for (const { code, path, message } of faults) console.log(`asyncapi: ${code} ${path.join(".")}: ${message}`);
process.exitCode = document && !faults.length ? 0 : 1;
