"""Does the code still train to the same bits? Record what many small runs give, and compare two records.

    python tests/same_bits.py record --command OLD/.venv/bin/fedloge --dialect old --out DIR_A --jobs 2
    python tests/same_bits.py record --command .venv/bin/fedloge --dialect new --out DIR_B --jobs 2
    python tests/same_bits.py compare DIR_A DIR_B

Nothing of the project is imported: a case of same_bits_cases.toml is a few calls of its command line
in an empty folder. Kept are all lines of metrics, clients and classes, and the shape, type and SHA-256
of every tensor.
"""

# ruff: noqa: T201 - a script: what it prints is for whoever calls it
from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time
import tomllib
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import deserialize

# Names of record keys and tensors that have changed on purpose: {old: new}.
RENAMED: dict[str, str] = {}
# What the noise of differential privacy, which no seed fixes, leaves alone.
NOISELESS = {"round", "clients", "failed", "images", "privacy/epsilon", "evaluated-clients"}
NOISELESS |= {"client", "num-train", "num-test", "trained-rounds"}
# Keys of their own in the old dialect, method-options of fedloge in the new one.
FORMERLY_TOP = ("gamma", "sparsity", "prototypes", "personal-realignment")
# Keys of the old dialect, and where they stand in the new one.
MOVED = {
    "local-loss": "method-options.loss",
    "local-loss-options": "method-options.loss-options",
    "post-hoc": "method-options.post-hoc",
    "dirichlet-alpha": "partitioner-options.alpha",
    "classes": "partitioner-options.classes",
    "share-class-counts": "partitioner-options.share-class-counts",
}
CIFAR = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10-lt.tar.xz"
MARK, SHOWN, SECONDS = "FEDLOGE_SAME_BITS", 5, 1500.0

WRITTEN = tomllib.loads(Path(__file__).with_name("same_bits_cases.toml").read_text("utf-8"))
SPECIAL = ("engine", "equals", "stop-after", "noisy")


def whole(settings: dict[str, Any]) -> dict[str, Any]:
    """A case's settings with those it begins with, which are named by its key `like`."""
    own = dict(settings)
    first = own.pop("like", None)
    return (whole(WRITTEN["settings"][first]) if first else {}) | own


CASES = {
    name: WRITTEN["settings"]["all"] | whole(settings)
    for name, settings in WRITTEN["cases"].items()
}


def old_dialect(settings: dict[str, Any]) -> list[str]:
    """KEY=VALUE items as a flat config takes them: all options of a kind in one string."""
    flat = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    for table in settings.keys() - flat.keys():
        options = dict(settings[table])
        flat |= {key: options.pop(key) for key in FORMERLY_TOP if key in options}
        if options:
            flat[table] = ", ".join(f"{key} = {value}" for key, value in options.items())
    return [f"{key}={value}" for key, value in flat.items()]


def new_dialect(settings: dict[str, Any]) -> list[str]:
    """KEY=VALUE items as a config of tables takes them: KEY.OPTION=VALUE."""
    items, alpha_is_read = [], settings.get("partitioner", "dirichlet") in ("dirichlet", "quantity")
    for key, value in settings.items():
        name = MOVED.get(key, key)
        if name == "partitioner-options.alpha" and not alpha_is_read:
            continue
        options = value.items() if isinstance(value, dict) else ()
        items += [f"{name}.{option}={v}" for option, v in options] or [f"{name}={value}"]
    if settings.get("dataset") == "image-folder":
        # What the first version did with all data, and the new one with benchmarks' only.
        items += [] if "long-tail" in settings else ["long-tail=exp"]
        items += [] if settings.get("partitioner") == "on-node" else ["test-split=matched"]
    return [*items, "fast=true"] if "clients-at-once" in settings else items


DIALECTS = {"old": old_dialect, "new": new_dialect}


class Runner:
    """Runs cases with one `fedloge` command and keeps what they give in `out`."""

    def __init__(self, command: Path, dialect: str, out: Path, root: Path) -> None:
        self.command, self.dialect, self.out, self.root = command, DIALECTS[dialect], out, root
        self.places = {"cifar": CIFAR, **write_images(root / "images")}
        # Ray, a deployment and real images fill the machine by themselves.
        self.alone = threading.Lock()

    def record(self, name: str) -> bool:
        """Run a case and write its file; no file, and the reason printed, if it failed."""
        case, folder, file = CASES[name], self.root / name, self.out / f"{name}.json"
        file.unlink(missing_ok=True)
        folder.mkdir()
        heavy = "engine" in case or case.get("data-path") == "{cifar}"
        with self.alone if heavy else contextlib.nullcontext():
            started = time.monotonic()
            try:
                heads = self.run(name, case, folder)
                found = collect(folder / "runs" / name, heads, noisy="noisy" in case)
            except Exception as exc:  # of whatever kind: the other cases go on
                print(f"{name}: FAILED: {exc}", flush=True)
                return False
        file.write_text(json.dumps({"case": name, **found}, indent=1) + "\n", "utf-8")
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        return True

    def run(self, name: str, case: dict[str, Any], folder: Path) -> list[Path]:
        """Run a case to its end; the folders with the clients' personal tensors."""
        runs, engine = folder / "runs", case.get("engine", "local")
        values = {key: value for key, value in case.items() if key not in SPECIAL}
        values |= {"cache-dir": self.out / "cache", "runs-dir": runs}
        stop = case.get("stop-after", values["rounds"])
        items = self.dialect(values | {"rounds": stop})
        command = [self.command, "run", "--name", name, "--engine", engine]
        command += [f"--set={item.format(**self.places)}" for item in items]
        if engine == "superlink":
            with deployment(self.command, folder, int(values["num-clients"])) as environment:
                call([*command, "--superlink", "here"], folder, environment)
            return sorted(folder.glob("state-*"))
        call(command, folder)
        if stop != values["rounds"]:
            call([self.command, "resume", runs / name, "--rounds", values["rounds"]], folder)
        return [runs / name / "heads"]


