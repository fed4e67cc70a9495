"""A site that runs its own code: the same app as the server's is answered, any other refused."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import harness
import pytest
from flwr.app import RecordDict
from flwr.cli.build import build_fab_from_disk
from one_message import ask, reason, work

from fedloge.audit_log import FOLDER, read_audit
from fedloge.client.client_app import app
from fedloge.client.own_code import APP, OwnCode

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle() -> bytes:
    """The project's app as Flower bundles it."""
    return build_fab_from_disk(ROOT)


def changed(bundle: bytes, **files: bytes | None) -> bytes:
    """A bundle with some files of the package replaced, added, or (None) left out."""
    given = {f"fedloge/{name.replace('__', '/')}.py": content for name, content in files.items()}
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(bundle)) as old, zipfile.ZipFile(out, "w") as new:
        kept = {name: old.read(name) for name in old.namelist()} | given
        for name, content in kept.items():
            if content is not None:
                new.writestr(name, content)
    return out.getvalue()


def test_the_projects_own_bundle_is_the_installed_package(bundle: bytes) -> None:
    own = OwnCode()
    assert own.different_files(bundle) == []
    own.compare(bundle, skip_prompt=True)
    assert own.app(APP, version("fedloge"), "0" * 64) is app


def test_a_file_changed_left_out_or_added_is_named(bundle: bytes) -> None:
    other = changed(bundle, rng=b"# other", client__guard=None, client__extra=b"")
    assert OwnCode().different_files(other) == [
        "fedloge/client/extra.py",
        "fedloge/client/guard.py",
        "fedloge/rng.py",
    ]


@pytest.mark.parametrize(
    ("app_id", "app_version", "says"),
    [
        ("evil/fedloge", "", "the server runs evil/fedloge"),
        (APP, "99.0", "the server runs fedloge/fedloge 99.0, this site its own"),
        (APP, "", "the server's code differs from this site's own in 1 files (fedloge/rng.py)"),
    ],
)
def test_every_message_of_another_app_is_refused_and_written_down(
    bundle: bytes, tmp_path: Path, app_id: str, app_version: str, says: str
) -> None:
    own = OwnCode()
    own.compare(changed(bundle, rng=b"# other"))
    refusing = own.app(app_id, app_version or version("fedloge"), "0" * 64)
    config = harness.tiny(tmp_path)
    site: dict[str, Any] = {"state-dir": str(tmp_path / "state"), "data-path": "/data"}
    for kind, content in (("query.whoami", RecordDict()), ("train", work(config))):
        said = reason(ask(config, kind, content, by=refusing, **site))
        assert said.startswith("this site's policy, code: ") and says in said
        assert "install the same at both" in said
    written = [line.event for line in read_audit(tmp_path / "state")]
    assert [row["event"] for row in written] == ["received", "refused"] * 2
    assert {row["code"] for row in written} == {"own"}
    assert {row["rule"] for row in written if row["event"] == "refused"} == {"code"}
    assert (tmp_path / "state" / FOLDER).is_dir()


def test_with_the_code_sent_no_module_of_the_installed_package_is_left() -> None:
    script = (
        "import sys, fedloge.client.superexec as warm\n"
        "warm.flwr_clientapp = lambda: print([m for m in sys.modules if m.startswith('fedloge')])\n"
        "warm._sent()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
