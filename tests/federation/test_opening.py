from __future__ import annotations

from pathlib import Path

import harness

from fedloge.data import load_dataset
from fedloge.federation import open_federation


def test_a_process_keeps_its_federation(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    assert open_federation(config) is open_federation(config)
    assert open_federation(config) is not open_federation(config.replace(seed=1))


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    configs = [harness.tiny(tmp_path, seed=seed) for seed in (1, 2, 3)]
    first, second = map(open_federation, configs[:2])
    # The first is asked for again, so that the second is the older one.
    assert open_federation(configs[0]) is first
    open_federation(configs[2])
    assert open_federation(configs[0]) is first
    assert open_federation(configs[1]) is not second


def test_a_data_set_that_is_loaded_is_not_loaded_again(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path, seed=77)
    data = load_dataset(config)
    assert open_federation(config, data).data is data
    assert open_federation(config).data is data
