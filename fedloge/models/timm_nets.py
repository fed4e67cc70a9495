"""Any image model of timm as a backbone, without its classifier, and where its weights are."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor

from fedloge.data.fitted_images import ImageStandard
from fedloge.errors import ConfigError, unknown_name
from fedloge.models.backbone import ImageBackbone

# timm imports torchvision and torch's compiler, which takes seconds, so it waits until it is used.
# It is an extra, too.

PREFIX = "timm/"
_FILES = ("model.safetensors", "pytorch_model.bin")


class TimmBackbone(ImageBackbone):
    """A timm model up to its classifier; grey images become RGB by repeating their channel.

    Raises
    ------
    ConfigError
        timm is not installed or has no such model, or the model does not take the images.
    """

    def __init__(self, name: str, image_shape: tuple[int, int, int]) -> None:
        super().__init__(name, image_shape)
        import timm

        architecture = known(name)
        sized: dict[str, Any] = (
            {} if _takes(architecture, image_shape) else {"img_size": image_shape[1:]}
        )
        with self.refusing_sizes():
            self.net = timm.create_model(architecture, num_classes=0, **sized)
            self.measure()

    def own_tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file without the classifier, converted as timm does for this model."""
        own: Any = dict(state)
        # Hubs also have files in the form of their first publisher.
        convert = getattr(
            sys.modules[type(self.net).__module__], "checkpoint_filter_fn", lambda s, _: s
        )
        with contextlib.suppress(RuntimeError, KeyError, ValueError, AttributeError, TypeError):
            # A file of another model is refused when it is loaded.
            own = convert(own, self.net)
        expected: Any = self.net.pretrained_cfg
        classifier = expected.get("classifier") or ()
        names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        heads = tuple(f"{name}." for name in names)
        return {key: tensor for key, tensor in own.items() if not key.startswith(heads or "\0")}


def known(name: str) -> str:
    """The name in timm of ``timm/NAME`` or ``timm/NAME.TAG``; `ConfigError` if there is none."""
    if importlib.util.find_spec("timm") is None:
        raise ConfigError(f"model {name!r} needs timm, which is not installed: pip install timm")
    import timm

    wanted = name.removeprefix(PREFIX)
    architecture, _, tag = wanted.partition(".")
    if not timm.is_model(architecture):
        raise ConfigError(_unknown(name, timm.list_models()))
    if tag:
        _check_tag(name, architecture, tag)
    return wanted


def timm_standard(name: str, tag: str) -> ImageStandard:
    """What a model's weights expect of images; `tag` as in `timm_hub_file`, "" for a file's."""
    c = _pretrained_cfg(name, tag)
    if c.crop_mode not in ("center", "squash"):
        raise ConfigError(
            f"preprocessing: model {name!r} wants images padded to squares (crop mode {c.crop_mode!r}), "
            "which is not offered; set preprocessing=data-set"
        )
    size, _ = c.input_size[1:]
    squash = c.crop_mode == "squash"
    return ImageStandard(size, c.crop_pct, c.interpolation, tuple(c.mean), tuple(c.std), squash)


def timm_licence(name: str) -> str:
    """The licence of timm's own weights of a model; "" if it states none."""
    return _pretrained_cfg(name, "").license or ""


def timm_hub_file(name: str, tag: str) -> tuple[Path, str, str]:
    """A model's weights on its hub: the local file, the hub's name, and the licence.

    Raises
    ------
    ConfigError
        There is no such tag; or the file is not in the cache, and cannot be downloaded.
    """
    found = _pretrained_cfg(name, tag)
    if not found.hf_hub_id:
        raise ConfigError(
            f"weights: {name!r} is on no hub; download {found.url} and set weights to its path"
        )
    from huggingface_hub import constants, errors, hf_hub_download, try_to_load_from_cache

    for file in _FILES:
        kept = try_to_load_from_cache(found.hf_hub_id, file)
        if isinstance(kept, str):
            return Path(kept), found.hf_hub_id, found.license
    reason = _unreachable(constants.ENDPOINT) if not constants.HF_HUB_OFFLINE else "HF_HUB_OFFLINE"
    for file in _FILES if not reason else ():
        try:
            path = Path(hf_hub_download(found.hf_hub_id, file))
            return path, found.hf_hub_id, found.license
        except errors.EntryNotFoundError:
            continue
        except Exception as exc:  # whatever the network and its libraries raise
            reason = str(exc).splitlines()[0]
            break
    raise ConfigError(
        f"weights: {_FILES[0]} of {found.hf_hub_id} is not in {constants.HF_HUB_CACHE} and cannot be "
        f"downloaded ({reason}); fetch it where there is a network, and set weights to its path"
    )


def _unreachable(address: str) -> str:
    # Found out at once; the hub's own library tries for a minute.
    host = urlsplit(address)
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return ""
    try:
        port = host.port or (80 if host.scheme == "http" else 443)
        socket.create_connection((host.hostname or "", port), timeout=5).close()
    except OSError as exc:
        return f"{host.hostname}: {exc.strerror or exc}"
    return ""


def _pretrained_cfg(name: str, tag: str) -> Any:
    from timm.models import get_pretrained_cfg

    wanted = known(name)
    if tag not in ("", "hub"):
        architecture = wanted.partition(".")[0]
        _check_tag(name, architecture, tag)
        wanted = f"{architecture}.{tag}"
    return get_pretrained_cfg(wanted)


def _check_tag(name: str, architecture: str, tag: str) -> None:
    from timm.models import list_pretrained

    tags = [full.partition(".")[2] for full in list_pretrained(f"{architecture}.*")]
    if tag not in tags:
        raise ConfigError(f"weights: model {name!r}: {unknown_name('tag', tag, tags)}")


def _unknown(name: str, names: list[str]) -> str:
    import difflib  # seldom needed

    near = difflib.get_close_matches(name.removeprefix(PREFIX), names, n=3, cutoff=0.5)
    hint = f"; near: {', '.join(PREFIX + other for other in near)}" if near else ""
    return f"unknown model {name!r}{hint}; timm.list_models() has all"


def _takes(architecture: str, image_shape: tuple[int, int, int]) -> bool:
    from timm.models import get_pretrained_cfg

    expected: Any = get_pretrained_cfg(architecture)
    return not expected.fixed_input_size or expected.input_size[1:] == image_shape[1:]
