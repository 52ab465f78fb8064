# What the image consists of: configuration, files, the binary, licences. Part of `check`.

max_bytes=40000000

bytes=$(tar -C "$root" -cf - . | wc -c)
check "size, uncompressed" "$bytes bytes (at most $max_bytes; compressed $(tar -C "$root" -cf - . | gzip | wc -c))" \
    [ "$bytes" -le "$max_bytes" ]
expect "user" 10001:10001 "$(config .config.User)"
expect "entry point, without a shell" '["/usr/local/bin/users-api"] []' \
    "$(config '.config | "\(.Entrypoint) \(.Cmd // [])"')"
expect "stop signal, port, volumes" 'SIGTERM ["8080/tcp"] []' \
    "$(config '.config | "\(.StopSignal) \(.ExposedPorts | keys) \(.Volumes // {} | keys)"')"
expect "environment" "PATH=/usr/local/bin USERS_API__SERVER__HOST=0.0.0.0 USERS_API__AUTH__MODE=required" \
    "$(config '.config.Env | join(" ")')"
expect "health check" "CMD /usr/local/bin/users-api healthcheck --live" \
    "$(config '.config.Healthcheck.Test | join(" ")')"
expect "architecture" "linux/$(dpkg --print-architecture)" "$(config '"\(.os)/\(.architecture)"')"
for label in title description licenses version revision created source; do
    value=$(config ".config.Labels[\"org.opencontainers.image.$label\"] // \"\"")
    check "label $label" "${value:-missing}" [ -n "$value" ]
done

expect "programs" "users-api" "$(find "$root" -type f -perm /111 ! -name '*.so.*' -printf '%f\n' | sort | xargs)"
found=$(find "$root" ! -type d -regextype posix-extended \
    -regex '.*/(sh|bash|dash|busybox|apt|apt-get|dpkg|rpm|apk|ldconfig)' -printf '%P ')
expect "no shell, no package manager" none "${found:-none}"
found=$(find "$root" -perm /6000 -printf '%P ')
expect "no setuid, setgid" none "${found:-none}"
found=$(find "$root" ! -type l \( -perm /022 -o ! -uid 0 -o ! -gid 0 \) -printf '%P %m %U:%G\n' | sort | paste -sd, -)
expect "writable for others than root" "data 775 10001:0,tmp 1777 0:0" "$found"
libraries=$(find "$root" -name '*.so.*' -printf '%f\n' | sort | xargs)
# The name of the loader ends with the architecture.
check "libraries" "$libraries" grep -qE '^ld-linux[^ ]* libc\.so\.6 libgcc_s\.so\.1 libm\.so\.6$' <<< "$libraries"
certificates=$(grep -c 'BEGIN CERTIFICATE' "$root/etc/ssl/certs/ca-certificates.crt" || true)
check "certificates of authorities" "$certificates" [ "$certificates" -gt 100 ]
for package in libc6 libgcc-s1 ca-certificates; do
    check "licence of $package" "$(sed -n 's/^Version: /version /p' "$root/var/lib/dpkg/status.d/$package")" \
        [ -s "$root/usr/share/doc/$package/copyright" ]
done

# --- The binary
program=$root/usr/local/bin/users-api
build_paths="/usr/local/(cargo|rustup)|/root/|/home/|/build/(src|pool|entity|migration|target)|$PWD/"
paths=$(strings -n 6 "$program" | grep -cE "$build_paths" || true)
if [ -n "$binary" ]; then
    skip "no path of the build" "$paths strings with paths; given by --binary"
else
    expect "no path of the build" 0 "$paths"
fi
found=$(readelf -SW "$program" | grep -oE '\.(symtab|debug_(info|line|str))' | xargs || true)
expect "symbols and debug information" none "${found:-none}"
build_id() { readelf -n "$1" 2>/dev/null | sed -n 's/^ *Build ID: //p'; }
if [ ! -d "$work/debug" ]; then
    skip "debug information" "the target debug is not built with $driver storage"
else
    debug=$work/debug/users-api.debug
    expect "debug information: build id" "$(build_id "$program")" "$(build_id "$debug")"
    address=$(nm "$debug" 2>/dev/null | sed -n 's/ [tT] .*users_api3cli4main.*//p' | head -n 1)
    line=$(addr2line -e "$debug" "0x${address:-0}")
    if [ -z "$binary" ]; then
        check "debug information: source line" "$line" grep -q '^/users-api/src/cli' <<< "$line"
    else
        skip "debug information: source line" "$line; given by --binary"
    fi
fi

doc=$root/usr/share/doc/users-api
check "licence of users-api" "LICENSE-APACHE, LICENSE-MIT" cmp -s LICENSE-MIT "$doc/LICENSE-MIT"
if [ -n "$binary" ]; then
    skip "licences of crates, SBOM" "not with --binary"
else
    # The crates whose code is in the binary, by the paths in its messages and line numbers.
    cat "$program" "$work"/debug/*.debug 2>/dev/null | strings -n 8 \
        | grep -oE '/crates/[^/]+/[A-Za-z0-9_-]+-[0-9]+\.[0-9]+\.[^/ ]*' | sed 's#.*/##' | sort -u > "$work/crates"
    zcat "$doc/licences/crates.txt.gz" | awk '{ print $1 "-" $2 }' | sort -u > "$work/licensed"
    jq -r '.components[] | "\(.name)-\(.version)"' "$doc/sbom.cdx.json" | sort -u > "$work/components"
    crates=$(wc -l < "$work/crates")
    found=$(comm -23 "$work/crates" "$work/licensed" | xargs)
    check "licences of crates" "${found:-$crates crates in the binary}" [ -z "$found" -a "$crates" -gt 100 ]
    found=$(comm -23 "$work/crates" "$work/components" | xargs)
    format=$(jq -r '"\(.bomFormat) \(.specVersion)"' "$doc/sbom.cdx.json")
    check "SBOM" "${found:-$format, $(wc -l < "$work/components") components}" [ -z "$found" ]
    check "licences of other code" "zstd, Rust's standard library" \
        [ -s "$doc/licences/zstd.txt.gz" -a -s "$doc/licences/rust-standard-library.html.gz" ]
    # For scanners of the binary, by `cargo auditable`.
    check "list of crates in the binary" "section .dep-v0" grep -q ' \.dep-v0 ' <(readelf -SW "$program")
fi
