"""A federation over TLS with authenticated SuperNodes computes what the local engine computes."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from harness import TINY
from safetensors.torch import load_file

from fedloge.commands import certificates as certs
from fedloge.errors import InputError
from fedloge.results.export import export_client
from fedloge.results.run import open_run
from fedloge.results.trained_model import load

from .compose_file import can_be_read_only
from .conftest import NGINX

if TYPE_CHECKING:
    from .conftest import Deployment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FEW: dict[str, Any] = TINY | {
    "num-clients": 3,
    "clients-per-round": 2,
    "rounds": 2,
    "evaluate-every": 2,
}


@pytest.fixture(scope="module")
def deployed(federation: Deployment) -> subprocess.CompletedProcess[str]:
    """`fedloge run` on the deployment, to its end; meanwhile the gateway's certificate is renewed."""
    arguments = ("run", "--name=tls", f"--runs-dir={federation.runs}", "--json")
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(federation.fedloge, *arguments, **FEW)
        first_round = federation.runs / "tls" / "metrics.jsonl"
        while not (run.done() or first_round.exists()):
            time.sleep(0.2)
        certs.renew_server(federation.secrets)
        if NGINX:
            os.kill(federation.processes["gateway"].pid, signal.SIGHUP)
        return run.result()


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed; apt-get install nginx-light")
def test_a_new_certificate_is_seen_and_the_run_goes_on(
    deployed: subprocess.CompletedProcess[str], federation: Deployment
) -> None:
    seen = ssl.get_server_certificate(("127.0.0.1", federation.gateway_port))
    assert seen == (federation.secrets / "server.crt").read_text()
    # The SuperLink has the old one until it is started again; the gateway trusts it by the authority.
    behind = ssl.get_server_certificate(("127.0.0.1", federation.superlink_port))
    assert behind != seen and deployed.returncode == 0


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on the local engine."""
    folder = tmp_path_factory.mktemp("local")
    sets = [f"--set={key}={value}" for key, value in FEW.items()]
    program = Path(sys.executable).with_name("fedloge")
    subprocess.run([program, "run", "--name=tls", f"--runs-dir={folder}", *sets], check=True)
    return folder / "tls"


def test_a_deployed_run_ends_well_and_is_shown(
    deployed: subprocess.CompletedProcess[str], federation: Deployment
) -> None:
    assert deployed.returncode == 0, deployed.stderr
    assert json.loads(deployed.stdout)["folder"] == str(federation.runs / "tls")
    # The ServerApp's lines came through Flower's log to the person who waits.
    lines = [line for line in deployed.stderr.splitlines() if line.startswith("round ")]
    assert [line.split()[1] for line in lines] == ["1", "2"]


def test_nothing_is_written_but_to_volumes(
    deployed: subprocess.CompletedProcess[str], federation: Deployment
) -> None:
    """What the compose file promises of each service; a run has just gone through them."""
    if not can_be_read_only():
        pytest.skip("needs root and 'unshare -m': mounts of a process's own")
    read_only = {name for name, s in federation.file["services"].items() if s.get("read_only")}
    running = read_only & federation.processes.keys()
    assert {"superlink", "superexec-server", "supernode-0", "superexec-client-0"} <= running
    for name in running:
        mounts = Path(f"/proc/{federation.processes[name].pid}/mountinfo").read_text().splitlines()
        flags = {line.split()[4]: line.split()[5].split(",") for line in mounts}
        assert "ro" in flags["/"] and "ro" in flags[str(federation.folder)], name


def test_the_final_model_is_the_local_engines_bit_for_bit(
    deployed: subprocess.CompletedProcess[str], federation: Deployment, reference: Path
) -> None:
    there, here = (
        load_file(folder / "checkpoint" / "round-000002.safetensors")
        for folder in (federation.runs / "tls", reference)
    )
    assert there.keys() == here.keys()
    for name, tensor in there.items():
        assert torch.equal(tensor, here[name]), name


def test_metrics_are_the_local_engines(
    deployed: subprocess.CompletedProcess[str], federation: Deployment, reference: Path
) -> None:
    for name in ("metrics", "clients", "classes"):
        there, here = (
            (folder / f"{name}.jsonl").read_text()
            for folder in (federation.runs / "tls", reference)
        )
        assert there == here


def test_personal_heads_lie_at_their_sites_only(
    deployed: subprocess.CompletedProcess[str], federation: Deployment, reference: Path
) -> None:
    found = {k: list((federation.folder / f"state-{k}").rglob("*.safetensors")) for k in range(3)}
    trained = {path.parent.name: path for path in (reference / "heads").rglob("*.safetensors")}
    assert {f"client-{k:05d}" for k, paths in found.items() if paths} == trained.keys()
    for k, paths in found.items():
        for path in paths:
            assert path.parent.name == f"client-{k:05d}"
            here = load_file(reference / "heads" / path.parent.name / path.name)
            assert all(torch.equal(t, here[name]) for name, t in load_file(path).items())
    assert not (federation.runs / "tls" / "heads").exists()


def test_every_message_stands_in_the_audit_logs(
    deployed: subprocess.CompletedProcess[str], federation: Deployment
) -> None:
    """The sites' policy is the strict one that clients/policy.toml shows, and lets this run through."""
    results = {
        row["digest"]: row for row in audited(federation, "runs") if row["event"] == "result"
    }
    trained = 0
    for k in range(3):
        rows = [row for row in audited(federation, f"state-{k}") if row.get("name") == "tls"]
        events = [row["event"] for row in rows]
        assert events == ["received", "sent"] * (len(rows) // 2) and rows
        for sent in rows[1::2]:
            if sent["kind"] != "train":
                continue
            trained += 1
            # What the site says it sent is what the server says it got.
            result = results[sent["records"]["arrays"]["digest"]]
            assert (result["client"], result["round"]) == (k, sent["round"])
    assert trained == 2 * FEW["clients-per-round"]


def test_a_strict_site_refuses_what_its_policy_forbids(federation: Deployment) -> None:
    asked = FEW | {"method": "ccvr", "rounds": 1}
    done = federation.fedloge("run", "--name=ccvr", f"--runs-dir={federation.runs}", **asked)
    assert done.returncode == 1
    assert "this site's policy, class-counts: method 'ccvr'" in done.stderr, done.stderr
    for k in range(3):
        refused = audited(federation, f"state-{k}", "--refused")
        assert refused[-1]["rule"] == "class-counts" and refused[-1]["method"] == "ccvr"
    told = [row for row in audited(federation, "runs", "--refused") if row["name"] == "ccvr"]
    assert len(told) >= 3 and all("class-counts" in row["reason"] for row in told[:3])


def audited(federation: Deployment, folder: str, *more: str) -> list[dict[str, Any]]:
    """What `fedloge audit` says of a log, whose chain is whole."""
    done = federation.run("fedloge", "audit", str(federation.folder / folder), "--json", *more)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_site_takes_its_personal_model_out(
    deployed: subprocess.CompletedProcess[str],
    federation: Deployment,
    reference: Path,
    tmp_path: Path,
) -> None:
    run, here = open_run(federation.runs / "tls"), open_run(reference)
    k = int(min(path.name for path in (reference / "heads").iterdir())[-1])
    with pytest.raises(InputError, match="are at their sites"):
        export_client(run, k, tmp_path / "refused")
    site = export_client(run, k, tmp_path / "site", state_dir=federation.folder / f"state-{k}")
    assert site["rounds-trained"] >= 1
    export_client(here, k, tmp_path / "here")
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    logits = [load(tmp_path / name)(images) for name in ("site", "here")]
    assert torch.equal(*logits)


def test_a_run_that_fails_is_reported_as_failed(federation: Deployment) -> None:
    done = federation.fedloge(
        "run", "--name=bad", f"--runs-dir={federation.runs}", model="resnet99"
    )
    assert done.returncode == 1
    assert "finished:failed" in done.stderr and "resnet99" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2, done.stderr


def test_an_unknown_superlink_is_named(federation: Deployment) -> None:
    done = federation.run("fedloge", "run", "--engine=superlink", "--superlink=nowhere")
    assert done.returncode == 1
    assert "'nowhere' not found" in done.stderr and "Traceback" not in done.stderr


def supernode(federation: Deployment, folder: Path, **changed: str) -> tuple[int, str]:
    """Exit code and output of a SuperNode that tries to join with the keys in `folder`."""
    command = federation.command("supernode-0")
    options = {
        "--root-certificates": str(folder / "client-0" / "ca.crt"),
        "--auth-supernode-private-key": str(folder / "client-0" / "supernode.key"),
        "--port": str(federation.spare_port),
        **{f"--{key.replace('_', '-')}": value for key, value in changed.items()},
    }
    command = [word for word in command if word.partition("=")[0] not in options]
    command += [f"{key}={value}" if value else key for key, value in options.items()]
    try:
        done = subprocess.run(
            [*command, "--max-retries=0"],
            env=federation.environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        return 0, f"still connected after {exc.timeout} s: {exc.output}"
    return done.returncode, done.stdout


def test_an_unregistered_key_is_refused(federation: Deployment, tmp_path: Path) -> None:
    certs.create(tmp_path / "s", clients=1)
    own = tmp_path / "s"
    (own / "client-0" / "ca.crt").write_bytes((federation.secrets / "ca.crt").read_bytes())
    code, output = supernode(federation, own)
    assert code != 0 and "Failed to activate SuperNode" in output


def test_a_server_of_another_authority_is_refused(federation: Deployment, tmp_path: Path) -> None:
    certs.create(tmp_path / "s", clients=1)
    code, output = supernode(federation, tmp_path / "s")
    assert code != 0 and "CERTIFICATE_VERIFY_FAILED" in output


@pytest.mark.parametrize("door", ["gateway", "superlink"])
def test_a_client_that_speaks_plaintext_is_refused(federation: Deployment, door: str) -> None:
    if door == "gateway" and NGINX is None:
        pytest.skip("nginx is not installed; apt-get install nginx-light")
    port = federation.gateway_port if door == "gateway" else federation.superlink_port
    done = subprocess.run(
        # With its key, Flower's own client would refuse to go on before a word is said.
        [
            *("flower-supernode", "--insecure", f"--superlink=127.0.0.1:{port}"),
            *(f"--port={federation.spare_port}", "--isolation=process", "--max-retries=0"),
        ],
        env=federation.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0 and "Failed to initialize the connection" in done.stdout
