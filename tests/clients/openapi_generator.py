"""Calls every operation with the Python client that openapi-generator generates from the OpenAPI document."""

import csv
import json
import os
from datetime import datetime
from uuid import UUID, uuid4

import users_api
from users_api.models import (
    BulkLine,
    BulkOutcome,
    ExportedUser,
    Phase,
    PoolState,
    Problem,
    ProblemCode,
    User,
    UserDraft,
    UserField,
    UserPatch,
    UserSort,
)

configuration = users_api.Configuration(host=os.environ["USERS_API_URL"], access_token=os.environ["USERS_API_KEY"])
client = users_api.ApiClient(configuration)
users, operations = users_api.UsersApi(client), users_api.OperationsApi(client)


def problem(call, *arguments, **named) -> Problem:
    """Returns the problem with which a call fails."""
    try:
        answer = call(*arguments, **named)
    except users_api.ApiException as error:
        assert isinstance(error.data, Problem), error
        assert error.data.status == error.status, error
        return error.data
    raise AssertionError(f"no problem, but {answer}")


def email(name: str) -> str:
    return f"{name}@openapi-generator.example"


# One user.
key = f'"{uuid4()}"'
created = users.create_user_with_http_info(UserDraft(name="Generated Ann", email=email("ann")), idempotency_key=key)
ann = created.data
assert created.status_code == 201 and created.headers["etag"] == '"1"' and created.headers["x-request-id"]
assert isinstance(ann, User) and isinstance(ann.id, UUID) and isinstance(ann.created_at, datetime) and ann.version == 1
again = users.create_user_with_http_info(UserDraft(name="Generated Ann", email=email("ann")), idempotency_key=key)
assert again.data == ann and again.headers["idempotency-replayed"] == "true"
assert users.get_user(ann.id) == ann
bob = users.create_user(UserDraft(name="Generated Bob", email="bob@bücher.example"))
assert bob.email == "bob@bücher.example", "an email may contain letters outside ASCII"

ann = users.replace_user(ann.id, UserDraft(name="Generated Anna", email=email("anna")), if_match='"1"')
assert (ann.name, ann.email, ann.version) == ("Generated Anna", email("anna"), 2)
ann = users.patch_user(ann.id, UserPatch(name="Generated Ann"), if_match='"2"')
assert (ann.name, ann.email, ann.version) == ("Generated Ann", email("anna"), 3)

# Requests that are refused.
assert problem(users.patch_user, ann.id, UserPatch(name="X"), if_match='"1"').code == ProblemCode.PRECONDITION_MINUS_FAILED
assert problem(users.create_user, UserDraft(name="X", email=email("anna"))).code == ProblemCode.EMAIL_MINUS_TAKEN
assert problem(users.get_user, uuid4()).code == ProblemCode.USER_MINUS_NOT_MINUS_FOUND
invalid = problem(users.create_user, UserDraft(name="X", email="nobody"))
assert invalid.code == ProblemCode.VALIDATION_MINUS_FAILED
assert [(fault.pointer, fault.code) for fault in invalid.errors] == [("/email", "malformed")]

# Lists.
found = users.list_users(name="generated", sort=UserSort.MINUS_NAME, created_after=ann.created_at.replace(year=2000))
assert [(type(user), user.email) for user in found] == [(User, bob.email), (User, ann.email)]
assert [user.id for user in users.list_users(ids=[ann.id, bob.id], limit=1)] == [ann.id]
assert [user.id for user in users.list_users(email="BOB@bücher.example")] == [bob.id]
page = users.list_users_with_http_info(q="generated", limit=1, count="exact")
assert page.headers["x-total-count"] == "2" and 'rel="next"' in page.headers["link"]
cursor = page.headers["link"].split("cursor=")[1].split(">")[0]
assert [user.id for user in users.list_users(q="generated", limit=1, cursor=cursor)] == [bob.id]
# A user with a selection of fields is not a `User`, so the response is parsed by hand.
part = users.list_users_without_preload_content(ids=[ann.id], fields=[UserField.NAME, UserField.VERSION])
assert json.loads(part.read()) == [{"name": "Generated Ann", "version": 3}]

# Many users.
rows = "".join(json.dumps({"name": f"Row {n}", "email": email(f"row{n % 2}")}) + "\n" for n in range(3))
lines = [BulkLine.from_json(line) for line in users.write_users(rows).splitlines()]
assert [line.outcome for line in lines] == [BulkOutcome.CREATED, BulkOutcome.CREATED, BulkOutcome.REFUSED]
assert isinstance(lines[0].id, UUID) and lines[2].problem.code == ProblemCode.EMAIL_MINUS_TAKEN
rows = f"name,email\nRow zero,{email('row0')}\n"
(line,) = users.write_users(rows, mode="upsert", if_match="*", _content_type="text/csv").splitlines()
assert BulkLine.from_json(line).outcome == BulkOutcome.UPDATED

lines = users.export_users(name="row", cursors=True).splitlines()
exported = [ExportedUser.from_json(line) for line in lines]
assert [user.name for user in exported] == ["Row zero", "Row 1"] and exported[0].cursor
rest = users.export_users(name="row", cursor=exported[0].cursor).splitlines()
assert [ExportedUser.from_json(line).id for line in rest] == [exported[1].id]
csv_export = users.export_users_without_preload_content(name="row", _headers={"Accept": "text/csv"}).read().decode()
assert [row["email"] for row in csv.DictReader(csv_export.splitlines())] == [email("row0"), email("row1")]

# Operations.
assert operations.live().status == "live" and operations.ready().status == "ready"
pool = operations.pool()
assert pool.state == PoolState.UP and pool.phase == Phase.SERVING and pool.limits.max >= pool.total >= 1
assert "\n# TYPE " in operations.metrics()
assert operations.openapi()["openapi"].startswith("3.1")

for user in (ann.id, bob.id, *(user.id for user in exported)):
    assert users.delete_user_with_http_info(user).status_code == 204