def environment_of(command: Path) -> dict[str, str]:
    """One thread, no settings of the caller's, the command's own programs first."""
    dropped = ("FLWR_", "FEDLOGE_", "PYTHON", "VIRTUAL_ENV", "RAY_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    kept |= {"OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    return kept | {"FLWR_DISABLE_UPDATE_CHECK": "1", "PATH": f"{command.parent}:{kept['PATH']}"}


def call(command: list[Any], folder: Path, environment: dict[str, str] | None = None) -> None:
    """Run a command to its end; `RuntimeError` with its last words if it fails."""
    words = [str(word) for word in command]
    options: dict[str, Any] = {"cwd": folder, "env": environment or environment_of(command[0])}
    options |= {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    done = subprocess.run(words, timeout=SECONDS, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {(done.stderr or done.stdout)[-1500:]}")


def write_images(folder: Path) -> dict[str, Path]:
    """Folders of four sites, the last with all classes."""
    held = ((14, 0, 6), (0, 11, 5), (9, 6, 0), (24, 15, 9))
    for label, name in enumerate(("bird", "cat", "dog")):
        write_stripes(folder / "sites" / "test" / name, label, 6, seed=100)
        for k, counts in enumerate(held):
            own, tests = folder / "sites" / f"client-{k}", 0 if k == 2 else counts[label] // 3
            write_stripes(own / "train" / name, label, counts[label], seed=k)
            write_stripes(own / "test" / name, label, tests, seed=10 + k)
    return {"sites": folder / "sites", "plain": folder / "sites" / "client-3"}


def write_stripes(folder: Path, label: int, count: int, seed: int) -> None:
    """Images of 10x12 pixels: stripes of a period that tells the class, under noise."""
    stripes = 120 * ((np.arange(10) // (label + 1)) % 2)[None, None, :, None]
    noise = np.random.default_rng([seed, label]).integers(0, 90, (count, 12, 10, 3))
    for i, pixels in enumerate((stripes + noise + 20).astype(np.uint8)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{seed:03d}-{i:03d}.ppm").write_bytes(b"P6 10 12 255\n" + pixels.tobytes())


@contextlib.contextmanager
def deployment(command: Path, folder: Path, clients: int) -> Iterator[dict[str, str]]:
    """A SuperLink with TLS, SuperNodes with keys; the environment in which it is called `here`."""
    keys, mark = folder / "secrets", uuid.uuid4().hex
    environment = environment_of(command) | {"FLWR_HOME": str(folder / "flwr"), MARK: mark}

    def start(line: str) -> None:
        with (folder / "log").open("ab") as log:
            subprocess.Popen(shlex.split(line), cwd=folder, env=environment, stdout=log, stderr=log)

    call([command, "certs", "--out", keys, "--clients", clients], folder)
    port = free_port()
    (folder / "flwr").mkdir()
    (folder / "flwr" / "config.toml").write_text(
        f'[superlink.here]\naddress = "127.0.0.1:{port}"\nroot-certificates = "{keys}/ca.crt"\n'
    )
    try:
        start(
            f"flower-superlink --enable-supernode-auth --port={port} --disable-runtime-dependency-installation "
            f"--ssl-ca-certfile={keys}/ca.crt --ssl-certfile={keys}/server.crt --ssl-keyfile={keys}/server.key"
        )
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.2)
        for k in range(clients):
            own = keys / f"client-{k}"
            register = f"flwr supernode register {own}/supernode.pub here --name=client-{k}"
            call(shlex.split(register), folder, environment)
            node = f'partition-id={k} num-partitions={clients} state-dir="{folder}/state-{k}"'
            start(
                f"flower-supernode --superlink=127.0.0.1:{port} --port={free_port()} --node-config '{node}' "
                f"--root-certificates={own}/ca.crt --auth-supernode-private-key={own}/supernode.key"
            )
        yield environment
    finally:
        stop(f"{MARK}={mark}".encode())


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def stop(mark: bytes) -> None:
    """End the processes whose environment carries the mark: those started here, and theirs."""
    for how, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 0.5)):
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), how)
        time.sleep(seconds)


def collect(run: Path, heads: list[Path], *, noisy: bool) -> dict[str, Any]:
    """Records and tensors of a finished run; of a noisy one only what the noise leaves alone."""
    records = {}
    for name in ("metrics", "clients", "classes"):
        path = run / f"{name}.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        records[name] = [
            {k: v for k, v in json.loads(line).items() if not noisy or k in NOISELESS}
            for line in lines
        ]
    tensors: dict[str, dict[str, Any]] = {"run": {}}
    for path in sorted(run.glob("*.safetensors")):
        tensors["run"] |= digests(path)
    tensors["checkpoint"] = digests(max((run / "checkpoint").glob("*.safetensors")))
    for path in sorted(path for folder in heads for path in folder.rglob("*.safetensors")):
        client, round = re.findall(r"client-(\d+)", str(path))[-1], re.findall(r"\d+", path.stem)[0]
        tensors[f"client {int(client)} after round {int(round)}"] = digests(path)
    for held in tensors.values() if noisy else ():
        held |= {name: [*told[:2], "noise"] for name, told in held.items()}
    fingerprint = json.loads((run / "run.json").read_bytes()).get("fingerprint")
    return {"fingerprint": fingerprint, "records": records, "tensors": tensors}


