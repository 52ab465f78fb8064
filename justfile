# Names for the project's commands; each can be typed directly.

# Serve from users.db
run:
    cargo run --release

# All tests on all engines
test:
    scripts/test

# The service against its OpenAPI document
contract:
    scripts/contract

# The dashboard with simulated clients
demo:
    cargo run --release -- demo

# The pictures of the documentation, from the real page
screenshots:
    scripts/screenshots

# One hour of faults; memory, file descriptors and tasks must not grow
soak:
    scripts/soak

# The container image: built, and each promise checked
container:
    scripts/container

# Kubernetes, systemd, Compose, workflows and scripts
check-deploy:
    scripts/check-deploy

# All checks that a change must pass
ci:
    .ci/run

# Benchmark the service beside its peers
bench:
    bench/run

# Instructions per request, compared with the recorded ones
instructions:
    scripts/instructions

# Regenerate docs/openapi.json
openapi:
    cargo run -- openapi > docs/openapi.json

# Regenerate config/default.toml and .env.example
settings:
    cargo run -- config --template toml > target/default.toml && mv target/default.toml config/default.toml
    cargo run -- config --template env > target/env && mv target/env .env.example

# Licences, bans, sources and advisories of dependencies
deny:
    scripts/get-tools
    target/tools/bin/cargo-deny check

# Spelling
typos:
    scripts/get-tools
    target/tools/venv/bin/typos
