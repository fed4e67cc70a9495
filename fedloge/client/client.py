"""A client's work: training, and measuring its personal models."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from fedloge.client.class_sums import allowed_sums, small_classes
from fedloge.client.client_privacy import ClientPrivacy
from fedloge.client.own_site import OwnSite
from fedloge.client.personal_state import PersonalState, PersonalStore
from fedloge.client.privacy_ledger import PrivacyLedger
from fedloge.client.site_policy import SitePolicy
from fedloge.errors import FedlogeError, RunError, UpdateError
from fedloge.federation.evaluation import client_figures, predictor_accuracy, predictor_guesses
from fedloge.federation.feature_bank import FeatureBank
from fedloge.federation.federation import Federation
from fedloge.federation.new_clients import NewClient
from fedloge.learning.class_told import ClassTold
from fedloge.learning.client_data import ClientData, InEvaluation, Labelled
from fedloge.learning.fast.stacked import StackedClients
from fedloge.learning.guesses import Guesses
from fedloge.learning.metrics import accuracy
from fedloge.learning.probes import Probe, of_probe
from fedloge.messages import NUM_EXAMPLES, Stamp
from fedloge.methods.method import Network, Part, Predictor, Update
from fedloge.methods.personal_heads import personal_models
from fedloge.rng import torch_seeded
from fedloge.run_files import RunFiles


@dataclass(frozen=True)
class Trained:
    """What a client answers after training.

    Attributes
    ----------
    shared : the network's own tensors, not copies; valid until the network is used again.
    metrics : figures for the record.
    sums : this client's part of what the method sums over clients.
    """

    shared: dict[str, Tensor]
    metrics: dict[str, float]
    sums: dict[str, Tensor]


class Client:
    """One client of a federation, with its personal state on disk.

    Parameters
    ----------
    index : partition id, 0 .. num-clients - 1.
    folder : holds this run's personal states.
    policy : of the site, for what may leave it; None: everything may.
    ledger : of the site, of what privacy its examples have lost; None in a simulation.
    """

    def __init__(
        self,
        federation: Federation,
        index: int,
        folder: Path,
        policy: SitePolicy | None = None,
        ledger: PrivacyLedger | None = None,
    ) -> None:
        self.federation = federation
        self.policy = policy
        self.index = index
        self.store = PersonalStore(folder, index, flush=policy is not None)
        config, private = federation.config, bool(federation.config.local_dp_clip)
        self._privacy = ClientPrivacy(config, index, policy, ledger) if private else None

    def check(self, stamp: Stamp) -> None:
        """`UpdateError` if the message's run computes something else than this client would."""
        mine = self.federation.fingerprint
        # A run from before fingerprints covered data goes on by its own; at `whoami` the new one is compared.
        if stamp.fingerprint not in (mine, self.federation.fingerprint_without_data):
            raise UpdateError(
                f"client {self.index}: the server runs {stamp.fingerprint}, this client computes {mine}; "
                "config, data, partition, fixed classifier or pretrained weights differ: give both sides the same "
                "config, files and versions"
            )

    def train(self, stamp: Stamp, shared: Mapping[str, Tensor]) -> Trained:
        """Train for a round; keeps the personal tensors on disk and returns what goes to the server.

        Raises
        ------
        UpdateError
            A personal tensor is not finite after training.
        CheckpointError, RunError
            The personal state, or the site's ledger, cannot be read or written.
        PolicyError
            The site has spent as much privacy as its policy allows.
        """
        fed, seed = self.federation, self.federation.config.seed
        personal = self.state_before(stamp)
        net = fed.load(shared, personal.tensors)
        data = fed.client_data(self.index, stamp.round, shared, personal.rounds_trained)
        if self._privacy is not None:
            seed, data = self._privacy.seed, replace(data, privacy=self._privacy.of_round(stamp))
        with torch_seeded(seed, "local-update", stamp.round, self.index):
            update = fed.method.local_update(net, data)
        personal_after = fed.tensors(Part.PERSONAL)
        # Who only solves has changed nothing that it was sent.
        shared_after = {} if fed.method.solves else fed.tensors(Part.SHARED)
        trained = self.finish(stamp, personal, personal_after, shared_after, update)
        if self._privacy is None or data.privacy is None:
            return trained
        rounds = personal.rounds_trained + 1
        told = self._privacy.figures(stamp, data.privacy.spent, rounds, update.metrics)
        kept = {k: v for k, v in trained.metrics.items() if not k.startswith("train/")}
        return replace(trained, metrics=kept | told)

    def state_before(self, stamp: Stamp) -> PersonalState:
        """The personal state with which round `stamp.round` begins."""
        return self.store.load(stamp, self.federation.initial[Part.PERSONAL], before=stamp.round)

    def finish(
        self,
        stamp: Stamp,
        before: PersonalState,
        personal: Mapping[str, Tensor],
        shared: dict[str, Tensor],
        update: Update,
    ) -> Trained:
        """Keep the personal tensors after a round's training; returns what goes to the server."""
        for name, tensor in personal.items():
            if not bool(tensor.isfinite().all()):
                raise UpdateError(
                    f"client {self.index}: personal tensor {name!r} is not finite; not stored"
                )
        method = self.federation.method
        sums = allowed_sums(
            update.sums,
            method.class_told or ClassTold(),
            torch.from_numpy(self.federation.partition.train_counts[self.index]),
            self.policy,
            f"method {method.name!r}",
        )
        self.store.save(stamp, personal, before.rounds_trained + 1)
        images = self.num_train
        metrics = {
            NUM_EXAMPLES: images,
            "images": images * self.federation.config.local_epochs,
            **{f"train/{name}": value for name, value in update.metrics.items()},
        }
        return Trained(shared, metrics, sums)

    @property
    def num_train(self) -> int:
        """Training images of this client."""
        return len(self.federation.partition.train[self.index])

    def evaluate(
        self, stamp: Stamp, shared: Mapping[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Measure this client's personal models after round `stamp.round`.

        Returns figures in [0, 1] with counts of images, and the parts of the probes' sums, each named
        ``PROBE/NAME``. Without test images and validation images there are no figures of models, and none
        where the client is private and its site does not allow them.
        """
        fed = self.federation
        if stamp.round == 0:
            return self._open(shared)
        self.store.drop_old(stamp)
        net, data, personal = self._measured(stamp, shared)
        measured = data.measured
        assert measured is not None
        indices = self._test_indices
        version = self._version(stamp)
        figures: dict[str, float] = {
            NUM_EXAMPLES: len(data.train),
            "num-test": len(indices),
            "trained-rounds": personal.rounds_trained,
        }
        sums = {
            f"{probe.name}/{name}": tensor
            for probe in fed.probes
            for name, tensor in (probe.collect(net, data) | probe.personal_template()).items()
        }
        held_out = len(data.validation) if data.validation is not None else 0
        covered_only = self._privacy is not None and not self._privacy.tells_figures
        if covered_only or (not len(indices) and not held_out):
            return figures, self._allowed(sums, data)
        for name, predictor in measured.personal().items():
            if len(indices):
                found = predictor_guesses(fed.method, net, predictor, fed.bank, version, indices)
                figures |= client_figures(name, found, fed.personal_groups)
                if name == fed.method.primary_personal:
                    sums |= _of_the_own_model(fed.probes, found)
            if held_out:
                right = predictor_accuracy(fed.method, net, predictor, data)
                figures[f"personal/{name}/validation"] = right
        if self.index in fed.partition.held_out and len(indices) and len(data.train):
            figures |= self._as_new(data, indices)
        return figures, self._allowed(sums, data)

    def _as_new(self, data: ClientData, indices: Tensor) -> dict[str, float]:
        """Figures of a client that never trains: what the shared model gives it, before and after its own step."""
        fed = self.federation
        first = dataclasses.replace(data, round=data.round + 1)
        initial = fed.initial[Part.PERSONAL]
        new = NewClient(fed.method, fed.net, data.received, initial, fed.has_global_network, first)
        bank = FeatureBank(fed.test.take(indices), fed.data.preparation.prepare)
        return {
            f"new/{stage}/{name}": value
            for stage, guesses in new.measured(bank).items()
            for name, value in {
                "accuracy": accuracy(guesses.tally),
                **guesses.quality(),
            }.items()
        }

    def _allowed(self, sums: Mapping[str, Tensor], data: ClientData) -> dict[str, Tensor]:
        """The probes' sums as far as they may leave the site."""
        if self.policy is None:
            return dict(sums)
        fed, counts = self.federation, self._counts(data)
        allowed: dict[str, Tensor] = {}
        for probe in fed.probes:
            own = {k: t for k, t in sums.items() if k.startswith(f"{probe.name}/")}
            told, who = probe.class_told, f"probe {probe.name!r}"
            allowed |= allowed_sums(own, told, counts[told.of], self.policy, who)
        return allowed

    def _counts(self, data: ClientData) -> dict[str, Tensor]:
        """Examples of each class, of those that are trained on, tested on and held out."""
        fed, held = self.federation, data.validation
        labels = held.classes.cpu() if held is not None else torch.empty(0, dtype=torch.int64)
        return {
            "train": torch.from_numpy(fed.partition.train_counts[self.index]),
            "test": torch.from_numpy(fed.partition.local_test_counts[self.index]),
            "validation": torch.bincount(labels, minlength=fed.data.num_classes),
        }

    def measure_again(
        self, stamp: Stamp, shared: Mapping[str, Tensor], given: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The parts of the second sums of the probes that ask twice, each named ``PROBE/NAME``."""
        fed = self.federation
        net, data, _ = self._measured(stamp, shared)
        sums = {
            f"{probe.name}/{name}": tensor
            for probe in fed.two_pass_probes
            for name, tensor in probe.collect_again(net, data, of_probe(probe, given)).items()
        }
        return self._allowed(sums, data)

    def _measured(
        self, stamp: Stamp, shared: Mapping[str, Tensor]
    ) -> tuple[Network, ClientData, PersonalState]:
        """The network after round `stamp.round`, this client's data and its personal state."""
        fed = self.federation
        personal = self.store.load(stamp, fed.initial[Part.PERSONAL], before=stamp.round + 1)
        net = fed.load(shared, personal.tensors).eval()
        plain = fed.client_data(self.index, stamp.round, shared, personal.rounds_trained)

        def test() -> Labelled:
            indices, extract = self._test_indices, partial(fed.method.features, net)
            classes, version = fed.test.classes[indices], self._version(stamp)
            if version is None and len(indices):
                return fed.bank.fresh(extract, indices), classes
            return fed.bank.features(version or "", extract, indices), classes

        def test_for(predictor: Predictor) -> Labelled:
            if predictor.extractor == "features":
                return has.test()
            indices, extract = (
                self._test_indices,
                partial(getattr(fed.method, predictor.extractor), net),
            )
            return fed.bank.fresh(extract, indices), fed.test.classes[indices]

        def train() -> Labelled:
            return plain.train_features(net, fed.method.features)

        def models() -> dict[str, Predictor]:
            if (kept := fed.personal_models.get(stamp.version, self.index)) is not None:
                return kept
            # A probe asks without gradients; a model that is tuned needs them.
            with (
                torch.enable_grad(),
                torch_seeded(fed.config.seed, "personal-models", stamp.round, self.index),
            ):
                made = personal_models(fed.method, net, replace(plain, measured=has))
            if fed.two_pass_probes:
                fed.personal_models.put(stamp.version, self.index, made)
            return made

        untold = {}
        if self.policy is not None:
            counts = self._counts(plain)
            untold = {name: small_classes(of, self.policy) for name, of in counts.items()}
        has = InEvaluation(cache(train), cache(test), test_for, cache(models), untold)
        return net, replace(plain, measured=has), personal

    @property
    def _test_indices(self) -> Tensor:
        return torch.from_numpy(self.federation.partition.test[self.index]).to(
            self.federation.device
        )

    def _version(self, stamp: Stamp) -> str | None:
        """Names the shared backbone's tensors; None if the backbone is this client's own."""
        return self.federation.features_version(stamp.version)

    def _open(self, shared: Mapping[str, Tensor]) -> tuple[dict[str, float], dict[str, Tensor]]:
        """What is asked before round 1; `UpdateError` if this client's config asks for nothing."""
        fed = self.federation
        if fed.opening is None:
            raise UpdateError(f"client {self.index}: there is nothing to ask before round 1")
        net = fed.load(shared, fed.initial[Part.PERSONAL]).eval()
        data = fed.client_data(self.index, 0, shared)
        sums = {f"{fed.opening.name}/{k}": t for k, t in fed.opening.collect(net, data).items()}
        own = torch.from_numpy(fed.partition.train_counts[self.index])
        told = fed.opening.class_told
        allowed = allowed_sums(sums, told, own, self.policy, "init-head")
        return {NUM_EXAMPLES: len(data.train)}, allowed


def _of_the_own_model(probes: Sequence[Probe], guesses: Guesses) -> dict[str, Tensor]:
    return {
        f"{probe.name}/{name}": tensor
        for probe in probes
        for name, tensor in probe.collect_personal(guesses.logits, guesses.labels).items()
    }


def train_together(
    clients: Sequence[Client], stamp: Stamp, shared: Mapping[str, Tensor], stacked: StackedClients
) -> Iterator[tuple[Client, Trained | FedlogeError]]:
    """Train clients of one round at once; each ends where it would alone, but for rounding.

    Yields each client with what `Client.train` returns, or with the error that it would raise.
    The tensors are valid until the next client is asked for. Clients without images are left out;
    `Client.train` refuses them.

    Raises
    ------
    RuntimeError
        The network cannot be stacked. No client's state has been written.
    """
    states: list[tuple[Client, PersonalState]] = []
    for client in sorted((c for c in clients if c.num_train), key=lambda c: -c.num_train):
        try:
            states.append((client, client.state_before(stamp)))
        except FedlogeError as exc:
            yield client, exc
    if not states:
        return
    data = []
    for place, (client, state) in enumerate(states):
        fed = client.federation
        stacked.load(place, shared, state.tensors)
        data.append(fed.client_data(client.index, stamp.round, shared, state.rounds_trained))
    results = stacked.train(data, epochs=states[0][0].federation.config.local_epochs)
    for place, ((client, state), result) in enumerate(zip(states, results, strict=True)):
        if isinstance(result, FedlogeError):
            yield client, result
            continue
        fed, tensors = client.federation, stacked.tensors(place)
        own, sent = fed.part_of(tensors, Part.PERSONAL), fed.part_of(tensors, Part.SHARED)
        try:
            yield client, client.finish(stamp, state, own, sent, Update(result))
        except FedlogeError as exc:
            yield client, exc


def personal_folder(site: OwnSite | None, run_config: Mapping, stamp: Stamp) -> Path:
    """The folder of a run's personal states.

    At a site it is in its state folder, one folder per run. In a simulation it is inside the
    run's own directory.
    """
    if site is not None:
        return site.state / stamp.run_id
    runs_dir = Path(str(run_config.get("runs-dir", "runs"))).expanduser()
    if not stamp.run_name:
        raise RunError("the message names no run; nowhere to keep personal state")
    return RunFiles(runs_dir / stamp.run_name).heads
