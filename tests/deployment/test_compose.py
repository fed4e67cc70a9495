"""docker-compose.yml without Docker: its schema, what it refers to, and every command by Flower's own parsers."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from flwr.common.config import parse_config_args
from flwr.supercore.cli.flower_superexec import _parse_args as superexec_parser
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink as superlink_parser
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode as supernode_parser

from fedloge.commands import certificates as certs

from .compose_file import ROOT, compose, words

FILE = compose()
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
CLIENTS = sorted(int(name[10:]) for name in SERVICES if name.startswith("supernode-"))


def superexecs() -> list[str]:
    return [name for name in SERVICES if name.startswith("superexec-")]


def test_it_is_what_the_compose_specification_asks_for() -> None:
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(FILE, json.loads(schema.read_text(encoding="utf-8")))


def test_compose_itself_reads_it(tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None or "version v" not in subprocess.getoutput(f"{program} version"):
        pytest.skip("Docker Compose 2 or newer is not installed")
    certs.create(tmp_path / "s", clients=len(CLIENTS))
    done = subprocess.run(
        [program, "--profile=cpu", "--profile=gpu", "--profile=operator", "config"],
        cwd=ROOT,
        env={"FEDLOGE_SECRETS": str(tmp_path / "s"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    read = yaml.safe_load(done.stdout)["services"]
    assert read.keys() == SERVICES.keys()
    for name, service in SERVICES.items():
        for key in ("command", "entrypoint", "image", "user", "profiles"):
            assert read[name].get(key) == service.get(key), f"{name}: {key}"


# --- Commands ------------------------------------------------------------------------------------


def parsed(service: str, parser: argparse.ArgumentParser) -> argparse.Namespace:
    program, *arguments = words(SERVICES[service].get("entrypoint", ["flower-superexec"])) + words(
        SERVICES[service].get("command", [])
    )
    assert program == f"flower-{service.partition('-')[0]}"
    return parser.parse_args(arguments)


def test_the_superlink_authenticates_and_encrypts() -> None:
    args = parsed("superlink", superlink_parser())
    assert args.enable_supernode_auth and not args.insecure
    assert args.ssl_certfile and args.ssl_keyfile and args.ssl_ca_certfile
    assert args.isolation == "process" and not args.runtime_dependency_install
    assert Path(args.database).parent == Path("/superlink")
    assert args.superexec_auth_secret_file


@pytest.mark.parametrize("k", CLIENTS)
def test_a_supernode_authenticates_and_encrypts(k: int) -> None:
    args = parsed(f"supernode-{k}", supernode_parser())
    assert args.root_certificates and not args.insecure and args.auth_supernode_private_key
    assert args.superlink == "gateway:8443" and args.isolation == "process"
    assert parse_config_args([args.node_config]) == {
        "partition-id": k,
        "num-partitions": len(CLIENTS),
        "state-dir": "/state",
        "data-path": "/data",
        "cache-dir": "/state/.cache",
        "policy": "/etc/fedloge/policy.toml",
    }


@pytest.mark.parametrize("service", superexecs())
def test_a_superexec_proves_who_it_is_to_the_right_address(service: str) -> None:
    args = parsed(service, superexec_parser())
    assert args.superexec_auth_secret_file and args.runtime_dependency_install is False
    host, port = args.runtime_api_address.split(":")
    if service == "superexec-server":
        assert (host, port) == ("superlink", "8000") and args.root_certificates
    else:
        k = service.split("-")[2]
        assert (host, port) == ("supernode", "9094") and args.insecure
        aliases = SERVICES[f"supernode-{k}"]["networks"][f"client-{k}"]["aliases"]
        assert host in aliases and SERVICES[service]["networks"] == [f"client-{k}"]


def test_a_wrong_flag_would_be_found(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        superlink_parser().parse_args(["--serverappio-api-address=0.0.0.0:9091"])
    assert "no longer supported" in capsys.readouterr().err


# --- What it refers to ---------------------------------------------------------------------------


def test_all_that_is_mounted_is_declared_and_all_that_is_declared_is_used(tmp_path: Path) -> None:
    used: dict[str, set[str]] = {"secrets": set(), "configs": set(), "volumes": set()}
    networks: set[str] = set()
    for service in SERVICES.values():
        for kind in ("secrets", "configs"):
            used[kind] |= {entry["source"] for entry in service.get(kind, [])}
        sources = (entry.split(":")[0] for entry in service.get("volumes", []))
        used["volumes"] |= {source for source in sources if "/" not in source}
        networks |= set(service.get("networks", []))
    assert networks == FILE["networks"].keys()
    for kind, names in used.items():
        assert names == FILE[kind].keys(), kind


def test_every_secret_is_a_file_that_certs_makes(tmp_path: Path) -> None:
    certs.create(tmp_path / "s", clients=len(CLIENTS))
    secrets = compose(FEDLOGE_SECRETS=str(tmp_path / "s"))["secrets"]
    paths = [Path(entry["file"]) for entry in secrets.values()]
    assert all(path.is_file() for path in paths)
    # The authority's key, which could vouch for anyone, goes into no container.
    assert not any(path.name == "ca.key" for path in paths)


def test_files_and_build_contexts_exist() -> None:
    for service in SERVICES.values():
        if build := service.get("build"):
            assert build["context"] == "." and (ROOT / build["dockerfile"]).is_file()
    for entry in FILE["configs"].values():
        assert "content" in entry or (ROOT / entry["file"]).is_file()


def test_every_path_under_run_secrets_is_mounted_there() -> None:
    for name, service in SERVICES.items():
        mounted = {f"/run/secrets/{entry['target']}" for entry in service.get("secrets", [])}
        texts = [*words(service.get("entrypoint", [])), *words(service.get("command", []))]
        texts += service.get("healthcheck", {}).get("test", [])
        if name == "gateway":
            texts.append((ROOT / "server" / "gateway.conf").read_text())
        if name == "operator":
            texts.append(FILE["configs"]["flower"]["content"])
        wanted = set(re.findall(r"/run/secrets/[\w.]+", " ".join(texts)))
        assert wanted == mounted, name


def test_variables_all_have_defaults() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert not re.findall(r"\$\{\w+\}|\$[A-Za-z_]", text)


# --- Isolation -----------------------------------------------------------------------------------


def networks_of(service: str) -> set[str]:
    return set(SERVICES[service].get("networks", []))


def test_no_client_shares_a_network_with_the_superlink() -> None:
    inside = {name for name in SERVICES if networks_of(name) & networks_of("superlink")}
    assert inside == {"superlink", "superexec-server", "gateway", "operator"}
    assert FILE["networks"]["core"]["internal"]


def test_only_the_gateway_is_published() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"gateway": ["8443:8443"]}


@pytest.mark.parametrize("k", CLIENTS)
def test_a_client_app_reaches_its_own_supernode_and_nothing_else(k: int) -> None:
    inside = {name for name in SERVICES if f"client-{k}" in networks_of(name)}
    app = {f"superexec-client-{k}", f"superexec-client-{k}-gpu"}
    assert inside == {f"supernode-{k}", *app}
    assert all(networks_of(name) == {f"client-{k}"} for name in app)
    assert FILE["networks"][f"client-{k}"]["internal"]


@pytest.mark.parametrize("k", CLIENTS)
def test_a_clients_state_and_keys_are_mounted_at_that_client_only(k: int) -> None:
    with_state = {
        n for n, s in SERVICES.items() if f"client-{k}-state:/state" in s.get("volumes", [])
    }
    assert with_state == {f"superexec-client-{k}", f"superexec-client-{k}-gpu"}
    holders = {
        name
        for name, service in SERVICES.items()
        for entry in service.get("secrets", [])
        if entry["source"].startswith(f"client-{k}-")
    }
    assert holders == {f"supernode-{k}", *with_state}
    keys = {e["source"] for n in with_state for e in SERVICES[n]["secrets"]}
    assert keys == {f"client-{k}-superexec"}  # what runs the app never sees the node's own key


# --- Robustness ----------------------------------------------------------------------------------


@pytest.mark.parametrize("service", [n for n in SERVICES if n not in ("prepare", "operator")])
def test_a_service_comes_back_says_how_it_is_and_is_bounded(service: str) -> None:
    entry = SERVICES[service]
    assert entry["restart"] == "unless-stopped"
    assert entry["healthcheck"]["test"][0] == "CMD"
    assert entry["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert entry["user"] == "49999:49999" and entry["cap_drop"] == ["ALL"]
    assert "privileged" not in entry and "/var/run/docker.sock" not in str(entry)
    # The harness starts them so, where the machine lets it.
    assert entry["read_only"] is True and entry["tmpfs"] == ["/tmp:size=512m"]
    assert entry["environment"]["HOME"] == "/tmp"


def test_images_are_pinned() -> None:
    for name, service in SERVICES.items():
        tag = service["image"].rpartition(":")[2]
        assert re.fullmatch(r"\d+\.\d+\.\d+(-alpine)?", tag), name
        if service["image"].startswith("flwr/"):
            assert tag == version("flwr")
        if service["image"].startswith("fedloge/"):
            assert tag == version("fedloge")


def test_an_image_can_be_named_by_its_digest() -> None:
    digest = f"sha256:{'0' * 64}"
    named = {
        variable: f"{image}@{digest}"
        for variable, image in re.findall(
            r"\$\{(FEDLOGE_\w+_IMAGE):-([^}]+)\}", (ROOT / "docker-compose.yml").read_text()
        )
    }
    assert len(named) == 4
    services = compose(**named)["services"]
    for name, service in services.items():
        if build := service.get("build"):
            assert build["args"]["PYTHON_IMAGE"].endswith(digest), name
        elif not service["image"].startswith("fedloge/"):
            assert service["image"].endswith(digest), name
    door = compose("docker-compose.client-certificates.yml", **named)["services"]["door-0"]
    assert door["image"].endswith(digest)


# --- Client certificates -------------------------------------------------------------------------


def test_the_doors_beside_the_clients() -> None:
    added = compose("docker-compose.client-certificates.yml")
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(added, json.loads(schema.read_text(encoding="utf-8")))
    gateway = SERVICES["gateway"]
    for k in CLIENTS:
        door = added["services"][f"door-{k}"]
        for key in ("image", "user", "cap_drop", "security_opt", "read_only", "restart"):
            assert door[key] == gateway[key], key
        sources = {entry["source"] for entry in door["secrets"]}
        # Its own certificate, and not the SuperNode's key.
        assert sources == {f"client-{k}-{n}" for n in ("ca", "site-certificate", "site-key")}
        assert sources <= FILE["secrets"].keys() | added["secrets"].keys()
        # The app, whose code is the server's, shares no network with it.
        networks = set(added["services"][f"supernode-{k}"]["networks"])
        assert networks == {f"door-{k}"} == set(door["networks"]) - {"fleet"}
        assert added["networks"][f"door-{k}"] == {"internal": True}


def test_gpus_are_reserved_behind_their_profile_only() -> None:
    for name, service in SERVICES.items():
        reserved = service.get("deploy", {}).get("resources", {}).get("reservations")
        assert bool(reserved) == name.endswith("-gpu")
        if name.startswith("superexec-client"):
            assert service["profiles"] == (["gpu"] if name.endswith("-gpu") else ["cpu"])


def test_the_pattern_of_a_client_repeats() -> None:
    """Client k is client 0 with its number: what the operator's guide tells to copy."""
    first = ["supernode-0", "superexec-client-0", "superexec-client-0-gpu"]
    for k in CLIENTS:
        for name in first:
            expected = re.sub(r"(client-|partition-id=)0", rf"\g<1>{k}", json.dumps(SERVICES[name]))
            assert json.loads(expected) == SERVICES[name.replace("-0", f"-{k}")]


