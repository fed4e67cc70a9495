"""What a site lets a server do: a TOML file of the site's own, and the checks of a run's config against it.

The defaults are strict. A site that allows more says so in the file that its node config names
(``policy``). ``clients/policy.toml`` shows every key with its default.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from fedloge.config import Config
from fedloge.config.reading import read_toml
from fedloge.errors import PolicyError
from fedloge.federation.named_code import Named, named_in
from fedloge.learning.class_told import ClassTold
from fedloge.learning.probes import PROBES, ClosedForm, Validation
from fedloge.methods import method_class
from fedloge.options import Options, checked_options

ANY = "built-in"
"""In a list of methods, models or probes: every one that comes with fedloge."""

# Those that read no further file and fetch nothing.
_PARTITIONERS = (
    "on-node",
    "dirichlet",
    "iid",
    "pathological",
    "shards",
    "quantity",
    "label-and-quantity",
    "local-tails",
    "feature",
    "natural",
)


class SitePolicy(Options):
    """What a server may make a site do. What is not allowed here is refused, in one line that names the key.

    `methods`, `models`, `datasets`, `partitioners`, `probes`: names that a run's config may give;
    ``built-in`` for all methods, models or probes that come with fedloge.
    `plugins`: SHA-256, in hexadecimal digits, of the files of a method, model, data set, partitioner
    or probe that is not fedloge's own. Any other plug-in is refused before it is executed.
    `class_counts`: whether the server may learn how many examples of a class the site holds.
    `class_sums`: whether it may get sums over the examples of a class: features, gradients.
    `min_images_per_class`: of a class with fewer examples neither is told; to the server it looks
    as if the site had none.
    `max_rounds`, `max_local_epochs`: of a run, and of a round.
    `max_megabytes_per_round`: of tensors, received and sent, in a round of a run; 10^6 bytes each.
    `keep_runs`: of so many runs personal state is kept; a further run is refused.
    `min_client_noise`: least noise multiplier of privacy at the client; 0: it is not demanded.
    `max_epsilon`: epsilon of the site's examples over all of its runs, at delta `max_delta`, above which
    it trains no more; 0: without a bound. `max_delta`: the largest delta that a run may ask for.
    `tell_epsilon`: whether the server may learn what a run has spent. `uncovered_figures`: whether figures
    of personal models may leave the site under privacy at the client, which does not cover them.
    `secure_aggregation`: whether a run must have it, so that the server sees no update of this site.
    `min_cohort`: with secure aggregation, over how many clients a sum must be.
    """

    methods: list[str] = Field([ANY])
    models: list[str] = Field([ANY])
    datasets: list[str] = Field(["digits", "image-folder"])
    partitioners: list[str] = Field(list(_PARTITIONERS))
    probes: list[str] = Field([ANY])
    plugins: list[str] = Field([])
    class_counts: bool = False
    class_sums: bool = False
    min_images_per_class: int = Field(10, ge=1)
    max_rounds: int = Field(1000, ge=1)
    max_local_epochs: int = Field(20, ge=1)
    max_megabytes_per_round: float = Field(1000.0, gt=0)
    keep_runs: int = Field(20, ge=1)
    min_client_noise: float = Field(0.0, ge=0)
    max_epsilon: float = Field(0.0, ge=0)
    max_delta: float = Field(1e-5, gt=0, lt=1)
    tell_epsilon: bool = False
    uncovered_figures: bool = False
    secure_aggregation: bool = False
    min_cohort: int = Field(3, ge=3)

    @field_validator("plugins")
    @classmethod
    def _digests(cls, given: list[str]) -> list[str]:
        for item in given:
            if len(item) != 64 or set(item) - set("0123456789abcdef"):
                raise ValueError(
                    f"expected SHA-256 in 64 hexadecimal digits (sha256sum FILE), got {item!r}"
                )
        return given

    def check(self, config: Config) -> None:
        """Refuse a run whose config asks for what is not allowed; no plug-in is executed before it is allowed.

        Raises
        ------
        PolicyError
            With the key of the policy.
        """
        self._check_names(config)
        for rule, key, asked, most in (
            ("max-rounds", "rounds", config.rounds, self.max_rounds),
            ("max-local-epochs", "local-epochs", config.local_epochs, self.max_local_epochs),
        ):
            if asked > most:
                raise PolicyError(rule, f"{key} is {asked}, {most} are allowed")
        if config.shares_class_counts and not self.class_counts:
            raise PolicyError(
                "class-counts", "the run asks for them (partitioner-options.share-class-counts)"
            )
        if config.init_head != "none":
            self.check_told(ClosedForm.class_told, "init-head")
        if config.validation_share:
            self.check_told(Validation.class_told, "validation-share")
        told = method_class(config.method).class_told
        if told is not None:
            self.check_told(told, f"method {config.method!r}")
        if self.secure_aggregation and not config.secure_aggregation:
            raise PolicyError(
                "secure-aggregation",
                "it is demanded, and the run shows the server this site's update",
            )
        self._check_noise(config)

    def _check_noise(self, config: Config) -> None:
        noise = config.local_dp_noise if config.local_dp_clip else 0.0
        adds = f"{noise:g}" if noise else "none"
        if noise < self.min_client_noise:
            raise PolicyError(
                "min-client-noise",
                f"noise of {self.min_client_noise:g} at the client is demanded, the run adds {adds} there",
            )
        if self.max_epsilon and not noise:
            raise PolicyError(
                "max-epsilon", "it bounds what is spent, and the run adds no noise here"
            )
        if noise and config.local_dp_delta > self.max_delta:
            raise PolicyError(
                "max-delta",
                f"local-dp-delta is {config.local_dp_delta:g}, {self.max_delta:g} is allowed",
            )

    def check_told(self, told: ClassTold, who: str) -> None:
        """`PolicyError` if sums of this kind may not leave the site."""
        if told.counts and not self.class_counts:
            raise PolicyError("class-counts", f"{who} sends counts of each class")
        if told.sums and not self.class_sums:
            raise PolicyError("class-sums", f"{who} sends sums over the examples of each class")

    def _check_names(self, config: Config) -> None:
        for named in named_in(config):
            allowed: list[str] = getattr(self, named.kinds)
            if named.is_plugin:
                self._check_plugin(named)
            elif named.name not in allowed and ANY not in allowed:
                raise PolicyError(
                    named.kinds,
                    f"{named.kind} {named.name!r} is not allowed, only {', '.join(allowed) or 'none'}",
                )
            if named.kind == "probe" and named.name in PROBES:
                self.check_told(PROBES[named.name].class_told, f"probe {named.name!r}")

    def _check_plugin(self, named: Named) -> None:
        found = named.sha256 or "no file here"
        if found not in self.plugins:
            raise PolicyError(
                "plugins", f"{named.kind} {named.name!r} is a plug-in ({found}), not named here"
            )


def read_policy(path: Path) -> SitePolicy:
    """The policy in a file.

    Raises
    ------
    ConfigError
        It is missing or not valid TOML, or a key or value is wrong.
    """
    return checked_options(SitePolicy, read_toml(path, "policy"), str(path))
