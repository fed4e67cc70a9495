"""docker-compose.yml and its neighbours as Compose reads them, and what a container would make of them here."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SERVER, CLIENT = (
    json.loads(
        re.findall(r"^ENTRYPOINT (.*)$", (ROOT / folder / "Dockerfile").read_text(), re.M)[0]
    )
    for folder in ("server", "clients")
)
"""What our own images run."""


def interpolated(text: str, environment: dict[str, str]) -> str:
    """What Compose makes of ${NAME:-default}."""
    return re.sub(
        r"\$\{(\w+):-([^}]*)\}", lambda match: environment.get(match[1]) or match[2], text
    )


def compose(file: str = "docker-compose.yml", **environment: str) -> dict[str, Any]:
    """A compose file as Compose reads it: anchors merged, variables filled in."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return yaml.safe_load(interpolated(text, environment))


def with_clients(file: dict[str, Any], clients: int) -> dict[str, Any]:
    """The file with at least so many clients: copies of client 2 with another number, as the guide says."""
    for k in range(3, clients):
        for part in ("services", "secrets", "networks", "volumes"):
            for name, entry in list(file[part].items()):
                if re.search(r"(^|-)2(-|$)", name):
                    text = re.sub(
                        r"(client|supernode|id=|data/client)(-?)2\b",
                        rf"\1\g<2>{k}",
                        json.dumps(entry),
                    )
                    file[part][re.sub(r"-2\b", f"-{k}", name)] = json.loads(text)
    return file


def words(value: str | list[str]) -> list[str]:
    """A command as a list."""
    return shlex.split(value) if isinstance(value, str) else [str(word) for word in value]


# What a container's read-only root and tmpfs are, made with a mount namespace of its own.
READ_ONLY = """
set -e
folder=$1 scratch=$2; shift 2
mkdir -p "$scratch"
mount --bind "$folder" "$folder"
mount -t tmpfs none "$scratch"
while [ "$1" != -- ]; do
  mkdir -p "$1"
  mount --bind "$1" "$1"
  shift
done
shift
mount -o remount,bind,ro "$folder"
mount -o remount,bind,ro /
cd "$scratch"
exec "$@"
"""


@cache
def can_be_read_only() -> bool:
    """Whether this machine lets a process have mounts of its own (root in most containers, not all)."""
    if shutil.which("unshare") is None:
        return False
    tried = ["unshare", "-m", "sh", "-c", "mount -o remount,bind,ro / && mount -t tmpfs none /tmp"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0
