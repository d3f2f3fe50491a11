"""Private servers and processes of a benchmark, on free ports, in a temporary directory."""

import http.client
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from measure import free_port, wait_for_port, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = TARGET / "release" / "throttleproxy"
EXAMPLES = TARGET / "release" / "examples"
WARM_UP_SECONDS = 0.5


class World:
    """What was started, and where it keeps its files."""

    # What is got from elsewhere once and kept.
    tools = TARGET / "tools"

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="throttleproxy-bench-"))
        self.dir.chmod(0o755)
        self.processes = []
        self.names = 0
        return self

    def __exit__(self, failure, *_):
        for process in reversed(self.processes):
            process.kill()
        for process in self.processes:
            process.wait()
        if failure is None or failure is KeyboardInterrupt:
            shutil.rmtree(self.dir, ignore_errors=True)
        else:
            print(f"the logs are left in {self.dir}", file=sys.stderr)

    def start(self, program, arguments, cpu=None, user=None, **options):
        # A killed benchmark must not leave servers behind: the kernel ends them with it.
        command = ["setpriv", "--pdeathsig", "KILL"]
        if user:
            command += ["--reuid", user, "--regid", user, "--init-groups"]
        if cpu is not None:
            command += ["taskset", "-c", str(cpu)]
        command += [str(program), *map(str, arguments)]
        options.setdefault("stderr", self.log(pathlib.Path(program).name))
        process = subprocess.Popen(command, start_new_session=True, **options)
        self.processes.append(process)
        return process

    def log(self, name):
        return open(self.path(f"{name}.log"), "wb")

    def path(self, name):
        self.names += 1
        return self.dir / f"{self.names}-{name}"

    def file(self, name, text):
        path = self.path(name)
        path.write_text(text)
        return path

    def output(self, example, arguments, cpu=None):
        process = self.start(EXAMPLES / example, arguments, cpu=cpu, stdout=subprocess.PIPE, stderr=None)
        text, _ = process.communicate()
        if process.returncode != 0:
            sys.exit(f"{example} failed")
        return json.loads(text)

    def load(self, address, path, key_file, seconds, options, cpu):
        arguments = ["--addr", address, "--path", path, "--keys", key_file, "--seconds", seconds]
        arguments += ["--warm-up-seconds", WARM_UP_SECONDS, *options]
        return self.output("bench-load", arguments, cpu)

    def upstream(self, cpu):
        return Upstream(self, cpu)

    def redis(self, cpu):
        port = free_port()
        options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        options += ["--maxmemory-policy", "noeviction", "--dir", self.dir]
        self.start("redis-server", options, cpu, stdout=self.log("redis"))
        wait_for_port(port)
        return f"redis://127.0.0.1:{port}"

    def nats(self, cpu):
        port = free_port()
        self.start("nats-server", ["-a", "127.0.0.1", "-p", port], cpu)
        wait_for_port(port)
        return f"nats://127.0.0.1:{port}"

    def postgres(self, cpu):
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda it: int(it.parent.name))
        if not found:
            sys.exit("Postgres is not installed: apt-get install postgresql")
        data = self.path("postgres")
        data.mkdir()
        user = None
        if os.getuid() == 0:
            # Postgres will not run as root.
            user = "postgres"
            shutil.chown(data, user, user)
        become = ["setpriv", "--reuid", user, "--regid", user, "--init-groups"] if user else []
        initdb = [found[-1] / "initdb", "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8"]
        subprocess.run([*become, *initdb], check=True, stdout=subprocess.DEVNULL, cwd=data)
        port = free_port()
        options = ["-D", data, "-p", port, "-h", "127.0.0.1", "-k", data]
        self.start(found[-1] / "postgres", options, cpu, user, cwd=data)
        wait_for_port(port)
        url = f"postgres://bench@127.0.0.1:{port}/postgres"
        wait_until(lambda: subprocess.run(["psql", url, "-c", "select 1"], capture_output=True).returncode == 0)
        return url

    def control_plane(self, regions, cpu=None, postgres=False):
        self.regions = "".join(
            f'[[regions]]\nname = "{name}"\nredis_url = "{self.redis(cpu)}"\nnats_url = "{self.nats(cpu)}"\n'
            f'signing_key_file = "{self.path(name)}.signing_key"\n'
            f'fleet_secret_file = "{self.path(name)}.fleet_secret"\n'
            for name in regions
        )
        database = self.postgres(cpu) if postgres else f"sqlite://{self.dir}/log.db"
        config = self.file(
            "control.toml",
            f'[control]\nlisten = "127.0.0.1:0"\ndatabase_url = "{database}"\n{COMMON}{self.regions}',
        )
        return ControlPlane(self, config, cpu)

    def data_plane(self, region, cpu=None, workers=1):
        config = self.file(
            "data.toml",
            f'[data]\nlisten = "127.0.0.1:0"\nadmin_listen = "127.0.0.1:0"\nregion = "{region}"\n'
            f'snapshot_dir = "{self.path("proxy")}"\nworkers = {workers}\n{COMMON}{self.regions}',
        )
        return DataPlane(self, config, cpu)


COMMON = '[log]\nformat = "json"\nlevel = "info"\n[security]\nallow_private_upstreams = true\n'


class Upstream:
    def __init__(self, world, cpu):
        self.process = world.start(EXAMPLES / "bench-upstream", [], cpu=cpu, stdout=subprocess.PIPE)
        self.address = self.process.stdout.readline().decode().strip()


class Plane:
    """A process of the binary."""

    def __init__(self, world, command, config, cpu, listeners):
        log = world.path(f"{command}.log")
        self.process = world.start(BINARY, [command, "--config", config], cpu, stderr=open(log, "wb"))
        self.addresses = {}

        def all_listen():
            for line in log.read_text().splitlines():
                row = json.loads(line) if line.startswith("{") else {}
                if row.get("message") == "listening":
                    self.addresses[row["listener"]] = row["address"]
            if self.process.poll() is not None:
                sys.exit(f"{command} ended:\n{log.read_text()}")
            return listeners <= self.addresses.keys()

        wait_until(all_listen)


class ControlPlane(Plane):
    def __init__(self, world, config, cpu):
        super().__init__(world, "control-plane", config, cpu, {"control"})
        self.address = self.addresses["control"]
        made = subprocess.run(
            [BINARY, "bootstrap", "--email", "bench@example.com", "--json", "--config", config],
            check=True,
            stdout=subprocess.PIPE,
        )
        self.token = json.loads(made.stdout)["control_token"]

    def post(self, path, body):
        connection = http.client.HTTPConnection(self.address, timeout=30)
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            sys.exit(f"{path}: {answer.status} {text.decode()}")
        return json.loads(text)

    def make_target(self, upstream):
        host, port = upstream.address.split(":")
        self.post(
            "/v1/targets",
            {"name": "bench", "host": host, "port": int(port), "scheme": "http", "allow_private": True},
        )

    def make_keys(self, count):
        def make(number):
            body = {"name": f"bench {number}", "limits": {"rps": 1_000_000}}
            return self.post("/v1/api-keys?wait=committed", body)["secret"]

        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(make, range(count)))


class DataPlane(Plane):
    def __init__(self, world, config, cpu):
        super().__init__(world, "data-plane", config, cpu, {"proxy", "admin"})
        self.address = self.addresses["proxy"]

    def wait_for(self, key):
        def admitted():
            connection = http.client.HTTPConnection(self.address, timeout=5)
            connection.request("GET", "/t/bench/", headers={"x-api-key": key})
            return connection.getresponse().status == 200

        wait_until(admitted, every=0.5)
