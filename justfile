# The commands of the house; each is one that can be typed as well.

# Serve from users.db
run:
    cargo run --release

# Everything, on every engine
test:
    scripts/test

# The service against its own document
contract:
    scripts/contract

# An hour of trouble; memory, file descriptors and tasks must not grow
soak:
    scripts/soak

# What a change must pass
ci:
    .ci/run

# The service beside its peers
bench:
    bench/run

# Instructions a request, against those that are kept
instructions:
    scripts/instructions

# Write docs/openapi.json anew
openapi:
    cargo run -- openapi > docs/openapi.json

# Licences, advisories, sources
deny:
    cargo deny check

# Spelling
typos:
    typos
