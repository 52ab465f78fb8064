"""Calls every operation with the client that openapi-python-client generates from the OpenAPI document."""

import csv
import json
import os
from datetime import datetime
from uuid import UUID, uuid4

from users_api_client import AuthenticatedClient
from users_api_client.api.operations import live, metrics, openapi, pool, ready
from users_api_client.api.users import (
    create_user,
    delete_user,
    export_users,
    get_user,
    list_users,
    patch_user,
    replace_user,
)
from users_api_client.models import (
    BulkLine,
    BulkOutcome,
    ExportedUser,
    Health,
    ListUsersCount,
    Phase,
    PoolReport,
    PoolState,
    Problem,
    ProblemCode,
    User,
    UserDraft,
    UserField,
    UserPatch,
    UserSort,
)

access = {"base_url": os.environ["USERS_API_URL"], "token": os.environ["USERS_API_KEY"]}
client = AuthenticatedClient(**access, raise_on_unexpected_status=True)


def created(draft: UserDraft, **headers: str) -> User:
    user = create_user.sync(client=client, body=draft, **headers)
    assert isinstance(user, User), user
    return user


def code(answer) -> ProblemCode:
    assert isinstance(answer, Problem), answer
    return answer.code


def email(name: str) -> str:
    return f"{name}@openapi-python-client.example"


# One user.
key = f'"{uuid4()}"'
ann = created(UserDraft(name="Typed Ann", email=email("ann")), idempotency_key=key)
assert isinstance(ann.id, UUID) and isinstance(ann.created_at, datetime) and ann.version == 1
again = create_user.sync_detailed(client=client, body=UserDraft(name="Typed Ann", email=email("ann")), idempotency_key=key)
assert again.status_code == 201 and again.parsed == ann and again.headers["Idempotency-Replayed"] == "true"
read = get_user.sync_detailed(ann.id, client=client)
assert read.parsed == ann and read.headers["ETag"] == '"1"' and read.headers["X-Request-Id"]
bob = created(UserDraft(name="Typed Bob", email=email("bob")))

ann = replace_user.sync(ann.id, client=client, body=UserDraft(name="Typed Anna", email=email("anna")), if_match='"1"')
assert isinstance(ann, User) and (ann.name, ann.email, ann.version) == ("Typed Anna", email("anna"), 2)
ann = patch_user.sync(ann.id, client=client, body=UserPatch(name="Typed Ann"), if_match='"2"')
assert isinstance(ann, User) and (ann.name, ann.email, ann.version) == ("Typed Ann", email("anna"), 3)

# Requests that are refused.
stale = patch_user.sync(ann.id, client=client, body=UserPatch(name="X"), if_match='"1"')
assert code(stale) is ProblemCode.PRECONDITION_FAILED
taken = create_user.sync(client=client, body=UserDraft(name="X", email=email("anna")))
assert code(taken) is ProblemCode.EMAIL_TAKEN
assert code(get_user.sync(uuid4(), client=client)) is ProblemCode.USER_NOT_FOUND
invalid = create_user.sync(client=client, body=UserDraft(name="X", email="nobody"))
assert code(invalid) is ProblemCode.VALIDATION_FAILED
assert [(fault.pointer, fault.code) for fault in invalid.errors] == [("/email", "malformed")]

# Lists.
found = list_users.sync(client=client, name="typed", sort=UserSort("-name"), created_after=ann.created_at.replace(year=2000))
assert [(type(user), user.email) for user in found] == [(User, bob.email), (User, ann.email)]
assert [user.id for user in list_users.sync(client=client, ids=[ann.id, bob.id], limit=1)] == [ann.id]
assert [user.id for user in list_users.sync(client=client, email=email("BOB"))] == [bob.id]
page = list_users.sync_detailed(client=client, q="typed", limit=1, count=ListUsersCount.EXACT)
assert page.headers["X-Total-Count"] == "2" and 'rel="next"' in page.headers["Link"]
cursor = page.headers["Link"].split("cursor=")[1].split(">")[0]
assert [user.id for user in list_users.sync(client=client, q="typed", limit=1, cursor=cursor)] == [bob.id]
# A user with a selection of fields is not a `User`, so the response is parsed by hand.
http = client.get_httpx_client()
part = http.get("/users", params={"ids": str(ann.id), "fields": f"{UserField.NAME},{UserField.VERSION}"})
assert part.json() == [{"name": "Typed Ann", "version": 3}]

# Many users. The generator supports only JSON and form bodies and omits this operation, so the request is sent by hand.
rows = "".join(json.dumps({"name": f"Line {n}", "email": email(f"row{n % 2}")}) + "\n" for n in range(3))
answer = http.post("/users/bulk", content=rows, headers={"Content-Type": "application/x-ndjson"})
lines = [BulkLine.from_dict(json.loads(line)) for line in answer.text.splitlines()]
assert [line.outcome for line in lines] == [BulkOutcome.CREATED, BulkOutcome.CREATED, BulkOutcome.REFUSED]
assert isinstance(lines[0].id, UUID) and code(lines[2].problem) is ProblemCode.EMAIL_TAKEN
rows, csv_type = f"name,email\nLine zero,{email('row0')}\n", {"Content-Type": "text/csv", "If-Match": "*"}
answer = http.post("/users/bulk", params={"mode": "upsert"}, content=rows, headers=csv_type)
assert BulkLine.from_dict(answer.json()).outcome is BulkOutcome.UPDATED

text = export_users.sync(client=client, name="line", cursors=True)
exported = [ExportedUser.from_dict(json.loads(line)) for line in text.splitlines()]
assert [user.name for user in exported] == ["Line zero", "Line 1"] and exported[0].cursor
text = export_users.sync(client=client, name="line", cursor=exported[0].cursor)
assert [ExportedUser.from_dict(json.loads(line)).id for line in text.splitlines()] == [exported[1].id]
text = export_users.sync(client=AuthenticatedClient(**access, headers={"Accept": "text/csv"}), name="line")
assert [row["email"] for row in csv.DictReader(text.splitlines())] == [email("row0"), email("row1")]

# Operations.
for operation, status in ((live, "live"), (ready, "ready")):
    health = operation.sync(client=client)
    assert isinstance(health, Health) and health.status == status
report = pool.sync(client=client)
assert isinstance(report, PoolReport) and report.state is PoolState.UP and report.phase is Phase.SERVING
assert report.limits.max_ >= report.total >= 1
assert "\n# TYPE " in metrics.sync(client=client)
assert openapi.sync(client=client)["openapi"].startswith("3.1")

for user in (ann, bob, *exported):
    assert delete_user.sync_detailed(user.id, client=client).status_code == 204
