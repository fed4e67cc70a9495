"""Options of partitioner ``on-node``, with which nothing is split: clients have their own examples."""

from __future__ import annotations

from pydantic import Field

from fedloge.options import Options


class OnNodeOptions(Options):
    """Options of partitioner ``on-node``, for clients that hold their own examples.

    `classes`: the class names, the same for all clients; a list, or text separated by commas.
    `share_class_counts`: whether clients tell the server how many examples of each class they
    hold, from which it knows the many, medium and few classes.
    `max_weight_factor`: in the average no client weighs more than this many times the median
    client, however many examples it says it holds.
    `min_clients`: the roster is open: ``num-clients`` are places, so many sites are enough to start and to
    go on, and sites come and go between rounds; 0: all must be there when the run starts.
    """

    classes: list[str] | str = ""
    share_class_counts: bool = False
    max_weight_factor: float = Field(4.0, ge=1)
    min_clients: int = Field(0, ge=0)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names in alphabetical order, as in an image folder."""
        names = self.classes.split(",") if isinstance(self.classes, str) else self.classes
        return tuple(sorted({name.strip() for name in names} - {""}))
