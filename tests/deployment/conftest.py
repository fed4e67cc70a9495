"""The services of docker-compose.yml as processes on loopback.

Their commands are read from the file itself; only what a container gives is put in
its place: host names, ports, paths of secrets and volumes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedloge.commands import certificates as certs

from .compose_file import (
    CLIENT,
    READ_ONLY,
    ROOT,
    SERVER,
    can_be_read_only,
    compose,
    with_clients,
    words,
)

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
MARK = "FEDLOGE_TEST_DEPLOYMENT"


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(number)]
        for s in held:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in held]


def _listens_on(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


class Deployment:
    """The compose file's services, each a process (group) of its own.

    Parameters
    ----------
    folder : for everything written: keys, states, logs, Flower's home, the runs.
    clients : SuperNodes to have.
    """

    def __init__(self, folder: Path, clients: int = 3) -> None:
        self.folder = folder
        self.clients = clients
        self.secrets = folder / "secrets"
        self.runs = folder / "runs"
        self.home = folder / "flwr"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.file = with_clients(compose(FEDLOGE_SECRETS=str(self.secrets)), clients)
        self._id = uuid.uuid4().hex
        ports = iter(free_ports(2 * len(self.file["services"])))
        self.superlink_port, self.gateway_port = next(ports), next(ports)
        self.spare_port = next(ports)
        self._own_ports = {name: next(ports) for name in self.file["services"]}
        certs.create(self.secrets, clients)
        for name in ("flwr", "superlink", "runs"):
            (folder / name).mkdir()
        for name, text in self.file["configs"].items():
            if name == "flower":
                (self.home / "config.toml").write_text(self._here("operator", text["content"]))

    @property
    def environment(self) -> dict[str, str]:
        """Of every process started here."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLWR_", "FEDLOGE_"))}
        return {
            **kept,
            **{"FLWR_HOME": str(self.home), "FLWR_TELEMETRY_ENABLED": "0"},
            **{"FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1", MARK: self._id},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def command(self, service: str) -> list[str]:
        """What the service runs, with this machine's addresses and paths."""
        entry = self.file["services"][service]
        default = {"superexec-server": SERVER, "superexec-client": CLIENT}
        image = service.rstrip("0123456789").rstrip("-")
        given = words(entry.get("entrypoint", default.get(image, []))) + words(
            entry.get("command", [])
        )
        return [self._here(service, word) for word in given]

    def health_command(self, service: str) -> list[str]:
        """The service's health check."""
        kind, *test = self.file["services"][service]["healthcheck"]["test"]
        assert kind == "CMD"
        return [self._here(service, word) for word in test]

    def start(self, *services: str, wait: float = 240.0) -> None:
        """Start services and wait until each is healthy."""
        for service in services:
            command = self.command(service)
            if service == "gateway":
                conf = self.write_gateway_conf()
                command = [str(NGINX), "-e", "/dev/stderr", "-c", str(conf)]
            self.launch(service, self._contained(service, command))
        for service in services:
            self.wait_healthy(service, wait)

    def launch(self, name: str, command: list[str]) -> None:
        """Start a process of this deployment, with a log of its own."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=self._environment_of(name),
                start_new_session=True,
            )

    def _contained(self, service: str, command: list[str]) -> list[str]:
        """The command behind a read-only root, where the file says so and the machine lets us."""
        if not self.file["services"][service].get("read_only") or not can_be_read_only():
            return command
        client = service.rpartition("-")[2]
        writable = {
            "superlink": ["superlink"],
            "superexec-server": ["runs"],
            f"superexec-client-{client}": [f"state-{client}", f"cache-{client}"],
        }.get(service, [])
        for name in writable:
            (self.folder / name).mkdir(exist_ok=True)
        places = [str(self.folder / name) for name in writable]
        scratch = str(self.scratch(service))
        shell = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", str(self.folder), scratch]
        return [*shell, *places, "--", *command]

    def scratch(self, service: str) -> Path:
        """What is a container's /tmp."""
        return self.folder / f"tmp-{service}"

    def _environment_of(self, service: str) -> dict[str, str]:
        entry = self.file["services"].get(service, {})
        self.scratch(service).mkdir(exist_ok=True)
        own = {
            key: value.replace("/tmp", str(self.scratch(service))).replace("/runs", str(self.runs))
            for key, value in entry.get("environment", {}).items()
        }
        return self.environment | own

    def write_gateway_conf(self) -> Path:
        """The gateway's config with this machine's addresses and paths."""
        self.scratch("gateway").mkdir(exist_ok=True)
        conf = self.folder / "gateway.conf"
        conf.write_text(self._here("gateway", (ROOT / "server" / "gateway.conf").read_text()))
        return conf

    def launch_nginx(self, name: str, conf: str, port: int) -> None:
        """Start an nginx beside the file's own, and wait until it listens."""
        path = self.folder / f"{name}.conf"
        path.write_text(conf)
        self.launch(name, [str(NGINX), "-e", "/dev/stderr", "-c", str(path)])
        self.wait(lambda: _listens_on(port), name)

    def launch_guest(self, k: int, clients: int, door: int | None = None, *more: str) -> None:
        """Start a SuperNode beside the federation's own, as client `k` of `clients`, with a key of its own.

        Parameters
        ----------
        door : port of loopback through which it goes; None: the gateway's.
        more : further options.
        """
        folder = self.secrets / f"client-{k}"
        if not folder.exists():
            certs.add_client(self.secrets, k)
            self.register(k)
        text = json.dumps(self.command("supernode-0"))
        changed = {
            "partition-id=0": f"partition-id={k}",
            f"num-partitions={self.clients}": f"num-partitions={clients}",
            f"{self.secrets}/client-0/": f"{folder}/",
            f"{self.folder}/state-0": f"{self.folder}/state-{k}",
            f"--port={self._own_ports['supernode-0']}": f"--port={self.spare_port}",
        }
        if door is not None:
            ours = self.gateway_port if NGINX else self.superlink_port
            changed[f"--superlink=127.0.0.1:{ours}"] = f"--superlink=127.0.0.1:{door}"
        for there, here in changed.items():
            assert there in text, there
            text = text.replace(there, here)
        name = f"guest-{k}"
        self.launch(name, [*json.loads(text), *more])
        self.wait(lambda: "SuperNode ID" in self.log(name), name)

    def wait(self, seen: Callable[[], bool], name: str, seconds: float = 240.0) -> None:
        """Until something is seen of a process; `RuntimeError` with its log if it ends, or too late."""
        deadline = time.monotonic() + seconds
        while not seen():
            if self.processes[name].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name}:\n{self.log(name)[-3000:]}")
            time.sleep(0.2)

    def wait_healthy(self, service: str, seconds: float) -> None:
        """Until the service's own health check passes."""
        deadline = time.monotonic() + seconds
        while True:
            if self.processes[service].poll() is not None:
                raise RuntimeError(f"{service} ended:\n{self.log(service)[-3000:]}")
            if self._listens(service):
                done = subprocess.run(
                    self.health_command(service),
                    env=self.environment,
                    capture_output=True,
                    check=False,
                )
                if done.returncode == 0:
                    return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{service} is not healthy:\n{self.log(service)[-3000:]}")
            time.sleep(0.2)

    def start_all(self) -> None:
        """The whole federation, and its clients' keys registered."""
        self.start("superlink")
        self.register(*range(self.clients))
        nodes = [name for k in range(self.clients) for name in self.client(k)]
        self.start("superexec-server", *(["gateway"] if NGINX else []), *nodes)

    @staticmethod
    def client(k: int) -> tuple[str, str]:
        """The two services of a client."""
        return f"supernode-{k}", f"superexec-client-{k}"

    def register(self, *clients: int) -> None:
        """What an operator does with a new client's public key."""
        for k in clients:
            key = self.secrets / f"client-{k}" / "supernode.pub"
            name = f"--name=client-{k}"
            done = self.run("flwr", "supernode", "register", str(key), "compose", name)
            if done.returncode:
                raise RuntimeError(done.stdout + done.stderr)

    def run(self, *command: str, timeout: float = 800.0) -> subprocess.CompletedProcess[str]:
        """An operator's command, to its end."""
        program = Path(sys.executable).with_name(command[0])
        return subprocess.run(
            [str(program), *command[1:]],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def fedloge(self, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """A `fedloge` command on this SuperLink."""
        return self.run("fedloge", *self.arguments(*arguments, **settings))

    def arguments(self, *arguments: str, **settings: Any) -> list[str]:
        """Of a `fedloge` command on this SuperLink, with config keys set."""
        sets = [f"--set={key.replace('_', '-')}={value}" for key, value in settings.items()]
        return [*arguments, "--engine=superlink", "--superlink=compose", *sets]

    def kill(self, *services: str) -> None:
        """End services as a crash would."""
        for service in services:
            process = self.processes.pop(service)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def stop(self) -> None:
        """End everything that was started here, and whatever that started."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while self.alive() and time.monotonic() < deadline:
            for process in self.processes.values():
                process.poll()
            time.sleep(0.1)
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes.values():
            process.wait()

    def alive(self) -> list[int]:
        """Processes that carry this deployment's mark, children of children too."""
        mark = f"{MARK}={self._id}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def log(self, service: str) -> str:
        """What the service has written."""
        return (self.folder / f"{service}.log").read_text(errors="replace")

    def _listens(self, service: str) -> bool:
        # Asking a port that is closed would start an interpreter for nothing.
        return _listens_on(self._port(service))

    def _port(self, service: str) -> int:
        return {"superlink": self.superlink_port, "gateway": self.gateway_port}.get(
            service, self._own_ports[service]
        )

    def _here(self, service: str, text: str) -> str:
        client = service.rpartition("-")[2]
        supernode = self._own_ports.get(f"supernode-{client}", 0)
        door = self.gateway_port if NGINX else self.superlink_port
        places = {
            # First: what others put in begins with it on most machines.
            " /tmp/": f" {self.scratch(service)}/",
            "listen 8443": f"listen 127.0.0.1:{self.gateway_port}",
            "gateway:8443": f"127.0.0.1:{door}",
            "localhost:8443": f"localhost:{self.gateway_port}",
            "superlink:8000": f"127.0.0.1:{self.superlink_port}",
            "localhost:8000": f"localhost:{self.superlink_port}",
            "--port=8000": f"--port={self.superlink_port}",
            "supernode:9094": f"127.0.0.1:{supernode}",
            "127.0.0.1:9094": f"127.0.0.1:{supernode}",
            "--port=9094": f"--port={supernode}",
            "127.0.0.1:9095": f"127.0.0.1:{self._own_ports[service]}",
            "0.0.0.0": "127.0.0.1",
            "/superlink/": f"{self.folder}/superlink/",
            "/run/gateway/": f"{self.secrets}/gateway/",
            '"/state/.cache"': f'"{self.folder}/cache-{client}"',
            '"/etc/fedloge/policy.toml"': f'"{ROOT}/clients/policy.toml"',
            '"/state"': f'"{self.folder}/state-{client}"',
            '"/data"': f'"{self.folder}/data-{client}"',
            **{
                f"/run/secrets/{given['target']}": self.file["secrets"][given["source"]]["file"]
                for given in self.file["services"][service].get("secrets", [])
            },
        }
        for there, here in places.items():
            text = text.replace(there, here)
        return text


@pytest.fixture(scope="package")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Deployment]]:
    """Make deployments; each is stopped at the end, and nothing of it is left."""
    made: list[Deployment] = []

    def make(clients: int = 3) -> Deployment:
        made.append(Deployment(tmp_path_factory.mktemp("deployment"), clients))
        return made[-1]

    yield make
    for deployment in made:
        deployment.stop()
    left = [pid for deployment in made for pid in deployment.alive()]
    assert not left, f"processes left behind: {left}"


@pytest.fixture(scope="package")
def federation(deploy: Callable[..., Deployment]) -> Deployment:
    """The whole federation, up and registered; for tests that leave it as it was."""
    deployment = deploy()
    deployment.start_all()
    return deployment


@pytest.fixture(scope="module")
def deployment_folder(deploy: Callable[..., Deployment]) -> Deployment:
    """A deployment's keys and configs, with nothing started."""
    return deploy()
