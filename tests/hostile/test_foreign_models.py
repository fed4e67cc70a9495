"""A model that came from elsewhere names code of this machine: none of it runs unless it is allowed to."""

from __future__ import annotations

import json
from pathlib import Path

import harness
import pytest

import fedloge
from fedloge.errors import PluginError
from fedloge.launch.run_on_engine import resumed
from fedloge.plugins import load_plugin, plugins
from fedloge.results.export import export_global, model_of
from fedloge.results.heads_after_training import closed_form_figures
from fedloge.results.personalize import base_of
from fedloge.results.run import open_run
from fedloge.results.trained_model import MANIFEST, load

PLUGIN = """
from pathlib import Path
from fedloge.methods.fedavg import FedAvg
Path(__file__).with_suffix(".ran").touch()

class Mine(FedAvg):
    name = "mine"
"""


def test_an_export_that_names_a_plugin_runs_none(tmp_path: Path) -> None:
    run = harness.run_local(harness.tiny(tmp_path, method="fedavg", rounds=1))
    folder, plugin = tmp_path / "out", tmp_path / "mine.py"
    export_global(open_run(run), folder)
    load(folder)
    plugin.write_text(PLUGIN)
    manifest = json.loads((folder / MANIFEST).read_text())
    for key, spec in (("method", f"{plugin}:Mine"), ("model", f"{plugin}:Mine")):
        changed = manifest | {"config": manifest["config"] | {key: spec}}
        (folder / MANIFEST).write_text(json.dumps(changed))
        for opened in (load, model_of, base_of):
            with pytest.raises(PluginError, match=rf"{key} .* is a plug-in, .* allow_plugins=True"):
                opened(folder)
        assert not plugin.with_suffix(".ran").exists()
    (folder / MANIFEST).write_text(
        json.dumps(manifest | {"config": manifest["config"] | {"method": f"{plugin}:Mine"}})
    )
    said = harness.fedloge("predict", folder, tmp_path, folder=tmp_path)
    assert said.code == 2 and "--allow-plugins" in said.err
    assert not plugin.with_suffix(".ran").exists()
    load(folder, allow_plugins=True)
    assert plugin.with_suffix(".ran").exists()


def test_what_is_forbidden_in_a_block_is_allowed_after_it() -> None:
    spec = "fedloge.methods.fedavg:FedAvg"
    with plugins(allowed=False), pytest.raises(PluginError, match="is a plug-in"):
        load_plugin(spec, "fedloge.methods", {}, "method")
    assert load_plugin(spec, "fedloge.methods", {}, "method").name == "fedavg"


# Runs


@pytest.fixture
def own(tmp_path: Path) -> tuple[Path, Path]:
    """A run that was begun here with a method of one's own, and the method's file."""
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    config = harness.tiny(tmp_path / "runs", method=f"{plugin}:Mine", rounds=1)
    return harness.run_local(config), plugin


def commands(run: Path, out: Path) -> dict[str, tuple[str | Path, ...]]:
    """Every command that takes a run and needs its method."""
    return {
        "export": ("export", run, "--global", "--out", out / "export"),
        "resume": ("resume", run, "--rounds", "2"),
        "predict": ("predict", run, out),
        "personalize": ("personalize", run, "--data", out, "--out", out / "own"),
        "mistakes": ("mistakes", run, "--out", out / "page.html"),
        "closed-form": ("closed-form", run),
    }


def test_ones_own_run_goes_on_unasked(own: tuple[Path, Path], tmp_path: Path) -> None:
    run, plugin = own
    done = harness.fedloge("resume", run, "--rounds", "2", folder=tmp_path / "cwd")
    assert done.code == 0, done.err
    open_run(run).model()
    # Another content of the file is other code.
    plugin.write_text(PLUGIN + "# and more\n")
    with pytest.raises(PluginError, match=r"has changed since the run was begun; .* allow_plugins"):
        open_run(run).model()
    open_run(run, allow_plugins=True).model()
    again = harness.fedloge(
        "resume", run, "--rounds", "3", "--allow-plugins", folder=tmp_path / "cwd"
    )
    assert again.code == 0, again.err
    open_run(run).model()  # what was allowed once is known


