from __future__ import annotations

from pathlib import Path

import harness
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloge.errors import ConfigError
from fedloge.federation import Federation
from fedloge.learning.client_data import ClientData
from fedloge.learning.mixup import Mix, Mixer, hidden_layers
from fedloge.methods import METHODS
from fedloge.methods.method import Part


def client_of(fed: Federation, client: int = 0) -> ClientData:
    fed.load(fed.initial[Part.SHARED], fed.initial[Part.PERSONAL])
    return fed.client_data(client, 1, fed.initial[Part.SHARED])


def test_by_hand() -> None:
    mix = Mix(0.75, torch.tensor([1, 0]))
    assert mix.of(torch.tensor([[4.0], [8.0]])).tolist() == [[5.0], [7.0]]
    assert mix.labels(torch.tensor([2, 0]), 3).tolist() == [[0.25, 0, 0.75], [0.75, 0, 0.25]]
    half = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    assert mix.labels(half, 2).tolist() == [[0.625, 0.375], [0.875, 0.125]]


def test_a_hidden_layer_is_mixed_once_and_only_within() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    x = torch.randn(4, 2)
    mix = Mix(0.3, torch.tensor([1, 2, 3, 0]), (net[1],))
    plain = net(x)
    expected = net[2](mix.of(net[1](net[0](x))))
    torch.testing.assert_close(mix.features(net, x), expected)
    assert torch.equal(net(x), plain)
    with mix.inside():
        net(x)
        assert torch.equal(net(x), plain)
    with pytest.raises(ConfigError, match="not used in training"), mix.inside():
        pass
    assert hidden_layers(nn.Sequential(net)) == list(net)


def test_the_same_draws_in_every_process(tmp_path: Path) -> None:
    fed = Federation(harness.tiny(tmp_path, mixup=0.4, mixup_at="layers"))
    x = torch.randn(8, 1, 8, 8)

    def draws(round: int) -> list[tuple[float, tuple[int, ...]]]:
        mixer = Mixer(fed.config, 10, round=round, client=2, by_method=False)
        found = [mixer.draw(fed.net, x) for _ in range(5)]
        return [(mix.share, tuple(mix.partner.tolist())) for mix in found]

    assert draws(1) == draws(1) != draws(2)
    assert all(0 <= share <= 1 and sorted(of) == list(range(8)) for share, of in draws(1))


@pytest.mark.parametrize("where", ["inputs", "layers"])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_mixes_or_is_refused(name: str, where: str, tmp_path: Path) -> None:
    fed = Federation(harness.tiny(tmp_path, method=name, mixup=1.0, mixup_at=where))
    if name in ("fed3r", "fedgrab", "fedyoyo", "rucr"):
        with pytest.raises(ConfigError, match="mixed examples have two"):
            fed.method  # noqa: B018
        return
    update = fed.method.local_update(fed.net, client_of(fed))
    assert all(torch.tensor(value).isfinite() for value in update.metrics.values())


def test_a_loss_of_one_class_is_refused_before_the_run(tmp_path: Path) -> None:
    options = {"loss": "focal"}
    config = harness.tiny(tmp_path, method="fedavg", method_options=options, mixup=0.2)
    with pytest.raises(ConfigError, match="mixed examples have two"):
        Federation(config).method  # noqa: B018


def test_where_without_mixup_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set mixup"):
        harness.tiny(tmp_path, mixup_at="layers")


def one_step(fed: Federation, mix: Mix | None) -> dict[str, Tensor]:
    """FedLoGe's loss terms on one batch."""
    data = client_of(fed)
    fed.net.eval()  # so that batch norm is the same function of every batch
    assert data.mixer is not None
    data.mixer.now = mix
    x, y = next(iter(data.batches(1)))
    return dict(fed.method.loss(fed.net, x, y, data))


def test_fedloge_mixes_for_the_fixed_classifier_alone(tmp_path: Path) -> None:
    fed = Federation(harness.tiny(tmp_path, mixup=1.0))
    x, y = next(iter(client_of(fed).batches(1)))
    mix = Mix(0.6, torch.randperm(len(y)))
    plain, mixed = one_step(fed, None), one_step(fed, mix)
    # l CE(W h, y) + (1 - l) CE(W h, y') on the features of the mixed inputs.
    logits = fed.net.classifier(fed.net.backbone(0.6 * x + 0.4 * x[mix.partner]))
    expected = 0.6 * cross_entropy(logits, y) + 0.4 * cross_entropy(logits, y[mix.partner])
    torch.testing.assert_close(mixed["fixed"], expected)
    assert not torch.equal(plain["fixed"], mixed["fixed"])
    assert torch.equal(plain["global"], mixed["global"])
    assert torch.equal(plain["local"], mixed["local"])


def test_a_run_with_mixup_learns_and_measures_the_channel(tmp_path: Path) -> None:
    runs = [
        harness.run_local(
            harness.tiny(tmp_path, f"m{alpha}", mixup=alpha, probes="mixup-channel", rounds=2)
        )
        for alpha in (0.0, 1.0)
    ]
    rows = [harness.lines(run, "metrics")[-1] for run in runs]
    assert rows[0]["train/loss-fixed"] != rows[1]["train/loss-fixed"]
    assert all(0 < row["probe/mixup-channel/fixed/ratio"] < 3 for row in rows)
