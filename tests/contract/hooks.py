"""What a client has to do that the document cannot say."""

import json
import re
import unicodedata
import uuid

import jsonschema_rs
import schemathesis

# As in the document.
KEY = re.compile(r'''"(?:[ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--:<-\[\]-~]{1,255}''')


FIELDS = {"id", "name", "email", "version", "createdAt", "updatedAt"}
NAME = re.compile(r"(?=.*\S)[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")


def is_visible(name):
    """Whether a name has a letter, a number, punctuation or a symbol. A pattern without property escapes cannot say so."""
    return any(unicodedata.category(character)[0] in "LNPS" for character in name)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Takes a new key for each request: the same one stands for the same request. Takes a name that can be seen."""
    name = case.body.get("name") if isinstance(case.body, dict) else None
    if isinstance(name, str) and NAME.fullmatch(name) and not is_visible(name):
        case.body["name"] = "A"
    # Users of an answer with `fields` lack the others, whatever the document requires of a user.
    fields = (case.query or {}).get("fields")
    fields = fields.split(",") if isinstance(fields, str) else fields
    if case.path == "/users" and isinstance(fields, list) and all(isinstance(it, str) and it in FIELDS for it in fields):
        del case.query["fields"]
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and KEY.fullmatch(key):
        case.headers["Idempotency-Key"] = f'"{uuid.uuid4()}"'


@schemathesis.serializer("application/x-ndjson")
def rows(context, value):
    """A row that is right, and what was made up, which hardly ever is one."""
    if isinstance(value, bytes):
        return value
    text = str(value)
    row = json.dumps({"name": text, "email": f"{uuid.uuid4()}@example.com"})
    return f"{row}\n{text}\n".encode("utf-8", "surrogatepass")


@schemathesis.deserializer("application/x-ndjson")
def text(context, response):
    """A text of many lines."""
    return response.content.decode("utf-8")


@schemathesis.hook
def after_call(context, case, response):
    """Each line has a separate schema, which the document cannot refer to from the text."""
    if (response.headers.get("content-type") or [""])[0] != "application/x-ndjson":
        return
    names = {"/users/export": ["ExportedUser"], "/users/changes": ["UserEvent"]}.get(case.path, ["BulkLine", "BulkSummary"])
    components = case.operation.schema.raw_schema["components"]
    schema = {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in names], "components": components}
    lines = jsonschema_rs.validator_for(schema)
    for line in response.content.decode("utf-8").splitlines():
        lines.validate(json.loads(line))
