"""Numbers and names that several files must agree on, and what the schemas do not require.

The argument is the folder with the rendered overlays of Kubernetes.
"""

import glob, json, math, pathlib, re, sys, tomllib, yaml

out = pathlib.Path(sys.argv[1])
# docs/OPERATIONS.md, "Shutdown": the process ends within drain_delay + shutdown_timeout + 2 s, and 4 s more if readers
# stall.
AFTER_SHUTDOWN, RESERVE = 2 + 4, 3
problems = []


def require(holds, problem):
    if not holds:
        problems.append(problem)


def seconds(text):
    number, unit = re.fullmatch(r"(\d+) ?(ms|s|min|m|h|d)", str(text)).groups()
    return int(number) * {"ms": 0.001, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}[unit]


def mebibytes(text):
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi|MiB|GiB|M|G)", str(text)).groups()
    return int(number) * (1024 if unit.startswith("G") else 1)


# Settings: their defaults, and which are secrets, which can come from files.
defaults = {}


def flatten(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict):
            flatten(value, f"{prefix}{key}.")
        else:
            defaults[prefix + key] = value


flatten(tomllib.load(open("config/default.toml", "rb")))
secrets = set()
for path in glob.glob("src/settings/*.rs"):
    section = None
    for line in open(path):
        section = (re.search(r'SETTINGS: "([\w.]+)" \{', line) or [None, section])[1]
        if field := re.match(r"\s+(?:pub )?(\w+): SecretString\b", line):
            secrets.add(f"{section}.{field[1]}")
require(len(secrets) >= 5, f"src/settings: only {secrets} were found to be secret")
ALIASES = {"DATABASE_URL": "database.url", "PORT": "server.port", "RUST_LOG": "log.filter"}


def settings(variables, where):
    """The settings that these variables make, without those from files."""
    result = dict(defaults)
    for name, value in variables.items():
        is_file = name.endswith("_FILE")
        short = name.removesuffix("_FILE")
        if short in ALIASES:
            key = ALIASES[short]
        elif name.startswith("USERS_API__"):
            key = short.removeprefix("USERS_API__").replace("__", ".").lower()
        else:
            continue
        require(key in defaults, f"{where}: {name} is not a setting")
        require(not is_file or key in secrets, f"{where}: {name}: only a secret can come from a file")
        if not is_file:
            result[key] = value
    return result


def time_to_stop(values):
    return seconds(values["server.drain_delay"]) + seconds(values["server.shutdown_timeout"]) + AFTER_SHUTDOWN + RESERVE