# --- Images --------------------------------------------------------------------------------------

DOCKERFILES = [ROOT / "server" / "Dockerfile", ROOT / "clients" / "Dockerfile"]


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.parent.name)
def test_an_image_is_multi_stage_pinned_and_not_root(path: Path) -> None:
    steps = instructions(path)
    assert steps[0][0] == "ARG"
    variable, image = steps[0][1].split("=")
    bases = [rest.split()[0].replace(f"${{{variable}}}", image) for n, rest in steps if n == "FROM"]
    assert len(bases) == 2 and variable == "PYTHON_IMAGE"
    assert image == SERVICES["superexec-server"]["build"]["args"][variable]
    assert all(re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base) for base in bases)
    assert [rest for name, rest in steps if name == "USER"] == ["49999:49999"]
    run = {"server": '["flower-superexec"]', "clients": '["fedloge", "superexec"]'}
    assert steps[-1] == ("ENTRYPOINT", run[path.parent.name])
    last = max(i for i, (name, _) in enumerate(steps) if name == "FROM")
    copied = [rest for name, rest in steps[last:] if name == "COPY"]
    assert copied == ["--from=build /opt/fedloge /opt/fedloge"]  # no source, no build tools


def test_both_images_are_built_alike() -> None:
    server, client = (instructions(path) for path in DOCKERFILES)
    differing = [(a, b) for a, b in zip(server, client, strict=True) if a != b]
    assert [(a[1][-5:], b[1][-6:]) for a, b in differing[:-1]] == [("/runs", "/state")] * 2
    assert [name for name, _ in differing[-1]] == ["ENTRYPOINT"] * 2


def test_what_an_image_copies_exists_and_nothing_secret_is_in_its_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"  # all is left out but what is named
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    for path in DOCKERFILES:
        for name, rest in instructions(path):
            if name == "COPY" and not rest.startswith("--from"):
                sources = set(rest.split()[:-1])
                assert sources <= allowed and all((ROOT / source).exists() for source in sources)
