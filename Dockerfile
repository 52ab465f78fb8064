# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
# docker build --build-arg FEATURES=kafka
ARG FEATURES=

# Build the dependencies with empty sources, so that this layer is rebuilt only when they change.
COPY Cargo.toml Cargo.lock ./
COPY entity/Cargo.toml entity/
COPY migration/Cargo.toml migration/
COPY pool/Cargo.toml pool/
# Every workspace member must exist, although no tests are built.
COPY tests/support/Cargo.toml tests/support/
RUN mkdir -p src entity/src migration/src pool/src pool/examples pool/tests tests/api tests/support/src \
    && echo 'fn main() {}' | tee src/main.rs tests/api/main.rs pool/tests/main.rs \
        pool/examples/axum.rs pool/examples/notes.rs pool/examples/postgres.rs > /dev/null \
    && touch src/lib.rs entity/src/lib.rs migration/src/lib.rs pool/src/lib.rs tests/support/src/lib.rs \
    && cargo build --release --locked --features "$FEATURES"

COPY config config
# Some are pages of the service.
COPY docs docs
COPY entity entity
COPY migration migration
COPY pool pool
COPY src src
# Make the sources newer than the build of the empty ones.
RUN find src entity migration pool config docs -type f -exec touch {} + \
    && cargo build --release --locked --features "$FEATURES" \
    && mkdir /data

FROM debian:bookworm-slim
COPY --from=build /build/target/release/users-api /usr/local/bin/users-api
COPY --from=build --chown=10001:10001 /data /data
# For auth.jwt.jwks over https.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# Numeric, so that Kubernetes can verify that it is not root (runAsNonRoot).
USER 10001:10001
WORKDIR /data
# Others can reach the port of a container, so the image starts locked: callers need an API key. With auth.mode = off the
# service refuses to listen on 0.0.0.0. The first key comes from USERS_API__AUTH__BOOTSTRAP_KEY_FILE or from
# `users-api keys create`. Set auth.mode to gateway only if something in front of the container authenticates callers.
ENV USERS_API__SERVER__HOST=0.0.0.0 \
    USERS_API__AUTH__MODE=required
EXPOSE 8080
VOLUME /data
STOPSIGNAL SIGTERM
# Liveness, not readiness: some orchestrators restart unhealthy containers, which does not fix a database outage.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["/usr/local/bin/users-api", "healthcheck", "--live"]
# Exec form: no shell, so signals reach the program directly.
ENTRYPOINT ["/usr/local/bin/users-api"]
