# syntax=docker/dockerfile:1

# docs/DEPLOYMENT.md, "Container image", lists the properties of the image; scripts/container checks them.

# The toolchain of rust-toolchain.toml on Debian 12. Its C library and certificates are copied into the image: build
# again with a newer base when they get security updates. To pin the base, pass its digest:
#   docker buildx imagetools inspect rust:1.95.0-slim-bookworm --format '{{.Manifest.Digest}}'
#   docker build --build-arg BUILD_IMAGE=rust:1.95.0-slim-bookworm@sha256:...
ARG BUILD_IMAGE=rust:1.95.0-slim-bookworm
# Nothing to pin: `scratch` is empty. Another image (a distroless one) must have the same C library or a later one.
ARG RUNTIME_IMAGE=scratch

# Tools that describe the binary. They run once, so they are compiled quickly instead of well.
FROM ${BUILD_IMAGE} AS tools
RUN export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    && cargo install --locked --root /tools cargo-auditable@0.7.7 \
    && cargo install --locked --root /tools auditable2cdx@0.1.0 \
    && cargo install --locked --root /tools --features cli cargo-about@0.9.1

FROM ${BUILD_IMAGE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /build
# docker build --build-arg FEATURES=kafka
ARG FEATURES=
# Line numbers are moved to a separate file below. Paths of this stage do not appear in messages of the binary. The
# empty files in /swagger-ui replace those that the page of the service does not use: 2.6 MB less.
ENV CARGO_PROFILE_RELEASE_DEBUG=line-tables-only \
    CARGO_PROFILE_RELEASE_STRIP=none \
    SWAGGER_UI_OVERWRITE_FOLDER=/swagger-ui \
    RUSTFLAGS="--remap-path-prefix=/usr/local/cargo/registry/src=/crates --remap-path-prefix=/build=/users-api" \
    CFLAGS="-ffile-prefix-map=/usr/local/cargo/registry/src=/crates -ffile-prefix-map=/build=/users-api"

# Build the dependencies with empty sources, so that this layer is rebuilt only when they change.
COPY Cargo.toml Cargo.lock ./
COPY entity/Cargo.toml entity/
COPY migration/Cargo.toml migration/
COPY pool/Cargo.toml pool/
# Every workspace member must exist, although no tests are built: .dockerignore admits their Cargo.toml.
COPY tests tests
RUN mkdir -p src entity/src migration/src pool/src pool/examples pool/tests tests/api /swagger-ui \
    && echo 'fn main() {}' | tee src/main.rs tests/api/main.rs pool/tests/main.rs \
        pool/examples/axum.rs pool/examples/notes.rs pool/examples/postgres.rs > /dev/null \
    && touch src/lib.rs entity/src/lib.rs migration/src/lib.rs pool/src/lib.rs \
    && for manifest in tests/*/Cargo.toml; do \
        mkdir -p "$(dirname "$manifest")/src" && touch "$(dirname "$manifest")/src/lib.rs"; \
    done \
    && touch /swagger-ui/swagger-ui.js /swagger-ui/swagger-ui-standalone-preset.js \
        /swagger-ui/swagger-ui-es-bundle.js /swagger-ui/swagger-ui-es-bundle-core.js \
    && cargo build --release --locked --features "$FEATURES"

COPY --from=tools /tools/bin /usr/local/cargo/bin
COPY deploy/container deploy/container
# The licences of the crates; of C code in crates whose own licence differs from it; and of the standard library.
RUN mkdir -p /out/doc/licences \
    && cargo about generate --locked --fail --features "$FEATURES" --config deploy/container/about.toml \
        --output-file /out/doc/licences/crates.txt deploy/container/licences.hbs \
    && cp /usr/local/cargo/registry/src/*/zstd-sys-*/zstd/LICENSE /out/doc/licences/zstd.txt \
    && cp "$(rustc --print sysroot)/share/doc/rust/COPYRIGHT-library.html" /out/doc/licences/rust-standard-library.html

COPY config config
# Some are pages of the service.
COPY docs docs
COPY entity entity
COPY migration migration
COPY pool pool
COPY src src
# Make the sources newer than the build of the empty ones.
RUN find src entity migration pool config docs -type f -exec touch {} + \
    && cargo auditable build --release --locked --features "$FEATURES" \
    && cp target/release/users-api /out/users-api.debug \
    && cp target/release/users-api /out/users-api \
    && objcopy --only-keep-debug /out/users-api.debug \
    && chmod 0644 /out/users-api.debug \
    && objcopy --strip-all --add-gnu-debuglink=/out/users-api.debug /out/users-api \
    && auditable2cdx /out/users-api > /out/doc/sbom.cdx.json
COPY LICENSE-APACHE LICENSE-MIT /out/doc/

# The files around the binary: the libraries that it needs, certificates, and what scanners and licences require.
FROM ${BUILD_IMAGE} AS root
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY --from=build /out/users-api /usr/local/bin/users-api
COPY --from=build /out/doc /out/root/usr/share/doc/users-api
# `ldd` names the libraries by the paths of the architecture. A further one would need its licence here.
RUN mkdir -p /out/root/etc/ssl/certs /out/root/usr/share/common-licenses \
        /out/root/var/lib/dpkg/status.d /out/root/tmp /out/owned/data \
    && mapfile -t libraries < <(ldd /usr/local/bin/users-api | grep -o '/[^ ]*' | sort -u) \
    && for library in "${libraries[@]}"; do \
        case "$(basename "$library")" in \
            libc.so.6 | libm.so.6 | libgcc_s.so.1 | ld-linux*) \
                cp --dereference --parents --preserve=mode,timestamps "$library" /out/root ;; \
            *) echo "unexpected library: $library" >&2; exit 1 ;; \
        esac; \
    done \
    # For auth.jwt.jwks over https, and for databases and brokers with certificates of public authorities.
    && cp /etc/ssl/certs/ca-certificates.crt /out/root/etc/ssl/certs/ \
    && cp --dereference /etc/os-release /out/root/etc/os-release \
    && echo 'hosts: files dns' > /out/root/etc/nsswitch.conf \
    # Scanners look up vulnerabilities of Debian's packages by these files.
    && for package in libc6 libgcc-s1 ca-certificates; do \
        dpkg-query --status "$package" > "/out/root/var/lib/dpkg/status.d/$package" \
        && mkdir "/out/root/usr/share/doc/$package" \
        && cp --dereference "/usr/share/doc/$package/copyright" "/out/root/usr/share/doc/$package/"; \
    done \
    && cp --dereference /usr/share/common-licenses/{GPL-2,GPL-3,LGPL-2.1,MPL-2.0} /out/root/usr/share/common-licenses/ \
    && find /out/root/usr/share/doc/users-api -path '*/licences/*' -exec gzip -9n {} + \
    && chmod 1777 /out/root/tmp \
    # Writable for user 10001, and for any user of the group 0, which is how OpenShift starts containers. Readable for
    # others, who may use a database server: the service looks for `.env` in it. The file of SQLite is its owner's only.
    && chmod 0775 /out/owned/data

