"""What a client's machine reaches of the server: a SuperNode's calls, and nothing that runs code."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.supercore.retry.http_retry import _RETRYABLE_STATUS_CODES
from flwr.superlink.main import create_app

from .compose_file import ROOT
from .conftest import NGINX

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

    def test_polls_that_went_well_do_not_fill_the_log(self, federation: Deployment) -> None:
        logged = [json.loads(s) for s in federation.log("gateway").splitlines() if s[0] == "{"]
        requests = {(line["request"].split()[1], line["status"]) for line in logged}
        assert ("/v1/fleet/activate-node", "200") in requests
        assert ("/v1/fleet/pull-messages", "200") not in requests

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


def test_a_piece_of_a_tensor_is_smaller_than_a_request_may_be() -> None:
    (limit,) = re.findall(r"client_max_body_size (\d+)m;", CONF)
    assert int(limit) * 2**20 > 2 * FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed; apt-get install nginx-light")
class TestLimits:
    """Against a gateway of the same config, with no SuperLink behind it; its limits lowered where time is spent."""

    @pytest.fixture(scope="class")
    def up(self, deploy: Callable[..., Deployment]) -> Deployment:
        deployment = deploy(1)
        conf = deployment.write_gateway_conf().read_text()
        for there, here in {
            "client_header_timeout 15s": "client_header_timeout 1s",
            "rate=200r/s": "rate=2r/s",
            "burst=256": "burst=3",
            "limit_conn connections 128": "limit_conn connections 5",
        }.items():
            assert conf.count(there) == 1
            conf = conf.replace(there, here)
        deployment.launch_nginx("gateway", conf, deployment.gateway_port)
        return deployment

    @pytest.fixture
    def door(self, up: Deployment) -> Door:
        return Door(up.gateway_port, str(up.secrets / "ca.crt"))

    def lines(self, up: Deployment) -> list[dict[str, Any]]:
        return [json.loads(line) for line in up.log("gateway").splitlines() if line[0] == "{"]

    def test_a_request_that_is_too_long_is_refused_before_it_is_read(
        self, up: Deployment, door: Door
    ) -> None:
        connection = http.client.HTTPSConnection("localhost", door.port, context=door.context)
        connection.putrequest("POST", "/v1/fleet/push-object")
        connection.putheader("Content-Length", str(17 * 2**20))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()
        assert self.lines(up)[-1]["status"] == "413"

    def test_who_says_nothing_is_sent_away(self, door: Door) -> None:
        with socket.create_connection(("localhost", door.port), timeout=30) as plain:
            silent = door.context.wrap_socket(plain, server_hostname="localhost")
            assert silent.recv(1) == b""

    def test_too_many_calls_at_once_are_told_to_come_again(self, door: Door) -> None:
        with ThreadPoolExecutor(12) as pool:
            codes = list(pool.map(door.post, ["/v1/fleet/pull-messages"] * 12))
        # 502: it would have been forwarded. Flower's own client waits and tries again after either.
        assert set(codes) == {502, 503} and codes.count(502) <= 6
        assert {httpx.codes(code) for code in set(codes)} <= _RETRYABLE_STATUS_CODES

    def test_the_access_log_is_json_whatever_is_asked(self, up: Deployment, door: Door) -> None:
        door.post('/v1/"},%0a{"status":"200')
        line = self.lines(up)[-1]
        assert (
            line["request"].startswith('POST /v1/"},%0a{"status":"200') and line["status"] == "404"
        )
        assert line["address"] == "127.0.0.1" and line["tls"] == "TLSv1.3"
        known = len(self.lines(up))
        door.post("/health")
        assert len(self.lines(up)) == known


def test_the_gateways_config_is_one_nginx_takes(deployment_folder: Deployment) -> None:
    if NGINX is None:
        pytest.skip("nginx is not installed; apt-get install nginx-light")
    conf = deployment_folder.write_gateway_conf()
    done = subprocess.run([NGINX, "-t", "-c", conf], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