def digests(path: Path) -> dict[str, list[Any]]:
    """Shape, type and SHA-256 of every tensor in a file."""
    return {
        name: [list(t["shape"]), t["dtype"], hashlib.sha256(t["data"]).hexdigest()]
        for name, t in sorted(deserialize(path.read_bytes()))
    }


def places(file: Path) -> dict[str, dict[str, Any]]:
    """Everything a case's file holds: place -> name -> value; nothing if it is missing."""
    found = json.loads(file.read_bytes() if file.exists() else '{"records": {}, "tensors": {}}')
    everything: dict[str, dict[str, Any]] = {}
    for kind, lines in found["records"].items():
        for line in lines:
            client = f", client {line['client']}" if "client" in line else ""
            place = f"{kind}, round {line.get('round')}{client}"
            everything[place + " again" * (place in everything)] = line
    return {
        place: {RENAMED.get(name, name): value for name, value in held.items()}
        for place, held in (everything | found["tensors"]).items()
    }


def differences(first: Path, second: Path) -> list[str]:
    """What differs between two cases' files, in the order of the first; none: the same bits."""
    left, right = places(first), places(second)
    found = [f"{file} is missing" for file, held in ((first, left), (second, right)) if not held]
    for place in dict.fromkeys([*left, *right]) if not found else ():
        one, other = left.get(place, {}), right.get(place, {})
        for name in dict.fromkeys([*one, *other]):
            # As written: 0.0 is not -0.0 here, and NaN is NaN.
            values = [json.dumps(side.get(name, "absent")) for side in (one, other)]
            if values[0] != values[1]:
                found.append(f"{place}: {name}: {' | '.join(values)}")
    if not found and list(left) != list(right):
        found.append("the same in another order")
    return found


def compare(first: Path, second: Path, only: list[str]) -> bool:
    """Print case by case how two folders compare; whether all is the same."""
    names = only or sorted({p.stem for folder in (first, second) for p in folder.glob("*.json")})
    results = []
    for name in names:
        against = {name: first / f"{name}.json"}
        if name in CASES and (equal := CASES[name].get("equals")) in names:
            against[f"{name} = {equal}"] = second / f"{equal}.json"
        for title, file in against.items():
            found = differences(file, second / f"{name}.json")
            results.append(not found)
            verdict = f"{len(found)} DIFFERENCES" if found else "identical"
            print("\n    ".join([f"{title}: {verdict}", *found[:SHOWN]]))
    print(f"{sum(results)} identical, {len(results) - sum(results)} different", flush=True)
    return bool(results) and all(results)


def main() -> int:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    record, check = commands.add_parser("record"), commands.add_parser("compare")
    record.add_argument("--command", required=True, type=Path, help="the fedloge program")
    record.add_argument("--dialect", choices=DIALECTS, required=True)
    record.add_argument("--out", required=True, type=Path)
    record.add_argument("--jobs", type=int, default=1)
    check.add_argument("folders", type=Path, nargs=2)
    for command in (record, check):
        command.add_argument("--only", type=lambda text: text.split(","), help="CASE,CASE")
    given = parser.parse_args()
    only = given.only or []
    if unknown := set(only) - CASES.keys():
        parser.error(f"no case {', '.join(sorted(unknown))}")
    if given.what == "compare":
        return 0 if compare(*given.folders, only) else 1
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="same-bits-") as folder:
        runner = Runner(given.command.absolute(), given.dialect, given.out.resolve(), Path(folder))
        with ThreadPoolExecutor(given.jobs) as pool:
            done = list(pool.map(runner.record, only or CASES))
    print(f"{sum(done)} of {len(done)} cases recorded in {given.out}", flush=True)
    return 0 if all(done) else 1


if __name__ == "__main__":
    raise SystemExit(main())
