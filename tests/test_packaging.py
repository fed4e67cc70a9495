"""What is in the wheel; tests/packaging/smoke.sh is how it behaves in a clean environment."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
import zipfile
from email.parser import Parser
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Whatever lies there and is no part of the project: caches.
KEPT = {".py", ".toml", ".json", ".md", ".js", ".css", ".html", ".jinja", ".j2", ".typed", ".csv"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [uv, "build", "--wheel", "--out-dir", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("the build backend cannot be had here")
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def files_under(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix in KEPT)
    return {str(path.relative_to(folder)) for path in paths}


def test_the_wheel_has_one_package(wheel: zipfile.ZipFile) -> None:
    version = PROJECT["project"]["version"]
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert tops == {"fedloge", f"fedloge-{version}.dist-info"}


def test_it_holds_the_package_its_types_and_the_recipes(wheel: zipfile.ZipFile) -> None:
    inside = {name.removeprefix("fedloge/") for name in wheel.namelist() if name[7] == "/"}
    recipes = {f"recipes/{name}" for name in files_under(ROOT / "experiments/recipes")}
    assert inside == files_under(ROOT / "fedloge") | recipes
    assert {"py.typed", "__main__.py", "recipes/cifar10-lt.toml"} <= inside
    digits = wheel.read("fedloge/recipes/digits.toml")
    assert digits == (ROOT / "experiments/recipes/digits.toml").read_bytes()


def test_its_command_and_requirements_are_those_of_the_project(wheel: zipfile.ZipFile) -> None:
    (folder,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert "fedloge = fedloge.commands.main:main" in wheel.read(
        f"{folder}/entry_points.txt"
    ).decode("utf-8")
    said = Parser().parsestr(wheel.read(f"{folder}/METADATA").decode("utf-8"))
    assert (
        set(said.get_all("Provides-Extra", []))
        == PROJECT["project"]["optional-dependencies"].keys()
        == {"timm", "tensorboard", "privacy", "flwr-datasets", "dicom", "language", "notebooks"}
    )
    assert said["License-Expression"] == "Apache-2.0"


def test_the_tested_versions_cover_what_is_required() -> None:
    """One pin for each package that the project or its tests name, so that an installation can be had again."""
    required = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        required += extra
    pinned = {pin.partition("==")[0] for pin in PROJECT["tool"]["uv"]["constraint-dependencies"]}
    names = {requirement.partition(">=")[0].partition("[")[0] for requirement in required}
    assert names <= pinned


def test_what_is_said_of_the_version_agrees() -> None:
    version = PROJECT["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    schemas = files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = schemas / "citation-file-format.json"
    jsonschema.validate(citation, json.loads(schema.read_text(encoding="utf-8")))
    assert citation["version"] == version
    assert citation["license"] == PROJECT["project"]["license"]
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None and newest[1] == version


def test_links_of_the_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/**/*.md")]
    pages += [ROOT / "clients/README.md", ROOT / "server/README.md"]
    broken = []
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            if "://" in target:
                continue
            linked = page.parent / path if path else page
            if not linked.exists():
                broken.append(f"{page.name}: {target}")
            elif anchor and anchor not in anchors(linked):
                broken.append(f"{page.name}: {target} has no such heading")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as they are made of their text."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}
