"""One flat, typed, frozen configuration.

Keys are kebab-case in TOML and on the command line (``num-clients``), snake_case
in Python (``config.num_clients``). The defaults here are the quick start's, and
equal those under ``[tool.flwr.app.config]`` in ``pyproject.toml`` (a test says so).
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import ConfigDict, Field, model_validator

from fedloge.errors import ConfigError, unknown_name

Scalar = str | int | float | bool

# Keys that say where and how fast a run runs, or how long, but not what each
# round computes; they stay out of the fingerprint, so that a run may be moved,
# extended or resumed on another engine.
OPERATIONAL = frozenset(
    {
        "name",
        "runs-dir",
        "data-path",
        "cache-dir",
        "rounds",
        "device",
        "cuda-graphs",
        "clients-at-once",
        "checkpoint-every",
        "round-timeout",
        "startup-timeout",
        "resume",
        "from-round",
        "ray-workers",
        "ray-address",
        "cpus-per-worker",
        "gpus-per-worker",
        "ray-state",
    }
)


class Config(pydantic.BaseModel):
    """Everything that decides a run. Build with `load` or `from_flat` for readable errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    # What is trained
    method: str = Field(
        "fedloge", description="a method's name, a dotted name or path/to/file.py:Class"
    )
    method_options: str = Field("", description='the method\'s own parameters, "mu = 0.1, tau = 1"')
    model: str = Field(
        "cnn",
        description="backbone: cnn, resnet8, resnet18, resnet34, resnet50, or a torchvision model",
    )
    norm: Literal["batch", "group"] = Field(
        "batch", description="normalisation layers of our backbones"
    )
    norm_sharing: Literal["all", "affine", "none"] = Field(
        "all",
        description="what of the norm layers is averaged: all; affine (running statistics stay with "
        "each client); none (FedBN: the layers stay with each client)",
    )
    prototypes: Literal["sparse-etf", "etf", "none"] = Field(
        "sparse-etf",
        description="the fixed classifier: SSE-C, a plain simplex ETF, or a trained head instead",
    )
    sparsity: float = Field(
        0.6, ge=0, lt=1, description="share of zeros in every row of the fixed classifier"
    )
    gamma: float = Field(0.1, gt=0, description="norm of every row of the fixed classifier")
    personal_realignment: Literal["norm", "sum"] = Field(
        "norm", description="LA-FR: phi' = psi * ||phi||, or its logits plus the local head's own"
    )
    local_loss: Literal[
        "cross-entropy", "balanced-softmax", "logit-adjusted", "fedlc", "ldam", "focal", "ratio"
    ] = Field(
        "cross-entropy",
        description="what a client minimises; for methods with no loss of their own",
    )
    local_loss_options: str = Field(
        "", description='the local loss\'s own parameters, "tau = 1"; ldam: also "drw-from = ROUND"'
    )
    post_hoc: str = Field(
        "",
        description="further global models from the trained head: ga-fr, tau-norm, tau-norm = TAU",
    )

    # Data
    dataset: str = Field("digits", description="digits, cifar10, cifar100 or image-folder")
    data_path: str = Field("", description="folder or archive of the data set")
    cache_dir: str = Field(
        "", description="where decoded archives are kept; empty: the user's cache folder"
    )
    image_size: int = Field(
        0, ge=0, le=1024, description="image-folder: resize to this square; 0: as they are"
    )
    long_tail: Literal["exp", "step", "none"] = Field("exp", description="shape of the long tail")
    imbalance_factor: float = Field(0.02, gt=0, le=1, description="smallest over largest class")
    augment: Literal["auto", "crop-flip", "crop", "none"] = Field(
        "auto", description="training augmentation; auto: what suits the data set"
    )

    # Clients
    partitioner: str = Field(
        "dirichlet", description="a partitioner's name, a dotted name or path/to/file.py:function"
    )
    partitioner_options: str = Field(
        "", description='the partitioner\'s own parameters, "classes-per-client = 2"'
    )
    classes: str = Field(
        "", description="partitioner on-node: the class names, separated by commas"
    )
    share_class_counts: bool = Field(
        False,
        description="partitioner on-node: clients tell how many images of each class they hold, for "
        "many, medium and few",
    )
    dirichlet_alpha: float = Field(
        0.5, gt=0, description="concentration of the Dirichlet split; smaller is more skewed"
    )
    num_clients: int = Field(20, ge=1, description="clients in the federation")
    clients_per_round: int = Field(8, ge=1, description="clients drawn each round")

    # Training
    rounds: int = Field(30, ge=1)
    local_epochs: int = Field(5, ge=1, description="passes over a client's images each round")
    batch_size: int = Field(8, ge=1)
    lr: float = Field(0.03, gt=0, description="SGD learning rate")
    momentum: float = Field(0.5, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32",
        description="of training: float32; tf32, its products with 10 bits of mantissa, on GPUs alone; bf16, "
        "bfloat16 autocast of forward passes, for processors and GPUs that have it",
    )
    cuda_graphs: bool = Field(
        False,
        description="on a GPU: record a training step once a batch size and replay it; checked against "
        "a plain step, and left out with a warning where they differ or the method has no such step",
    )
    clients_at_once: int = Field(
        1,
        ge=1,
        description="clients that an engine trains together, their networks as one: for GPUs, which a single "
        "small network leaves idle; the same steps but for rounding, one by one where a method forbids it",
    )
    wire_dtype: Literal["float32", "float16"] = Field(
        "float32", description="how shared tensors are sent, both ways; float16 halves the bytes"
    )

    # Aggregation
    aggregation: Literal["mean", "median", "trimmed-mean", "krum"] = Field(
        "mean",
        description="mean weighted by images, or a robust rule that counts every client alike",
    )
    byzantine_clients: int = Field(
        0, ge=0, description="krum, trimmed-mean: misbehaving clients to stand up to"
    )
    dp_clip: float = Field(
        0.0, ge=0, description="central privacy: norm to which updates are clipped; 0: off"
    )
    dp_noise: float = Field(1.0, ge=0, description="central privacy: noise multiplier")
    dp_delta: float = Field(
        1e-5, gt=0, lt=1, description="central privacy: delta of the reported epsilon"
    )

    # Measurement
    evaluate_every: int = Field(
        5, ge=1, description="rounds between evaluations; the last round is always one"
    )
    shot_groups: Literal["mass", "count"] = Field(
        "mass",
        description="many / medium / few: cut at 75 % and 95 % of cumulative mass (FedLoGe), or at >100 and "
        "<20 training images",
    )

    # How it runs
    seed: int = Field(0, ge=0, lt=2**32)
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(
        1, ge=1, description="torch threads a process; part of the result's last bits"
    )
    min_fraction: float = Field(
        0.5, gt=0, le=1, description="quorum: share of a round's clients that must answer well"
    )
    round_timeout: float = Field(
        3600.0, gt=0, description="seconds a round may wait for its clients"
    )
    startup_timeout: float = Field(
        300.0, gt=0, description="seconds to wait for all clients to register"
    )
    checkpoint_every: int = Field(1, ge=1, description="rounds between checkpoints")
    name: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,99})?$",
        description="name of the run; empty: made up",
    )
    runs_dir: str = Field("runs", description="folder that holds the runs")
    ray_workers: int = Field(
        0, ge=0, description="engine ray: worker processes; 0: as many as the cores allow"
    )
    ray_address: str = Field(
        "", description="engine ray: an existing cluster's address; empty: this machine alone"
    )
    cpus_per_worker: float = Field(
        0.0, ge=0, description="engine ray: cores reserved a worker; 0: its threads"
    )
    gpus_per_worker: float = Field(0.0, ge=0, description="engine ray: GPUs reserved a worker")
    ray_state: Literal["auto", "shared", "carried"] = Field(
        "auto",
        description="engine ray: personal state on a path all nodes see, or carried by the driver; auto: looks",
    )
    resume: bool = Field(
        False, description="continue the run of this name from its newest checkpoint"
    )
    from_round: int = Field(
        -1, ge=-1, description="with resume: the kept round to continue from; -1: the newest"
    )

    @model_validator(mode="after")
    def _across_keys(self) -> Config:
        if self.clients_per_round > self.num_clients:
            raise ValueError(
                f"clients-per-round is {self.clients_per_round} but num-clients is {self.num_clients}; "
                "lower the one or raise the other"
            )
        if 2 * self.byzantine_clients >= self.clients_per_round:
            raise ValueError(
                f"byzantine-clients is {self.byzantine_clients} of {self.clients_per_round} clients-per-round; "
                "a robust rule needs less than half"
            )
        if self.on_node:
            self._check_on_node()
        if self.dp_clip and self.wire_dtype != "float32":
            raise ValueError("dp-clip measures updates exactly: set wire-dtype=float32")
        if self.dp_clip and self.aggregation != "mean":
            raise ValueError(
                f"dp-clip: the noise is made for aggregation=mean, got {self.aggregation!r}"
            )
        return self

    @property
    def on_node(self) -> bool:
        """Whether the images lie with the clients already, so that nothing is split."""
        return self.partitioner == "on-node"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of `classes`, in alphabetical order as an image folder's are."""
        return tuple(sorted({name.strip() for name in self.classes.split(",")} - {""}))

    def _check_on_node(self) -> None:
        expected = {"dataset": "image-folder", "long-tail": "none"}
        for key, value in expected.items():
            if self.flat()[key] != value:
                raise ValueError(
                    f"partitioner 'on-node' uses the images of each client as they are: set {key}={value}, "
                    f"got {self.flat()[key]!r}"
                )
        if len(self.class_names) < 2:
            raise ValueError(
                "partitioner 'on-node' needs the class names, the same for all: set "
                f'classes="NAME, NAME", got {self.classes!r}'
            )
        if not self.image_size:
            raise ValueError("partitioner 'on-node' needs one image size for all: set image-size")

    def flat(self) -> dict[str, Scalar]:
        """The config as kebab-case scalars, in the order of the fields."""
        return self.model_dump(by_alias=True)

    def fingerprint(self) -> str:
        """Hash of the keys that decide what a round computes (see `OPERATIONAL`)."""
        decisive = {k: v for k, v in self.flat().items() if k not in OPERATIONAL}
        return digest(json.dumps(decisive, sort_keys=True).encode())

    def replace(self, **changes: Any) -> Config:
        """A copy with some fields changed (snake_case), checked again."""
        return from_flat({**self.flat(), **{k.replace("_", "-"): v for k, v in changes.items()}})


