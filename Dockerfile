# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# Dependencies first, on empty sources: this layer is built anew only when they change.
COPY Cargo.toml Cargo.lock ./
COPY entity/Cargo.toml entity/
COPY migration/Cargo.toml migration/
COPY pool/Cargo.toml pool/
# Members of the workspace have to be there, though nothing of the tests is built.
COPY tests/support/Cargo.toml tests/support/
RUN mkdir -p src entity/src migration/src pool/src pool/examples pool/tests tests/api tests/support/src \
    && echo 'fn main() {}' | tee src/main.rs tests/api/main.rs pool/tests/main.rs \
        pool/examples/axum.rs pool/examples/notes.rs pool/examples/postgres.rs > /dev/null \
    && touch src/lib.rs entity/src/lib.rs migration/src/lib.rs pool/src/lib.rs tests/support/src/lib.rs \
    && cargo build --release --locked

COPY config config
COPY entity entity
COPY migration migration
COPY pool pool
COPY src src
# Newer than what was built from the empty sources.
RUN find src entity migration pool config -type f -exec touch {} + \
    && cargo build --release --locked \
    && mkdir /data

FROM debian:bookworm-slim
COPY --from=build /build/target/release/users-api /usr/local/bin/users-api
COPY --from=build --chown=10001:10001 /data /data
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /data
ENV USERS_API__SERVER__HOST=0.0.0.0
EXPOSE 8080
VOLUME /data
STOPSIGNAL SIGTERM
# Alive, and not ready: some orchestrators restart what is unhealthy, and a database that is away does not mend that way.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["/usr/local/bin/users-api", "healthcheck", "--live"]
# The exec form: no shell is needed, and signals reach the program itself.
ENTRYPOINT ["/usr/local/bin/users-api"]
