"""`flower-supernode --trusted-entities` lets none of our runs through: what the operator's page says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import tomli_w
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from harness import TINY

from fedloge import config as configs

from .compose_file import ROOT

if TYPE_CHECKING:
    from .conftest import Deployment

pytestmark = [pytest.mark.deployment_faults, pytest.mark.timeout(900)]

REFUSED = "App verification is not supported by the connected SuperLink"
SETTINGS = TINY | {"rounds": 1, "startup-timeout": 20.0, "round-timeout": 60.0}


@pytest.fixture(scope="module")
def choosy(federation: Deployment) -> Iterator[Deployment]:
    """A fourth site, whose SuperNode asks for apps that one of its entities has signed."""
    key = Ed25519PrivateKey.generate().public_key()
    line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    file = federation.folder / "trusted.yaml"
    file.write_text(yaml.safe_dump({"fpk_00000000-0000-0000-0000-000000000000": line}))
    federation.launch_guest(3, 4, None, f"--trusted-entities={file}")
    yield federation
    federation.kill("guest-3")


def test_a_run_of_our_engine_is_refused(choosy: Deployment) -> None:
    done = choosy.fedloge("run", "--name=unsigned", f"--runs-dir={choosy.runs}", **SETTINGS)
    assert done.returncode == 1
    assert re.search(r"clients did not register within 20 s \(partition ids .*3\)", done.stderr)
    assert "did not say who it is: " in done.stderr
    assert REFUSED in choosy.log("guest-3")
    # The app did not run at that site: nothing is in its folder, not even an audit log.
    assert not (choosy.folder / "state-3").exists()


def test_a_run_of_flwr_run_is_refused(choosy: Deployment) -> None:
    before = choosy.log("guest-3").count(REFUSED)
    config = choosy.folder / "unsigned.toml"
    ours = configs.from_flat(SETTINGS | {"name": "flwr-run", "runs-dir": str(choosy.runs)})
    config.write_text(tomli_w.dumps(ours.for_flower()))
    done = choosy.run("flwr", "run", str(ROOT), "compose", "--stream", "--run-config", str(config))
    said = done.stdout + done.stderr
    assert re.search(r"clients did not register within 20 s \(partition ids .*3\)", said)
    assert choosy.log("guest-3").count(REFUSED) > before
