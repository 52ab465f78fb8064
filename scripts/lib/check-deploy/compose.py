"""What the schema of compose.yaml does not find: an anchor that is used for something else, a file that does not exist."""

import pathlib, sys, yaml

document = yaml.safe_load(open("compose.yaml"))
services, volumes = document["services"], document["volumes"]
# Written by the operator.
created = {"./prometheus_key.txt", "./bootstrap_key.txt"}
for name, service in services.items():
    for volume in service.get("volumes", []):
        source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
        if source.startswith("."):
            if source not in created and not pathlib.Path(source).exists():
                sys.exit(f"{name}: {source} does not exist")
        elif source not in volumes:
            sys.exit(f"{name}: the volume {source} is not declared")
    for other in service.get("depends_on", []):
        if other not in services:
            sys.exit(f"{name}: depends on {other}, which is not a service")
        if not set(services[other].get("profiles", [])) <= set(service.get("profiles", [])):
            sys.exit(f"{name}: depends on {other}, which is in another profile")
