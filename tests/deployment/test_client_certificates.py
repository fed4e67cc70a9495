"""The gateway asks sites for certificates: who comes in, who no longer does, and a SuperNode behind its door."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fedloge.commands import certificates as certs
from fedloge.commands import client_certificates as of_clients

from .compose_file import compose
from .conftest import NGINX, free_ports

if TYPE_CHECKING:
    from .conftest import Deployment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed; apt-get install nginx-light"),
]
CALL = "/v1/fleet/pull-messages"
REACHED_THE_SUPERLINK = 401
"""Flower's answer to a call without a SuperNode's signature."""


class StrictGateway:
    """A second gateway before the federation's SuperLink, with a folder of its own."""

    def __init__(self, federation: Deployment) -> None:
        self.federation = federation
        self.folder = federation.folder / "strict"
        shutil.copytree(federation.secrets, self.folder)
        (self.port,) = free_ports(1)
        conf = federation.write_gateway_conf().read_text()
        for there, here in {
            f"127.0.0.1:{federation.gateway_port}": f"127.0.0.1:{self.port}",
            str(federation.secrets): str(self.folder),
            "gateway.pid": "strict.pid",
        }.items():
            assert there in conf
            conf = conf.replace(there, here)
        federation.launch_nginx("strict", conf, self.port)

    def reload(self) -> None:
        """What `docker compose kill -s HUP gateway` does; nginx takes a moment."""
        os.kill(self.federation.processes["strict"].pid, signal.SIGHUP)

    def status(self, path: str, certificate: Path | None = None) -> int:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        if certificate is not None:
            context.load_cert_chain(certificate / "site.crt", certificate / "site.key")
        connection = http.client.HTTPSConnection("localhost", self.port, context=context)
        try:
            connection.request("POST", path, b"", {"Content-Type": "application/protobuf"})
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(scope="module")
def gateway(federation: Deployment) -> Iterator[StrictGateway]:
    made = StrictGateway(federation)
    yield made
    federation.kill("strict")


def test_a_gateway_asks_for_certificates_once_it_is_told_to(gateway: StrictGateway) -> None:
    assert gateway.status(CALL) == REACHED_THE_SUPERLINK
    done = gateway.federation.run(
        "fedloge", "certs", f"--out={gateway.folder}", "--client-certificates"
    )
    assert done.returncode == 0, done.stderr
    conf = gateway.folder / "gateway" / "client-certificates.conf"
    conf.write_text(conf.read_text().replace("/run/gateway/", f"{gateway.folder}/gateway/"))
    gateway.reload()
    gateway.federation.wait(lambda: gateway.status(CALL) == 400, "strict", 30)
    assert gateway.status("/health") == 204
    assert gateway.status(CALL, gateway.folder / "client-1") == REACHED_THE_SUPERLINK

    def written_down() -> bool:
        log = gateway.federation.log("strict").splitlines(keepends=True)
        lines = [json.loads(line) for line in log if line[0] == "{" and line[-1] == "\n"]
        return ("CN=client-1", "401") in [(line["certificate"], line["status"]) for line in lines]

    # The server writes its line after the answer has left it.
    gateway.federation.wait(written_down, "strict", 30)


def test_a_certificate_of_another_authority_is_refused(
    gateway: StrictGateway, tmp_path: Path
) -> None:
    certs.create(tmp_path / "s", clients=1)
    of_clients.ask_for_certificates(tmp_path / "s", days=1)
    assert gateway.status(CALL, tmp_path / "s" / "client-0") == 400


def test_a_supernode_comes_through_its_sites_door(gateway: StrictGateway) -> None:
    federation = gateway.federation
    text = compose("docker-compose.client-certificates.yml")["configs"]["door"]["content"]
    (port,) = free_ports(1)
    for there, here in {
        " /tmp/": f" {federation.scratch('door')}/",
        "listen 8443": f"listen 127.0.0.1:{port}",
        "https://gateway:8443": f"https://localhost:{gateway.port}",
        "/run/secrets/": f"{gateway.folder}/client-2/",
    }.items():
        assert there in text
        text = text.replace(there, here)
    federation.launch_nginx("door", text, port)
    try:
        # The certificate names the door, so the SuperNode checks whom it speaks to.
        federation.launch_guest(4, 5, port, f"--superlink=localhost:{port}")
    finally:
        federation.kill(*(name for name in ("guest-4", "door") if name in federation.processes))
    seen = [json.loads(line) for line in federation.log("strict").splitlines() if line[0] == "{"]
    last = [line for line in seen if "/activate-node" in line["request"]][-1]
    assert (last["status"], last["certificate"]) == ("200", "CN=client-2")


def test_a_revoked_certificate_is_refused_from_the_next_reload_on(gateway: StrictGateway) -> None:
    done = gateway.federation.run(
        "fedloge", "certs", f"--out={gateway.folder}", "--revoke-client=1"
    )
    assert done.returncode == 0, done.stderr
    assert gateway.status(CALL, gateway.folder / "client-1") == REACHED_THE_SUPERLINK
    gateway.reload()
    revoked = gateway.folder / "client-1"
    gateway.federation.wait(lambda: gateway.status(CALL, revoked) == 400, "strict", 30)
    assert gateway.status(CALL, gateway.folder / "client-0") == REACHED_THE_SUPERLINK
