# The service on PostgreSQL with TLS, and all secrets from files. Part of `check`, after service.sh, which generates the
# key.

postgres=$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -n 1)
as_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
authority() {
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$1" -keyout "$work/$1.key" -out "$work/$1.pem" \
        2>/dev/null
}
authority ca
authority other
openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout "$work/server.key" -out "$work/server.csr" 2>/dev/null
openssl x509 -req -in "$work/server.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
    -extfile <(echo 'subjectAltName = DNS:localhost') -out "$work/server.pem" 2>/dev/null
password="p@ss/$(openssl rand -hex 8)" cursor=$(openssl rand -hex 32)
install -d -o postgres -g postgres -m 0700 "$work/pg"
install -o postgres -g postgres -m 0600 "$work/server.key" "$work/server.pem" "$work/pg"
as_postgres "$postgres/initdb" -D "$work/pg/data" --no-sync --encoding=UTF8 --locale=C -A trust > /dev/null
echo "local all all trust
hostssl app app 127.0.0.1/32 scram-sha-256" > "$work/pg/data/pg_hba.conf"
trap 'as_postgres "$postgres/pg_ctl" -D "$work/pg/data" -m immediate stop > /dev/null 2>&1 || true' EXIT
cat >> "$work/pg/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $pg_port
unix_socket_directories = '$work/pg'
ssl = on
ssl_cert_file = '$work/pg/server.pem'
ssl_key_file = '$work/pg/server.key'
CONF
start_postgres() { (cd / && as_postgres "$postgres/pg_ctl" -D "$work/pg/data" -l "$work/pg/log" -w start) > /dev/null; }
start_postgres
sql() { (cd / && as_postgres psql -h "$work/pg" -p "$pg_port" -AtqX "$@"); }
sql -d postgres -c "create role app login password '$password'" -c "create database app owner app"

secret database_url "postgres://app@localhost:$pg_port/app?sslmode=verify-full&sslrootcert=/run/secrets/ca.pem"
secret database_password "$password"
secret cursor_key "$cursor"
secret ca.pem "$(cat "$work/ca.pem")"
mounted=-
settings=("${locked[@]}" DATABASE_URL_FILE=/run/secrets/database_url
    USERS_API__DATABASE__PASSWORD_FILE=/run/secrets/database_password
    USERS_API__USERS__CURSOR_KEY_FILE=/run/secrets/cursor_key)
: > "$work/outputs"
start
if ready; then
    expect "PostgreSQL, verified TLS" "201 TLSv1.3" "$(create) $(sql -d app -c "select distinct s.version
        from pg_stat_ssl s join pg_stat_activity a using (pid) where a.usename = 'app'")"
    as_postgres "$postgres/pg_ctl" -D "$work/pg/data" -m fast -w stop > /dev/null
    sleep 1
    run healthcheck --live
    live=$status
    run healthcheck
    expect "health checks in an outage" "live 0, ready 1" "live $live, ready $status"
    start_postgres
    stop TERM
    expect "PostgreSQL: SIGTERM" 0 "$status"
    cat "$work/log" >> "$work/outputs"
fi
run config
cat "$work/output" >> "$work/outputs"
# The URL has no secret and is shown; the password and two keys are not.
hidden=$(grep -c ' = \*\*\*' "$work/output" || true)
expect "secrets from four files" "exit code 0, 3 hidden by config" "exit code $status, $hidden hidden by config"
secret ca.pem "$(cat "$work/other.pem")"
settings+=(USERS_API__POOL__ACQUIRE=2s)
run
cat "$work/output" >> "$work/outputs"
reason=$(grep -o 'invalid peer certificate: [A-Za-z]*' "$work/output" | tail -n 1)
check "another authority" "exit code $status: $reason" [ "$status" -eq 1 ]
leaked=0
for value in "$password" "$cursor" "${key##*_}"; do
    ! grep -qF -- "$value" "$work/outputs" || leaked=$((leaked + 1))
done
expect "secrets in the log and in config" 0 "$leaked"
