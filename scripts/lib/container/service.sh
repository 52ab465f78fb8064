# Commands, the service on SQLite, its signals and exit codes, other users, memory. Part of `check`.

max_memory=$((128 * 1024 * 1024))

new_volume
run --version
expect "version" "users-api $(config '.config.Labels["org.opencontainers.image.version"]')" "$(cat "$work/output")"
status=0
(launch /bin/sh -c true) > "$work/output" 2>&1 || status=$?
check "/bin/sh" "exit code $status: $(tail -n 1 "$work/output")" [ "$status" -eq 127 ]
run config
check "config without a database" "exit code $status" [ "$status" -eq 0 ]

run keys generate
key=$(cat "$work/output")
# Mounted files belong to the user of the host; here to root, readable for the group of the image.
secret() { printf '%s\n' "$2" > "$secrets/$1" && chown "0:$group" "$secrets/$1" && chmod 0440 "$secrets/$1"; }
secret bootstrap_key "$key"
locked=("USERS_API__AUTH__BOOTSTRAP_KEY_FILE=/run/secrets/bootstrap_key")
printf 'Authorization: Bearer %s\n' "$key" > "$work/header"
authorization=(-H "@$work/header")
json=(-H 'content-type: application/json')
create() { code "${authorization[@]}" "${json[@]}" -d '{"name": "Ann", "email": "ann@example.com"}' "$url/users"; }

# SQLite, on a volume.
settings=("${locked[@]}")
run healthcheck --live
expect "health check, not running" 1 "$status"
start
if ready; then
    if [ "$mounts" = yes ]; then
        expect "read-only root" "ro, /data rw" "$(mount_mode /), /data $(mount_mode /data)"
        expect "process 1 in its namespace" 1 "$(field NSpid | awk '{ print $NF }')"
    else
        skip "read-only root" "mounts are not permitted here"
        skip "process 1 in its namespace" "namespaces are not permitted here"
    fi
    identity="uid $(field Uid | cut -d ' ' -f 1) gid $(field Gid | cut -d ' ' -f 1) groups [$(field Groups | xargs)]"
    expect "identity" "uid 10001 gid 10001 groups []" "$identity"
    expect "capabilities, no_new_privs" "0000000000000000 1" "$(field CapEff) $(field NoNewPrivs)"
    run healthcheck --live
    expect "health check --live, running" "0 live" "$status $(cat "$work/output")"
    run healthcheck
    expect "health check, running" "0 ready" "$status $(cat "$work/output")"
    expect "locked: without a key" 401 "$(code "$url/users")"
    invalid=${key%?}x
    [ "$invalid" != "$key" ] || invalid=${key%?}y
    expect "locked: with an invalid key" 401 "$(code -H "Authorization: Bearer $invalid" "$url/users")"
    expect "with the bootstrap key" "201 200" "$(create) $(code "${authorization[@]}" "$url/users")"
    expect "SQLite file" "users.db 600 10001" "$(find "$volume" -name users.db -printf '%f %m %U')"
    stop TERM
    expect "SIGTERM" 0 "$status"
fi
settings=("${locked[@]}" USERS_API__SERVER__DRAIN_DELAY=1500ms)
start
if ready; then
    expect "data after a restart" 1 "$(curl -s "${authorization[@]}" "$url/users" | jq length)"
    { printf '{"name": "Bob",'; sleep 1; printf ' "email": "bob@example.com"}'; } \
        | code -X POST -T - "${authorization[@]}" "${json[@]}" "$url/users" > "$work/slow" &
    slow=$!
    sleep 0.3
    { sleep 0.5; echo "$(code "$url/health/ready") $(code "${authorization[@]}" "$url/users")" > "$work/drain"; } &
    drain=$!
    stop TERM
    wait "$slow" "$drain" || true
    expect "SIGTERM: not ready, still serving" "503 200" "$(cat "$work/drain")"
    expect "SIGTERM: a request in flight" 201 "$(cat "$work/slow")"
    expect "SIGTERM: exit code" 0 "$status"
    check "SIGTERM: after drain_delay" "$elapsed_ms ms, of which drain_delay 1500 ms" [ "$elapsed_ms" -ge 1500 ]
fi
settings=("${locked[@]}")
start
if ready; then
    stop INT
    expect "SIGINT" 0 "$status"
fi