def digest(*parts: bytes) -> str:
    """SHA-256 of the parts, each length-prefixed, shortened to 16 hexadecimal digits."""
    h = hashlib.sha256()
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.hexdigest()[:16]


def keys() -> list[str]:
    """All known keys, kebab-case."""
    return [name.replace("_", "-") for name in Config.model_fields]


def from_flat(values: Mapping[str, Any], source: str = "config") -> Config:
    """Build a config from kebab-case keys.

    Raises
    ------
    ConfigError
        One line naming the first wrong key or value, what was expected and what came.
    """
    known = keys()
    for key in values:
        if key not in known:
            raise ConfigError(f"{source}: {unknown_name('key', key, known)}")
    try:
        return Config.model_validate(dict(values))
    except pydantic.ValidationError as exc:
        raise ConfigError(f"{source}: {_first_problem(exc)}") from None


def load(path: str | Path | None, overrides: Iterable[str] = ()) -> Config:
    """Read a recipe (TOML, flat) and apply ``key=value`` overrides; no path: the defaults.

    Raises
    ------
    ConfigError
        The file is missing or no TOML, or a key or value is wrong.
    """
    values: dict[str, Any] = _read_toml(Path(path)) if path is not None else {}
    values |= parse_overrides(overrides)
    return from_flat(values, source=str(path) if path else "config")