def test_a_run_from_elsewhere_runs_none_of_its_code(own: tuple[Path, Path], tmp_path: Path) -> None:
    run, plugin = own
    plugin.with_suffix(".ran").unlink()
    (tmp_path / "out").mkdir()
    before = (run / "metrics.jsonl").read_bytes()
    for arguments in commands(run, tmp_path / "out").values():
        said = harness.fedloge(
            *arguments, folder=tmp_path / "cwd", FEDLOGE_STATE=str(tmp_path / "another-user")
        )
        assert said.code == 2 and "--allow-plugins" in said.err and "mine.py:Mine" in said.err
        assert len(said.err.splitlines()) == 1
    assert not plugin.with_suffix(".ran").exists()
    assert (run / "metrics.jsonl").read_bytes() == before
    allowed = commands(run, tmp_path / "out")["resume"]
    said = harness.fedloge(
        *allowed,
        "--allow-plugins",
        folder=tmp_path / "cwd",
        FEDLOGE_STATE=str(tmp_path / "another-user"),
    )
    assert said.code == 0 and plugin.with_suffix(".ran").exists()


def test_from_python_nothing_runs_either(
    own: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = own
    monkeypatch.setenv("FEDLOGE_STATE", str(tmp_path / "another-user"))
    opened = fedloge.open_run(run)
    assert opened.metrics is not None and opened.report().exists()  # figures need no code
    for needs in (
        opened.model,
        lambda: opened.model(client=1),
        lambda: opened.resume(rounds=2),
        lambda: opened.personalize(tmp_path),
        opened.mistakes,
        lambda: fedloge.resume(run, rounds=2),
        lambda: closed_form_figures(opened),
        lambda: base_of(run),
        lambda: model_of(run),
    ):
        with pytest.raises(PluginError, match=r"mine\.py:Mine.*you began the run with it"):
            needs()
    assert fedloge.resume(run, rounds=2, allow_plugins=True).rounds_done == 2
    model_of(run, allow_plugins=True)


def test_a_copied_id_lends_no_trust(own: tuple[Path, Path], tmp_path: Path) -> None:
    """A stranger who knows the id of a run of yours, and names another file in its config."""
    run, _ = own
    other = tmp_path / "other.py"
    other.write_text(PLUGIN)
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("mine.py:Mine", "other.py:Mine"))
    with pytest.raises(PluginError, match=r"other\.py:Mine"):
        open_run(run).model()
    assert not other.with_suffix(".ran").exists()


@pytest.mark.parametrize("run_id", ["", "../../x", "/etc/passwd", "a" * 200])
def test_an_id_leads_to_no_other_file(run_id: str, own: tuple[Path, Path]) -> None:
    run, _ = own
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"run-id": run_id}))
    with pytest.raises(PluginError, match="run-id"):
        open_run(run).model()


def test_a_cluster_that_a_stranger_names_is_not_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = harness.tiny(tmp_path, rounds=1, ray_address="203.0.113.7:6379")
    run = harness.run_local(config)
    resumed(open_run(run), 2, engine="ray")
    monkeypatch.setenv("FEDLOGE_STATE", str(tmp_path / "another-user"))
    resumed(open_run(run), 2, engine="local")
    open_run(run).model()
    with pytest.raises(PluginError, match=r"ray-address '203\.0\.113\.7:6379'"):
        resumed(open_run(run), 2, engine="ray")


def test_where_nothing_can_be_remembered_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDLOGE_STATE", str(tmp_path / "file"))
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    harness.run_local(harness.tiny(tmp_path, method=f"{plugin}:Mine", rounds=1))
    assert sum("cannot be kept" in r.getMessage() for r in caplog.records) == 1
