"""Any classification model of torchvision as a backbone, without its classifier, and its weights."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedloge.data.fitted_images import ImageStandard
from fedloge.errors import ConfigError, unknown_name
from fedloge.models.backbone import ImageBackbone

# torchvision and, with it, torch's compiler take seconds to import, so they wait until one is used.

PREFIX = "torchvision/"
# Not torchvision's, but made for small images.
_SMALL = ("resnet18", "resnet34")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


class TorchvisionBackbone(ImageBackbone):
    """A torchvision model up to its classifier; grey images become RGB by repeating their channel.

    Raises
    ------
    ConfigError
        The images have neither 1 nor 3 channels, or the model does not take their size.
    """

    def __init__(self, name: str, image_shape: tuple[int, int, int]) -> None:
        super().__init__(name, image_shape)
        import torchvision

        plain, (height, width) = name.removeprefix(PREFIX), image_shape[1:]
        with self.refusing_sizes():
            self.net = torchvision.models.get_model(
                plain, weights=None, **_arguments(plain, height, width)
            )
            self._classifier = _remove_classifier(self.net)
            self.measure()

    def own_tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file without the classifier and the auxiliary classifiers."""
        left = (f"{self._classifier}.", *_AUXILIARY)
        return {name: tensor for name, tensor in state.items() if not name.startswith(left)}


def is_torchvision(name: str) -> bool:
    """Whether a model's name is one of torchvision's, ``torchvision/NAME`` or, if it is no other's, ``NAME``."""
    plain = name.removeprefix(PREFIX)
    return plain in torchvision_names() and (plain != name or name not in _SMALL)


def torchvision_standard(name: str, tag: str) -> ImageStandard:
    """What a model's weights expect of images; `tag` as in `torchvision_hub_file`, "" for a file's."""
    preset = _entry(name, tag).transforms()
    size, resized = preset.crop_size[0], preset.resize_size[0]
    mode: Any = preset.interpolation.value
    mean, std = tuple(preset.mean), tuple(preset.std)
    return ImageStandard(size, min(1.0, size / resized), mode, mean, std)


def torchvision_hub_file(name: str, tag: str) -> tuple[Path, str, str]:
    """A model's weights: the local file, torchvision's name for them, and the licence.

    Raises
    ------
    ConfigError
        There is no such tag; or the file is not in torch's cache, and cannot be downloaded.
    """
    entry = _entry(name, tag)
    path = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
    if not path.exists():
        try:
            # torch prints the address; it is not ours to show.
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                torch.hub.load_state_dict_from_url(
                    entry.url,
                    map_location="cpu",
                    progress=False,
                    weights_only=True,
                    check_hash=True,
                )
        except (OSError, RuntimeError) as exc:
            raise ConfigError(
                f"weights: {path.name} is not in {path.parent} and cannot be downloaded from {entry.url} "
                f"({exc}); put it there, or set weights to its path"
            ) from None
    return path, f"{name.removeprefix(PREFIX)} {entry.name}", entry.meta.get("license") or ""


def _entry(name: str, tag: str) -> Any:
    import torchvision

    kinds = torchvision.models.get_model_weights(name.removeprefix(PREFIX))
    if tag in ("", "hub"):
        return kinds.DEFAULT
    if tag not in kinds.__members__:
        raise ConfigError(f"weights: model {name!r}: {unknown_name('tag', tag, kinds.__members__)}")
    return kinds[tag]


def torchvision_names() -> list[str]:
    """Names of torchvision's image classification models, without mnasnet.

    An mnasnet refuses a state dict without torch's own version mark, which ours lack.
    """
    import torchvision

    return torchvision.models.list_models(module=torchvision.models, exclude="mnasnet*")


def _arguments(name: str, height: int, width: int) -> dict[str, Any]:
    if name in ("googlenet", "inception_v3"):
        # With auxiliary classifiers the output in training would be a tuple.
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        # The length of its position embedding is the number of patches in the image.
        return {"image_size": height}
    if name.startswith("maxvit"):
        return {"input_size": (height, width)}
    return {}


def _remove_classifier(net: nn.Module) -> str:
    # The last layer with weights, whatever its name: a Linear, or a 1x1 convolution before the
    # pooling (squeezenet).
    path = [name for name, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    parent, _, child = path.rpartition(".")
    setattr(net.get_submodule(parent), child, nn.Identity())
    return path
