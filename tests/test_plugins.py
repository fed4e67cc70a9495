from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from fedloge.errors import PluginError
from fedloge.plugins import load_plugin


def load(spec: str):
    return load_plugin(spec, "fedloge.methods", {"fedavg": "built in"}, "method")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Mine:\n    mu: float = 0.1\n"
    )
    return path


def test_a_built_in_name_comes_first() -> None:
    assert load("fedavg") == "built in"


def test_from_a_file(file) -> None:
    assert load(f"{file}:Mine")().mu == 0.1
    assert not (file.parent / "__pycache__").exists()


def test_a_file_is_loaded_once_until_it_changes(file) -> None:
    first = load(f"{file}:Mine")
    assert load(f"{file}:Mine") is first
    file.write_text(file.read_text().replace("0.1", "0.2"))
    os.utime(file, ns=(1, 1))
    assert load(f"{file}:Mine")().mu == 0.2
    assert first().mu == 0.1


def test_files_of_one_name_do_not_meet(file, tmp_path) -> None:
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "mine.py"
    other.write_text("Mine = 'another'")
    assert load(f"{other}:Mine") == "another"
    assert load(f"{file}:Mine") != "another"
    assert "mine" not in sys.modules


@pytest.mark.parametrize("spec", ["json.decoder:JSONDecoder", "json.decoder.JSONDecoder"])
def test_by_dotted_name(spec) -> None:
    import json

    assert load(spec) is json.JSONDecoder


def test_by_entry_point(tmp_path, monkeypatch) -> None:
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fedloge.methods]\nfedtheirs = theirs_module:Theirs\nfedbroken = theirs_module:Nothing\n"
    )
    (tmp_path / "theirs_module.py").write_text("Theirs = 'by entry point'")
    monkeypatch.syspath_prepend(tmp_path)
    assert load("fedtheirs") == "by entry point"
    with pytest.raises(PluginError, match="'fedbroken' failed to import: AttributeError"):
        load("fedbroken")
    with pytest.raises(PluginError, match="did you mean 'fedtheirs'"):
        load("fedtheir")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fedavgg", "unknown method 'fedavgg' (did you mean 'fedavg'?); known: fedavg; or give"),
        ("nowhere.py:Mine", "method 'nowhere.py:Mine': cannot read nowhere.py (No such file"),
        ("nowhere.py", "say what to take from it, as in nowhere.py:Name"),
        ("json:", "say what to take from it, as in json:Name"),
        ("no_such_package.module:Name", "there is no module 'no_such_package'; install it"),
        ("json.no_such:Name", "there is no module 'json.no_such'"),
        ("json.decoder:JSONDecodr", "unknown name in "),
        ("json.decoder:JSONDecodr", "(did you mean 'JSONDecoder'?)"),
    ],
)
def test_what_cannot_be_found_is_said_in_a_line(spec, message) -> None:
    with pytest.raises(PluginError, match=re.escape(message)) as error:
        load(spec)
    assert "\n" not in str(error.value)


def test_a_file_that_fails_says_why_and_is_tried_again(file) -> None:
    good = file.read_text()
    file.write_text("import no_such_module_at_all")
    message = f"method '{file}:Mine' failed to import: ModuleNotFoundError: No module named"
    for _ in range(2):
        with pytest.raises(PluginError, match=re.escape(message)):
            load(f"{file}:Mine")
    file.write_text(good)
    assert load(f"{file}:Mine")().mu == 0.1


def test_a_module_that_lacks_another_is_not_called_missing(tmp_path, monkeypatch) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_module_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match="failed to import: ModuleNotFoundError"):
        load("needs_more:Name")
