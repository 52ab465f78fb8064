"""Keeps a copy of all users correct, and prints each change. Needs only the standard library of Python 3."""
import http.client, json, os, random, signal, sys, time, urllib.error, urllib.request

URL = os.environ.get("USERS_API_URL", "http://127.0.0.1:8080")
KEY = os.environ.get("USERS_API_KEY")
users, position = {}, None


def get(path):
    headers = {"accept": "application/x-ndjson"} | ({"authorization": f"Bearer {KEY}"} if KEY else {})
    # The feed sends an empty line after 15 s without events, so a longer silence means that the connection is lost.
    return urllib.request.urlopen(urllib.request.Request(URL + path, headers=headers), timeout=45)


def load():
    global users, position
    with get("/users/export") as response:
        # read() fails if the response is incomplete. Reading line by line would not.
        users = {user["id"]: user for user in map(json.loads, response.read().splitlines())}
        position = response.headers["feed-position"]
    print(f"{len(users)} users", flush=True)


def apply(event):
    user = event["data"]
    if user["version"] <= users.get(user["id"], {"version": 0})["version"]:
        return
    # The earlier events of a user who has been deleted have no values either.
    if event["type"] == "user.deleted" or "email" not in user:
        users.pop(user["id"], None)
    else:
        users[user["id"]] = user
    print(event["type"], json.dumps(user), flush=True)


def follow():
    global position
    with get(f"/users/changes?live=true&after={position}") as response:
        for line in response:
            if line.endswith(b"}\n"):  # neither empty nor incomplete
                event = json.loads(line)
                apply(event)
                position = event["position"]


signal.signal(signal.SIGINT, lambda *_: sys.exit())
while True:
    try:
        if position is None:
            load()
        follow()
    except (OSError, http.client.HTTPException) as error:
        print(error, file=sys.stderr)
        status = getattr(error, "code", None)
        if status in (401, 403):  # another attempt is useless
            sys.exit(1)
        if status == 410:  # the position is gone
            position = None
    time.sleep(random.uniform(1, 3))