# Line numbers for backtraces and debuggers: docker build --target debug --output type=local,dest=target/debug-info .
FROM scratch AS debug
COPY --from=build /out/users-api.debug /users-api.debug

# hadolint ignore=DL3006
FROM ${RUNTIME_IMAGE}
COPY --from=root /out/root/ /
COPY --from=root --chown=10001:0 /out/owned/ /
COPY --from=build /out/users-api /usr/local/bin/users-api
# Numeric, so that Kubernetes can verify that it is not root (runAsNonRoot).
USER 10001:10001
# The default of database.url is a file in this folder. It is not a VOLUME: each start of a service that uses a database
# server would create an unnamed one.
WORKDIR /data
# Others can reach the port of a container, so the image starts locked: callers need an API key. With auth.mode = off
# the service refuses to listen on 0.0.0.0. The first key comes from USERS_API__AUTH__BOOTSTRAP_KEY_FILE or from
# `users-api keys create`. Set auth.mode to gateway only if something in front of the container authenticates callers.
ENV PATH=/usr/local/bin \
    USERS_API__SERVER__HOST=0.0.0.0 \
    USERS_API__AUTH__MODE=required
EXPOSE 8080
STOPSIGNAL SIGTERM
# Liveness, not readiness: some orchestrators restart unhealthy containers, which does not fix a database outage.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/users-api", "healthcheck", "--live"]
# Exec form: no shell, so signals reach the program directly.
ENTRYPOINT ["/usr/local/bin/users-api"]
# Last, because they change with every commit.
ARG VERSION=
ARG REVISION=
ARG CREATED=
ARG SOURCE=
LABEL org.opencontainers.image.title="users-api" \
    org.opencontainers.image.description="A REST service for users on one shared, tuned connection pool" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}" \
    org.opencontainers.image.source="${SOURCE}"
