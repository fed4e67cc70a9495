"""The notebooks run from top to bottom, and lie in the repository without what they print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "experiments/notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_curves(path: Path, tmp_path: Path) -> None:
    for package in ("nbclient", "ipykernel", "pandas"):
        pytest.importorskip(package)
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    for cell in notebook.cells:
        # As many rounds as a test has time for.
        cell.source = cell.source.replace("rounds=20", "rounds=2, evaluate_every=1")
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    shown = [output.data for output in first.outputs if output.output_type == "execute_result"]
    assert any("<svg" in data.get("text/html", "") for data in shown)
    assert (tmp_path / "runs/fedloge-digits-1/report.html").is_file()