# Exit codes.
settings=(USERS_API__POOL__MAX=0)
# NAME CODE: how the service ended, and the beginning of its message
ends() { check "$1" "exit code $status: $(tail -n 1 "$work/output" | cut -c 1-72)" [ "$status" -eq "$2" ]; }
run
ends "invalid setting" 2
settings=(USERS_API__AUTH__MODE=off)
[ "$network" = private ] || settings+=(USERS_API__SERVER__HOST=0.0.0.0)
run
ends "0.0.0.0 without authentication" 2
settings=(USERS_API__AUTH__BOOTSTRAP_KEY_FILE=/run/secrets/missing)
run
ends "missing secret file" 2
settings=(DATABASE_URL=postgres://app@127.0.0.1:1/app USERS_API__POOL__ACQUIRE=30s)
start migrate
sleep 1.5
stop TERM
expect "SIGTERM to a waiting command" 4 "$status"
settings=("${locked[@]}")
if [ "$mounts" = yes ]; then
    mounted=-
    run
    ends "SQLite without a volume" 1
    mounted=$volume
else
    skip "SQLite without a volume" "mounts are not permitted here"
fi

# Any user of the group 0, as OpenShift chooses it.
new_volume
user=1000660000 group=0
secret bootstrap_key "$key"
start
if ready; then
    expect "another user of the group 0" "201, users.db of 1000660000" \
        "$(create), users.db of $(find "$volume" -name users.db -printf '%U')"
    stop TERM
    expect "another user: SIGTERM" 0 "$status"
fi
# Any other user: with a database server, nothing is written. `config` reads the working folder as the service does.
user=65532 group=65532 mounted=-
settings=()
run config
check "another user of another group" "exit code $status" [ "$status" -eq 0 ]
user=$image_user group=$image_group mounted=$volume
secret bootstrap_key "$key"

# Memory.
new_volume
limited=""
if mkdir "/sys/fs/cgroup/memory/$cgroup" 2>/dev/null; then
    memory=/sys/fs/cgroup/memory/$cgroup
    { echo "$max_memory" > "$memory/memory.limit_in_bytes"; } 2>/dev/null && limited="cgroup v1"
    peak=$memory/memory.max_usage_in_bytes kills=$memory/memory.oom_control
elif [ -f /sys/fs/cgroup/cgroup.controllers ] && mkdir "/sys/fs/cgroup/$cgroup" 2>/dev/null; then
    memory=/sys/fs/cgroup/$cgroup
    { echo +memory > /sys/fs/cgroup/cgroup.subtree_control; } 2>/dev/null || true
    { echo 0 > "$memory/memory.swap.max" && echo "$max_memory" > "$memory/memory.max"; } 2>/dev/null \
        && limited="cgroup v2"
    peak=$memory/memory.peak kills=$memory/memory.events
fi
[ -n "$limited" ] || memory=-
settings=("${locked[@]}" USERS_API__LIMITS__PER_CALLER=0)
start
if ready; then
    seq 1 20000 | sed 's/.*/{"name": "User &", "email": "user&@example.com"}/' > "$work/users.ndjson"
    ndjson=application/x-ndjson
    created=$(curl -s -X POST -T "$work/users.ndjson" "${authorization[@]}" -H "content-type: $ndjson" \
        "$url/users/bulk" | grep -c '"outcome":"created"' || true)
    exported=$(curl -s "${authorization[@]}" -H "accept: $ndjson" "$url/users/export" | wc -l || true)
    served=$(curl -s --parallel --parallel-max 50 -w '%{http_code}\n' -o /dev/null "${authorization[@]}" \
        "$url/users?limit=100#[1-2000]" 2> /dev/null | grep -c '^200$' || true)
    resident=$(field VmHWM)
    alive=$(code "$url/health/ready")
    stop TERM
    result="$created users imported, $exported exported, $served lists; resident peak $resident"
    if [ -n "$limited" ]; then
        result="$result; charged peak $(cat "$peak" 2>/dev/null || echo unknown) of $max_memory ($limited)"
        check "memory" "$result" [ "$alive$status$created" = 200020000 ]
        expect "memory: processes killed" 0 "$(awk '$1 == "oom_kill" { print $2 }' "$kills")"
    else
        check "memory, without a limit" "$result" [ "${resident% kB}" -lt $((max_memory / 1024)) ]
        skip "memory limit" "no cgroup can be created here"
    fi
fi
memory=-
