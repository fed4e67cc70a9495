"""A model that came from elsewhere names code of this machine: none of it runs unless it is allowed to."""

from __future__ import annotations

import json
from pathlib import Path

import harness
import pytest

from fedloge.errors import PluginError
from fedloge.plugins import load_plugin, plugins
from fedloge.results.export import export_global, model_of
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
