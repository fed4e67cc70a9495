"""The probe's figures against the same measures of all features at once, in one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import harness
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedloge import config as configs
from fedloge.client.client import Client
from fedloge.client.site_policy import SitePolicy
from fedloge.errors import ConfigError, PolicyError, UpdateError
from fedloge.federation import Federation
from fedloge.geometry.collapse import alignment, cdnv, spread, within_between
from fedloge.geometry.feature_sums import FeatureSums
from fedloge.learning.client_data import ClientData, Labelled
from fedloge.learning.probes import CollapseProbe, ProbeTask
from fedloge.messages import Stamp
from fedloge.methods.method import Part


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collapse")
    options = {"alpha": 0.3}
    return harness.run_local(
        harness.tiny(folder, probes="collapse, collapse-on-test", partitioner_options=options)
    )


@pytest.fixture(scope="module")
def fed(run: Path) -> Federation:
    found = Federation(configs.load(run / "config.toml"))
    kept = harness.newest_checkpoint(run)
    shared = {n[7:]: tensor for n, tensor in kept.items() if n.startswith("shared.")}
    found.load(shared, found.initial[Part.PERSONAL]).eval()
    return found


def features(fed: Federation, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return fed.method.features(fed.net, fed.data.preparation.prepare(inputs)).double()


def last(run: Path) -> dict[str, float]:
    return harness.lines(run, "metrics")[-1]


def test_sums_over_clients_are_the_measures_of_all_features_at_once(
    run: Path, fed: Federation
) -> None:
    row = last(run)
    for name, examples in (("collapse", fed.train), ("collapse-on-test", None)):
        if examples is None:
            everyone = torch.cat([torch.from_numpy(t) for t in fed.partition.test])
            examples = fed.test.take(everyone)
        at_once = FeatureSums.of(features(fed, examples.inputs), examples.classes, 10)
        before = f"probe/{name}/all"
        assert row[f"{before}/within-between"] == pytest.approx(within_between(at_once), rel=1e-6)
        assert row[f"{before}/cdnv"] == pytest.approx(cdnv(at_once), rel=1e-6)
        assert row[f"{before}/cdnv-fourth"] == pytest.approx(cdnv(at_once, power=4), rel=1e-6)
        assert row[f"{before}/cos-std"] == pytest.approx(spread(at_once).cos_std, rel=1e-6)
        psi = fed.method.global_predictors(fed.net)["raw"].head.weight
        found = alignment(at_once, psi)
        assert row[f"{before}/raw/alignment"] == pytest.approx(found.mean, abs=1e-6)


def test_groups_are_measured_from_their_own_centre(run: Path, fed: Federation) -> None:
    many = fed.groups.mask("many")
    kept = many[fed.train.classes]
    examples = fed.train.take(kept.nonzero()[:, 0])
    alone = FeatureSums.of(features(fed, examples.inputs), examples.classes, 10)
    row = last(run)
    assert row["probe/collapse/many/cos-mean"] == pytest.approx(spread(alone).cos_mean, abs=1e-6)
    assert row["probe/collapse/many/norm-cov"] == pytest.approx(spread(alone).norm_cov, rel=1e-6)


def test_agreement_is_counted_over_the_clients_test_examples(run: Path, fed: Federation) -> None:
    h = features(fed, fed.train.inputs)
    means = torch.stack([h[fed.train.classes == c].mean(dim=0) for c in range(10)])
    everyone = fed.test.take(torch.cat([torch.from_numpy(t) for t in fed.partition.test]))
    held = features(fed, everyone.inputs)
    nearest = (held[:, None] - means[None]).norm(dim=2).argmin(dim=1)
    for name, predictor in fed.method.global_predictors(fed.net).items():
        agreed = predictor.head.predict(held.float()) == nearest
        figure = last(run)[f"probe/collapse/all/{name}/agreement"]
        assert figure == pytest.approx(agreed.float().mean().item(), abs=1e-6)


def test_local_heads_over_classes_that_a_client_has_and_lacks(run: Path, fed: Federation) -> None:
    centred = FeatureSums.of(features(fed, fed.train.inputs), fed.train.classes, 10).centred
    has, lacks = [], []
    for k, tensors in enumerate(harness.heads(run).values()):
        cos = torch.cosine_similarity(tensors["local_head.weight"].double(), centred)
        own = torch.from_numpy(fed.partition.train_counts[k] > 0)
        has.append(cos[own].mean().item())
        if not own.all():
            lacks.append(cos[~own].mean().item())
    assert lacks  # the split is skewed enough
    row = last(run)
    for side, expected in (("has", has), ("lacks", lacks)):
        figure = row[f"probe/collapse/personal/raw/alignment-{side}"]
        assert figure == pytest.approx(sum(expected) / len(expected), abs=1e-6)


def test_only_the_announced_sums_leave_and_no_local_head(run: Path, fed: Federation) -> None:
    probe = CollapseProbe(ProbeTask(fed.config, 10, fed.method))
    data = fed.client_data(0, 1, fed.initial[Part.SHARED])
    sent = probe.collect(fed.net, data)
    shapes = {name: tuple(tensor.shape) for name, tensor in sent.items()}
    assert shapes == {
        "counts": (10,),
        "sums": (10, 128),
        "squares": (10,),
        "moments": (128, 128),
        "own-cdnv": (2,),
    }
    # Without an evaluation there are no test examples and no personal models to tell of.
    given = probe.given(fed.net, sent)
    assert "counts" not in given
    again = probe.collect_again(fed.net, data, given)
    assert max(tensor.numel() for tensor in again.values()) == 10
    assert not any(tensor.any() for tensor in again.values())
    with pytest.raises(UpdateError, match="other names or shapes"):
        probe.collect_again(fed.net, data, {"means": given["means"][:3]})


def test_a_run_is_what_it_is_without_a_probe(run: Path, tmp_path: Path) -> None:
    options = {"alpha": 0.3}
    plain = harness.run_local(harness.tiny(tmp_path, partitioner_options=options))
    assert harness.same_tensors(harness.newest_checkpoint(run), harness.newest_checkpoint(plain))
    row = last(run)
    for key, value in last(plain).items():
        assert row[key] == value, key


def test_no_network_of_all_is_no_measure_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fed = Federation(harness.tiny(tmp_path, method="fedbn", probes="collapse"))
    assert fed.probes == []
    assert "nothing is measured" in caplog.text


def test_a_site_tells_nothing_of_a_class_with_few_images(run: Path, fed: Federation) -> None:
    policy = SitePolicy(class_counts=True, class_sums=True, min_images_per_class=8)
    strict = SitePolicy()
    shared = fed.initial[Part.SHARED]
    stamp = Stamp("run-1", "run", fed.fingerprint, (0,), 1, 0)
    for k in range(4):
        _, sums = Client(fed, k, run / "nowhere", policy).evaluate(stamp, shared)
        for probe, counts in (
            ("collapse", fed.partition.train_counts[k]),
            ("collapse-on-test", fed.partition.local_test_counts[k]),
        ):
            told = torch.from_numpy(counts.copy())
            told[told < 8] = 0
            assert torch.equal(sums[f"{probe}/counts"], told.double())
            assert not sums[f"{probe}/sums"][told == 0].any()
        with pytest.raises(PolicyError, match="class-counts"):
            Client(fed, k, run / "nowhere", strict).evaluate(stamp, shared)


def test_the_loss_on_test_examples_and_over_how_many_a_figure_is(
    run: Path, fed: Federation
) -> None:
    kept = harness.newest_checkpoint(run)
    fed.load({n[7:]: tensor for n, tensor in kept.items() if n.startswith("shared.")})
    everyone = fed.test.take(torch.cat([torch.from_numpy(t) for t in fed.partition.test]))
    held = features(fed, everyone.inputs).float()
    row = last(run)
    for name, predictor in fed.method.global_predictors(fed.net).items():
        loss = cross_entropy(predictor.head.logits(held), everyone.classes).item()
        assert row[f"probe/collapse/all/{name}/loss"] == pytest.approx(loss, rel=1e-5)
    assert row["probe/collapse/all/examples"] == len(fed.train)
    assert row["probe/collapse-on-test/all/examples"] == len(everyone)


def test_a_share_of_the_training_examples(tmp_path: Path, run: Path) -> None:
    config = harness.tiny(tmp_path, probes="collapse", collapse_share=0.25, rounds=2)
    row = last(harness.run_local(config))
    split = Federation(config).partition.train
    assert row["probe/collapse/all/examples"] == sum(math.ceil(len(own) / 4) for own in split)
    assert "probe/collapse/own/cdnv" not in row
    assert 0 < row["probe/collapse/all/cdnv"] < math.inf
    with pytest.raises(ConfigError, match="collapse-share is not read here"):
        harness.tiny(tmp_path, probes="collapse-on-test", collapse_share=0.25)


def test_a_backbone_of_its_own_is_measured_against_its_own_class_means(tmp_path: Path) -> None:
    """Ditto's own network, on the client's examples."""
    folder = harness.run_local(
        harness.tiny(
            tmp_path, method="ditto", probes="collapse, collapse-on-test", clients_per_round=4
        )
    )
    fed = Federation(configs.load(folder / "config.toml"))
    shared = {n[7:]: t for n, t in harness.newest_checkpoint(folder).items() if n[:7] == "shared."}
    cosines, agreed = [], 0
    for k, personal in enumerate(harness.heads(folder).values()):
        net = fed.load(shared, personal).eval()
        x = fed.train.take(torch.from_numpy(fed.partition.train[k]))
        tests = fed.test.take(torch.from_numpy(fed.partition.test[k]))
        with torch.no_grad():
            h, held = (
                fed.method.own_features(net, fed.data.preparation.prepare(e.inputs)).double()
                for e in (x, tests)
            )
        seen = sorted(set(x.classes.tolist()))
        means = torch.stack([h[x.classes == c].mean(dim=0) for c in seen])
        rows = net.own_head.weight.double()[seen]
        cosines.append(torch.cosine_similarity(rows, means - means.mean(dim=0)).mean().item())
        nearest = torch.tensor(seen)[torch.cdist(held, means).argmin(dim=1)]
        with torch.no_grad():
            agreed += int((net.own_head(held.float()).argmax(dim=1) == nearest).sum())
    row = last(folder)
    found = row["probe/collapse/personal/raw/alignment-has"]
    assert found == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)
    assert row["probe/collapse/all/personal-raw/agreement"] == pytest.approx(
        agreed / sum(len(t) for t in fed.partition.test), abs=1e-6
    )
    # Of the classes that it lacks there is no example under its backbone.
    assert "probe/collapse/personal/raw/alignment-lacks" not in row
    assert "probe/collapse-on-test/personal/raw/alignment-has" in row


def test_features_of_training_examples_are_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    plain = ClientData.plain_features

    def counted(self: ClientData, extract: Callable[[Tensor], Tensor]) -> Labelled:
        passes.append(self.client)
        return plain(self, extract)

    monkeypatch.setattr(ClientData, "plain_features", counted)
    config = harness.tiny(
        tmp_path, method="fedavg", probes="collapse, closed-form", rounds=1, clients_per_round=4
    )
    harness.run_local(config)
    # Two probes and the tuned heads want them.
    assert sorted(passes) == [0, 1, 2, 3]
