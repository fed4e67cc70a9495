"""What a client's machine reaches of the server: a SuperNode's calls, and nothing that runs code."""

from __future__ import annotations

import http.client
import re
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest
from flwr.superlink.main import create_app

from .conftest import NGINX, ROOT

if TYPE_CHECKING:
    from .conftest import Deployment

CONF = (ROOT / "server" / "gateway.conf").read_text(encoding="utf-8")
# A node whose key the operator registered never registers itself.
NOT_FORWARDED = {"register-node", "unregister-node"}


def paths() -> set[str]:
    """Every path of the SuperLink's API, from Flower itself."""
    return set(create_app().openapi()["paths"])


def test_forwarded_are_the_calls_of_a_registered_supernode() -> None:
    (listed,) = re.findall(r"location ~ \^/v1/fleet/\(\?<call>([\w|-]+)\)\$", CONF)
    fleet = {path.removeprefix("/v1/fleet/") for path in paths() if path.startswith("/v1/fleet/")}
    assert set(listed.split("|")) == fleet - NOT_FORWARDED
    assert CONF.count("proxy_pass ") == 1


class Door:
    """HTTPS requests as a client's machine makes them, with the authority's certificate."""

    def __init__(self, port: int, ca: str) -> None:
        self.port = port
        self.context = ssl.create_default_context(cafile=ca)

    def post(self, path: str, method: str = "POST") -> int:
        """The status of a request; the path goes out as it stands."""
        connection = http.client.HTTPSConnection("localhost", self.port, context=self.context)
        try:
            connection.request(method, path, b"", {"Content-Type": "application/protobuf"})
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed; apt-get install nginx-light")
class TestOnTheWire:
    """Against a running gateway and SuperLink."""

    @pytest.fixture
    def gateway(self, federation: Deployment) -> Door:
        return Door(federation.gateway_port, str(federation.secrets / "client-0" / "ca.crt"))

    @pytest.fixture
    def core(self, federation: Deployment) -> Door:
        return Door(federation.superlink_port, str(federation.secrets / "ca.crt"))

    def test_nothing_but_the_fleet_is_forwarded(self, gateway: Door, core: Door) -> None:
        others = {path for path in paths() if not path.startswith("/v1/fleet/")} - {"/health"}
        others |= {"/docs", "/openapi.json", *(f"/v1/fleet/{name}" for name in NOT_FORWARDED)}
        assert {"/v1/control/start-run", "/v1/control/register-node"} < others
        assert {path: gateway.post(path) for path in others} == dict.fromkeys(others, 404)
        # The same call does reach the SuperLink from the core network: it is the gateway that refuses.
        assert core.post("/v1/control/start-run") != 404

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/fleet/../control/start-run",
            "/v1/fleet/%2e%2e/control/start-run",
            "/v1/fleet/pull-messages/../../control/start-run",
            "/v1/fleet/..%2fcontrol%2fstart-run",
            "/v1/fleet/%252e%252e/control/start-run",
            "/v1//control/start-run",
            "/v1/control/start-run?/v1/fleet/pull-messages",
            "/v1/control/start-run#/v1/fleet/pull-messages",
            "/v1/control/start-run%00/v1/fleet/pull-messages",
            "/v1/fleet/pull-messages%0a/../../control/start-run",
            "/v1/fleet/pull-messages;/control/start-run",
            "/V1/CONTROL/START-RUN",
        ],
    )
    def test_no_spelling_of_a_path_gets_past(self, gateway: Door, path: str) -> None:
        assert gateway.post(path) in (400, 404)

    def test_a_path_that_becomes_a_call_is_only_that_call(self, gateway: Door) -> None:
        # 401: it came to the SuperLink as pull-messages, unsigned.
        assert gateway.post("/v1/control/../fleet/pull-messages") in (400, 401, 422)

    def test_a_supernodes_call_comes_through_and_needs_its_key(
        self, gateway: Door, core: Door
    ) -> None:
        for call in ("pull-messages", "get-fab", "push-object"):
            path = f"/v1/fleet/{call}"
            assert gateway.post(path) == core.post(path) == 401

    def test_only_post_is_forwarded(self, gateway: Door) -> None:
        for method in ("GET", "PUT", "DELETE", "OPTIONS"):
            assert gateway.post("/v1/fleet/pull-messages", method) in (403, 405)

    def test_plain_http_is_refused(self, federation: Deployment) -> None:
        connection = http.client.HTTPConnection("localhost", federation.gateway_port)
        connection.request("POST", "/v1/fleet/pull-messages")
        assert connection.getresponse().status == 400
        connection.close()

    def test_code_cannot_be_submitted_from_a_clients_machine(self, federation: Deployment) -> None:
        # All that a client holds: the address, the authority, its own key.
        config = federation.home / "config.toml"
        ca = federation.secrets / "client-0" / "ca.crt"
        if "superlink.outside" not in config.read_text():
            with config.open("a") as f:
                f.write(
                    f'\n[superlink.outside]\naddress = "127.0.0.1:{federation.gateway_port}"\n'
                    f'root-certificates = "{ca}"\n'
                )
        done = federation.run("fedloge", "run", "--engine=superlink", "--superlink=outside")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert federation.run("flwr", "ls", "outside").returncode != 0


def test_the_gateways_config_is_one_nginx_takes(deployment_folder: Deployment) -> None:
    if NGINX is None:
        pytest.skip("nginx is not installed; apt-get install nginx-light")
    conf = deployment_folder.write_gateway_conf()
    done = subprocess.run([NGINX, "-t", "-c", conf], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
