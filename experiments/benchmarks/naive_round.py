"""A round written the usual way: DataLoader and PIL, and a deep copy and an evaluation per client."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from bare_loop import LR, MOMENTUM, Model
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from fedloge.data import DataSet, Examples, ImagePreparation


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images decoded and transformed one by one."""

    def __init__(
        self, images: Examples, indices: Iterable[int], transform: Callable[[Image.Image], Tensor]
    ) -> None:
        self.pixels = images.inputs.permute(0, 2, 3, 1).numpy()
        self.labels = images.labels.tolist()
        self.indices = [int(index) for index in indices]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        index = self.indices[position]
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


class NaiveRound:
    """Local training of some clients, the average, and the evaluation of all clients.

    Parameters
    ----------
    train, test : each client's images, by index.
    training : the clients that train.
    """

    def __init__(
        self,
        name: str,
        data: DataSet,
        train: Sequence[np.ndarray],
        test: Sequence[np.ndarray],
        training: Sequence[int],
        *,
        batch_size: int,
        epochs: int,
    ) -> None:
        prepared = data.preparation
        assert isinstance(prepared, ImagePreparation)
        normalise = [transforms.ToTensor(), transforms.Normalize(prepared.mean, prepared.std)]
        augmented = transforms.Compose(
            [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *normalise]
        )
        plain = transforms.Compose(normalise)
        self.model = Model(name, data.num_classes)
        self.batch_size, self.epochs, self.training = batch_size, epochs, list(training)
        self.train_sets = [PilImages(data.train, part, augmented) for part in train]
        self.test_sets = [PilImages(data.test, part, plain) for part in test]
        self.test_set = PilImages(data.test, range(len(data.test)), plain)

    def __call__(self) -> None:
        """One round."""
        states, weights = [], []
        heads = {}
        for client in self.training:
            local = copy.deepcopy(self.model)
            self._train(local, self.train_sets[client])
            states.append(copy.deepcopy(local.state_dict()))
            weights.append(len(self.train_sets[client]))
            heads[client] = copy.deepcopy(local.local_head.state_dict())
        total = sum(weights)
        self.model.load_state_dict(
            {
                key: sum(s[key] * (w / total) for s, w in zip(states, weights, strict=True))
                for key in states[0]
            }
        )
        self._accuracy(self.model, self.test_set)
        for client, test_set in enumerate(self.test_sets):
            personal = copy.deepcopy(self.model)
            if client in heads:
                personal.local_head.load_state_dict(heads[client])
            self._accuracy(personal, test_set)

    def _train(self, model: Model, images: PilImages) -> None:
        model.train()
        optimiser = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], lr=LR, momentum=MOMENTUM
        )
        running = 0.0
        for _ in range(self.epochs):
            for x, y in DataLoader(images, batch_size=self.batch_size, shuffle=True):
                optimiser.zero_grad()
                loss = model.loss(x, y)
                loss.backward()
                optimiser.step()
                running += loss.item()

    @torch.no_grad()
    def _accuracy(self, model: Model, images: PilImages) -> float:
        model.eval()
        correct = 0
        for x, y in DataLoader(images, batch_size=128):
            correct += int((model.local_head(model.backbone(x)).argmax(dim=1) == y).sum())
        return correct / len(images)
