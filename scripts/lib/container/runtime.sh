# Running the image, as a runtime does: its configuration, a read-only root, no privileges, as process 1. Part of `check`.

mounts=no
[ -z "$namespaces" ] || mounts=yes
mkdir -p "$root/proc" "$root/dev" "$root/sys" "$root/run/secrets"
touch "$root/etc/hosts" "$root/etc/resolv.conf" "$root/dev/null" "$root/dev/zero" "$root/dev/random" "$root/dev/urandom"
echo "127.0.0.1 localhost" > "$root/etc/hosts"
cp -a "$root/data" "$work/data"
volume=$root/data secrets=$root/run/secrets
if [ "$mounts" = yes ]; then
    volume=$work/volume secrets=$work/secrets
    mkdir "$secrets"
fi
# An empty volume. It gets the owner and mode of the folder in the image, as in Docker.
new_volume() { rm -rf "$volume" && cp -a "$work/data" "$volume"; }

# The next runs: settings (NAME=VALUE), user and group, and the volume or `-`.
IFS=: read -r image_user image_group <<< "$(config .config.User)"
settings=() user=$image_user group=${image_group:=$image_user} mounted=$volume memory=-
mapfile -t image_env < <(config '.config.Env[]')
port=8080 pg_port=5432
free_port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
if [ "$network" = shared ]; then
    port=$(free_port)
    pg_port=$(free_port)
    image_env+=("USERS_API__SERVER__HOST=127.0.0.1" "USERS_API__SERVER__PORT=$port")
fi
url=http://127.0.0.1:$port
# In a subshell, which becomes the process.
new_namespaces=()
[ "$mounts" = no ] || new_namespaces=(unshare --mount --pid --fork --kill-child)
directory=$(config .config.WorkingDir) setpriv=$(command -v setpriv) unshare=$(command -v unshare)
export ROOT=$root MOUNTS=$mounts SECRETS=$secrets
ENV=$(command -v env)
export ENV
# Starts no other process: the first child is the one in the image.
launch() {
    exec "${new_namespaces[@]}" scripts/lib/container/launch "$mounted" "$memory" "${image_env[@]}" "${settings[@]}" \
        "$setpriv" --no-new-privs "$unshare" --root "$root" --wd "$directory" --setgid "$group" --setuid "$user" "$@"
}
entry=$(config '.config.Entrypoint[0]')
# Runs a command of the binary to its end: its exit code in $status, its output in $work/output.
run() { status=0; (launch "$entry" "$@") > "$work/output" 2>&1 || status=$?; }
# Starts the service; $process is process 1 of its namespace, $work/log its output.
start() {
    launch "$entry" "$@" > "$work/log" 2>&1 &
    runner=$! process=$!
    if [ "$mounts" = yes ]; then
        process=""
        while [ -z "$process" ] && kill -0 "$runner" 2>/dev/null; do
            read -r process < "/proc/$runner/task/$runner/children" || sleep 0.02
        done
    fi
}
code() { curl -s -o /dev/null -w '%{http_code}' --max-time 10 "$@" || true; }
# Waits until the service is ready or has ended.
ready() {
    for _ in $(seq 1 300); do
        [ "$(code "$url/health/ready")" != 200 ] || return 0
        kill -0 "$runner" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$runner" 2>/dev/null || true
    fail "start" "$(tail -n 1 "$work/log" | cut -c 1-200)"
    return 1
}
# Stops it with a signal: its exit code in $status, the time in $elapsed_ms.
stop() {
    local began
    began=$(date +%s%3N)
    kill -s "${1:-TERM}" "$process" 2>/dev/null || kill -KILL "$runner" 2>/dev/null || true
    status=0
    wait "$runner" || status=$?
    elapsed_ms=$(($(date +%s%3N) - began))
}
# Of process 1: whether the mount of a folder is `ro` or `rw`
mount_mode() { awk -v folder="$1" '$5 == folder { print substr($6, 1, 2) }' "/proc/$process/mountinfo" | tail -n 1; }
field() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$process/status" | tr '\t' ' '; }
[ "$network" = shared ] || ip link set lo up