def matches(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


dockerfile = open("Dockerfile").read()
user = re.findall(r"^USER (\d+)", dockerfile, re.M)[-1:]
health = json.load(open("docs/openapi.json"))["paths"]


def check_pod(where, template, uid):
    spec = template["spec"]
    container = spec["containers"][0]
    pod_security, security = spec["securityContext"], container["securityContext"]
    require(pod_security.get("runAsNonRoot") is True, f"{where}: runAsNonRoot")
    require(str(pod_security.get("runAsUser")) in uid, f"{where}: runAsUser is not USER of the Dockerfile, {uid}")
    require(pod_security.get("seccompProfile") == {"type": "RuntimeDefault"}, f"{where}: seccompProfile")
    require(security.get("allowPrivilegeEscalation") is False, f"{where}: allowPrivilegeEscalation")
    require(security.get("readOnlyRootFilesystem") is True, f"{where}: readOnlyRootFilesystem")
    require(security.get("capabilities") == {"drop": ["ALL"]}, f"{where}: capabilities")
    require(spec.get("automountServiceAccountToken") is False, f"{where}: automountServiceAccountToken")
    # Otherwise Services add variables, some of which look like those of libpq.
    require(spec.get("enableServiceLinks") is False, f"{where}: enableServiceLinks")
    mounts = tuple(mount["mountPath"] + "/" for mount in container.get("volumeMounts", []))
    for variable in container["env"]:
        if variable["name"].endswith("_FILE"):
            require(variable["value"].startswith(mounts), f"{where}: {variable['name']} is in no mounted folder")
    return container


overlays = sorted(out.glob("*.yaml"))
require(len(overlays) >= 2, "deploy/kubernetes: no overlay was rendered")
namespaces, server_labels, port_names = set(), None, set()
for path in overlays:
    where = f"deploy/kubernetes, {path.stem}"
    objects = {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(path.read_text())}
    deployment = objects["Deployment", "users-api"]["spec"]
    namespaces.add(objects["Deployment", "users-api"]["metadata"].get("namespace"))
    template, job = deployment["template"], objects["Job", "users-api-migrate"]["spec"]["template"]
    container = check_pod(where, template, user)
    migration = check_pod(f"{where}, migration", job, user)

    def environment(container):
        names = [source["configMapRef"]["name"] for source in container["envFrom"]]
        merged = {}
        for name in names:
            require(("ConfigMap", name) in objects, f"{where}: no ConfigMap {name}")
            merged |= objects.get(("ConfigMap", name), {"data": {}})["data"]
        return merged | {variable["name"]: variable.get("value") for variable in container["env"]}

    values = settings(environment(container), where)
    settings(environment(migration), f"{where}, migration")
    require(values["auth.mode"] == "required", f"{where}: auth.mode is {values['auth.mode']}")
    require(values["database.migrate"] == "check", f"{where}: database.migrate is {values['database.migrate']}")
    require(migration["args"] == ["migrate", "up"], f"{where}: the Job does not migrate")

    # Images: one for both, named by its digest outside of the base.
    image = container["image"]
    require(migration["image"] == image, f"{where}: the Job has another image")
    if path.stem != "base":
        require(re.search(r"@sha256:[0-9a-f]{64}$", image), f"{where}: the image has no digest")

    # Time to stop.
    grace, needed = template["spec"]["terminationGracePeriodSeconds"], time_to_stop(values)
    require(grace >= needed, f"{where}: terminationGracePeriodSeconds is {grace}, less than {needed:g}")
    require(
        seconds(values["server.shutdown_timeout"]) > seconds(values["server.request_timeout"]),
        f"{where}: server.shutdown_timeout is not longer than server.request_timeout",
    )
    require(seconds(values["server.drain_delay"]) >= 5, f"{where}: server.drain_delay is below 5 s")
    ready = deployment.get("minReadySeconds", 0)
    require(ready >= grace, f"{where}: minReadySeconds is {ready}, so several pods drain at a time")

    # Connections.
    scaler = objects["HorizontalPodAutoscaler", "users-api"]
    update = deployment["strategy"]["rollingUpdate"]
    require(update["maxUnavailable"] == 0, f"{where}: maxUnavailable is not 0")
    require("replicas" not in deployment, f"{where}: replicas would reset those of the autoscaler")
    available = int(scaler["metadata"]["annotations"]["users-api/database-connections"])
    # One for probes, and one for LISTEN.
    each = int(values["pool.max"]) + 1 + (values["feed.broker"] == "postgres")
    needed = (scaler["spec"]["maxReplicas"] + int(update["maxSurge"]) + 1) * each + 2
    require(needed < available, f"{where}: {needed} connections are needed, of {available}")
    require(scaler["spec"]["minReplicas"] >= 2, f"{where}: minReplicas is below 2")
    stable = scaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
    require(stable > grace, f"{where}: scaleDown is faster than the grace period")

    # Memory.
    limit = mebibytes(container["resources"]["limits"]["memory"])
    connections = int(values["server.max_connections"]) or 10_000
    needed = math.ceil(connections * 20 / 1024) + mebibytes(values["feed.ring"]) + 128
    require(limit >= needed, f"{where}: the limit of memory is {limit} MiB, less than {needed} MiB")

    # Ports and probes.
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    expected = {"http": int(values["server.port"]), "admin": int(values["admin.port"])}
    require(ports == expected, f"{where}: ports {ports}, but the settings have {expected}")
    require(values["server.host"] == values["admin.host"] == "0.0.0.0", f"{where}: not all addresses are listened on")
    for probe, expected in (("startup", "live"), ("liveness", "live"), ("readiness", "ready")):
        get = container[f"{probe}Probe"]["httpGet"]
        require(get["path"] == f"/health/{expected}", f"{where}: the {probe} probe requests {get['path']}")
        require(get["path"] in health, f"{where}: {get['path']} is not a path of the API")
        require(get["port"] == "http", f"{where}: the {probe} probe uses the port {get['port']}")
    startup = container["startupProbe"]
    window = startup["periodSeconds"] * startup["failureThreshold"]
    require(window >= 4 * seconds(values["pool.acquire"]), f"{where}: the startup probe fails after {window} s")

    # Selectors.
    labels, job_labels = template["metadata"]["labels"], job["metadata"]["labels"]
    server_labels, port_names = labels, set(ports)
    for (kind, name), item in objects.items():
        if kind == "Service":
            for port in item["spec"]["ports"]:
                require(port["targetPort"] == "http", f"{where}: the Service {name} publishes {port['targetPort']}")
        if kind in ("Service", "PodDisruptionBudget", "Deployment"):
            selector = item["spec"]["selector"]
            selector = selector if kind == "Service" else selector["matchLabels"]
            require(matches(selector, labels), f"{where}: the {kind} {name} selects no pod of the service")
            require(not matches(selector, job_labels), f"{where}: the {kind} {name} selects the pods of the migration")
        if kind == "NetworkPolicy":
            selector = item["spec"]["podSelector"]["matchLabels"]
            require(matches(selector, labels), f"{where}: the NetworkPolicy {name} selects no pod of the service")
            for rule in item["spec"].get("ingress", []):
                require(rule.get("from") and rule.get("ports"), f"{where}: the NetworkPolicy {name} admits everyone")
                for port in rule.get("ports", []):
                    require(port["port"] in ports, f"{where}: the NetworkPolicy {name} names the port {port['port']}")
    for direction in ("Ingress", "Egress"):
        policies = [item["spec"] for (kind, _), item in objects.items() if kind == "NetworkPolicy"]
        policies = [policy["podSelector"] for policy in policies if direction in policy["policyTypes"]]
        applies = any(matches(selector["matchLabels"], job_labels) for selector in policies)
        require(applies, f"{where}: no NetworkPolicy restricts {direction} of all pods")
    for constraint in template["spec"]["topologySpreadConstraints"]:
        require(matches(constraint["labelSelector"]["matchLabels"], labels), f"{where}: topologySpreadConstraints")

# Prometheus in the cluster.
where = "deploy/kubernetes/prometheus.yml"
(job,) = yaml.safe_load(open(where))["scrape_configs"]
require(job["job_name"] == "users-api", f"{where}: the rules select the job users-api")
(discovery,) = job["kubernetes_sd_configs"]
require(set(discovery["namespaces"]["names"]) <= namespaces, f"{where}: another namespace than the overlays")
selector = dict(pair.split("=") for pair in discovery["selectors"][0]["label"].split(","))
require(matches(selector, server_labels), f"{where}: selects no pod")
require(job["relabel_configs"][0]["regex"] in port_names, f"{where}: the port does not exist")

# systemd.
for path in glob.glob("deploy/systemd/*.service"):
    unit = [line.strip().split("=", 1) for line in open(path) if re.match(r"[A-Z]\w+=", line)]
    get = lambda key: [value for name, value in unit if name == key]
    variables = dict(value.split("=", 1) for value in get("Environment"))
    values = settings(variables, path)
    needed, (limit,) = time_to_stop(values), get("TimeoutStopSec")
    require(seconds(limit) >= needed, f"{path}: TimeoutStopSec is {limit}, less than {needed:g} s")
    credentials = {value.split(":")[0] for value in get("LoadCredential")}
    used = {value.removeprefix("%d/") for value in variables.values() if value.startswith("%d/")}
    require(credentials == used, f"{path}: credentials {credentials}, but variables name {used}")
    require(get("RestartPreventExitStatus") == ["2"], f"{path}: restarts after an invalid setting")
    require(get("ProcSubset") != ["pid"], f"{path}: ProcSubset=pid hides the start time of the process")
    limit = mebibytes(get("MemoryMax")[0])
    require(limit >= 10_000 * 20 / 1024 + mebibytes(values["feed.ring"]) + 128, f"{path}: MemoryMax is {limit} MiB")
    require(f'["{get("ExecStart")[0].split()[0]}"]' in dockerfile, f"{path}: the program has another path in the image")

# Compose, Galera and HAProxy.
services = yaml.safe_load(open("compose.yaml"))["services"]
service = services["users-api"]
values = settings(service["environment"], "compose.yaml")
grace, needed = seconds(service["stop_grace_period"]), time_to_stop(values)
require(grace >= needed, f"compose.yaml: stop_grace_period is {grace:g} s, less than {needed:g} s")
require(values["auth.mode"] == "required", "compose.yaml: auth.mode")
require(any(str(port).endswith(f":{values['server.port']}") for port in service["ports"]), "compose.yaml: ports")
nodes = {name for name in services if re.fullmatch(r"galera\d", name)}
cluster = re.search(r"^wsrep_cluster_address = gcomm://(.*)$", open("deploy/compose/galera.cnf").read(), re.M)[1]
require(set(cluster.split(",")) == nodes, f"deploy/compose/galera.cnf: {cluster} are not the services {nodes}")
for node in nodes:
    require(services[node]["hostname"] == node, f"compose.yaml: the host name of {node}")
    expected = [f"--wsrep-node-name={node}", f"--wsrep-node-address={node}"]
    require(services[node]["command"] == expected, f"compose.yaml: the command of {node}")
    require(services[node]["volumes"][0] == f"{node}:/var/lib/mysql", f"compose.yaml: the volume of {node}")
haproxy = open("deploy/compose/haproxy.cfg").read()
servers = dict(re.findall(r"^\s+server (\w+) (\S+)", haproxy, re.M))
require(servers == {node: f"{node}:3306" for node in nodes}, f"deploy/compose/haproxy.cfg: {servers}")
backups = re.findall(r"^\s+server .* backup$", haproxy, re.M)
require(len(backups) == len(nodes) - 1, "deploy/compose/haproxy.cfg: not one node for all connections")
for side in ("client", "server"):
    timeout = re.search(rf"timeout {side} (\S+)", haproxy)[1]
    require(
        seconds(timeout) > seconds(defaults["pool.lifetime"]),
        f"deploy/compose/haproxy.cfg: timeout {side} is not longer than pool.lifetime",
    )

require(f"EXPOSE {defaults['server.port']}" in dockerfile, "Dockerfile: EXPOSE is not server.port")
for workflow in glob.glob(".github/workflows/*.yml"):
    for action in re.findall(r"uses: (\S+)", open(workflow).read()):
        require(re.search(r"@[0-9a-f]{40}$", action), f"{workflow}: {action} is not pinned to a commit")

if problems:
    print("\n".join(problems))
    sys.exit(1)
