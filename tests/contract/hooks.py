"""What a client has to do that the document cannot say."""

import re
import uuid

import schemathesis

# As in the document.
KEY = re.compile(r'''"(?:[ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--:<-\[\]-~]{1,255}''')


@schemathesis.hook
def before_call(context, case, kwargs):
    """Takes a new key for each request: the same one stands for the same request."""
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and KEY.fullmatch(key):
        case.headers["Idempotency-Key"] = f'"{uuid.uuid4()}"'