def parse_overrides(overrides: Iterable[str]) -> dict[str, Scalar]:
    """``key=value`` items as config keys and values, not yet checked against each other.

    Raises `ConfigError` for an item of another form or an unknown key.
    """
    values: dict[str, Scalar] = {}
    for item in overrides:
        key, sep, text = item.partition("=")
        key = key.strip()
        if not sep or not key:
            raise ConfigError(f"--set {item!r}: expected key=value, for example --set lr=0.01")
        if key not in keys():
            raise ConfigError(f"--set: {unknown_name('key', key, keys())}")
        values[key] = _parse_value(key, text.strip())
    return values


def parse_options(text: str, source: str) -> dict[str, Scalar]:
    """Read ``"mu = 0.1, tau = 1"`` into kebab-case keys and TOML scalars.

    Words need no quotes. Raises `ConfigError` for anything else.
    """
    options: dict[str, Scalar] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, sep, value = item.partition("=")
        if not sep or not key.strip() or not value.strip():
            raise ConfigError(f'{source}: expected "key = value, key = value", got {item!r}')
        options[key.strip()] = _toml_scalar(value.strip())
    return options


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as f:
            return tomllib.load(f)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe; give the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not valid TOML ({exc})") from None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror})") from None


def _parse_value(key: str, text: str) -> Scalar:
    field = Config.model_fields[key.replace("-", "_")]
    # A string key takes the text as it stands: a path called "1e3" is no number.
    return text.strip("'\"") if isinstance(field.default, str) else _toml_scalar(text)


def _toml_scalar(text: str) -> Scalar:
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, (str, int, float, bool)) else text


def _first_problem(exc: pydantic.ValidationError) -> str:
    error = exc.errors()[0]
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    return f"{error['loc'][0]}: {message[0].lower()}{message[1:]}, got {error['input']!r}"
