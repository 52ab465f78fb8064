// The page is served one level below the API, under whatever prefix a proxy adds.
const api = new URL("..", window.location.href);

// Requests go to where this page came from.
const ServersOfThisPage = {
  statePlugins: {
    spec: {
      wrapActions: {
        updateJsonSpec: (update) => (spec) => update({ ...spec, servers: [{ url: api.href.replace(/\/$/, "") }] }),
      },
    },
  },
};

// Swagger UI treats any media type with "json" in its name as JSON, and would quote an example of several lines.
const PlainNdjson = {
  afterLoad({ fn }) {
    const samples = fn.jsonSchema202012;
    const original = samples.getJsonSampleSchema;
    samples.getJsonSampleSchema = (schema, config, mediaType, example) =>
      /ndjson/.test(mediaType) && typeof example === "string" ? example : original(schema, config, mediaType, example);
  },
};

window.ui = SwaggerUIBundle({
  url: new URL("openapi.json", api).href,
  dom_id: "#swagger-ui",
  deepLinking: true,
  // The default sends the document to a validator on the internet.
  validatorUrl: "none",
  tryItOutEnabled: true,
  // A key that was entered once is kept by this browser until it is logged out.
  persistAuthorization: true,
  displayRequestDuration: true,
  layout: "BaseLayout",
  plugins: [ServersOfThisPage, PlainNdjson],
});
