"""Options of partitioner ``on-node``, with which nothing is split: clients have their own examples."""

from __future__ import annotations

from fedloge.options import Options


class OnNodeOptions(Options):
    """Options of partitioner ``on-node``, for clients that hold their own examples.

    `classes`: the class names, the same for all clients; a list, or text separated by commas.
    `share_class_counts`: whether clients tell the server how many examples of each class they
    hold, from which it knows the many, medium and few classes.
    """

    classes: list[str] | str = ""
    share_class_counts: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names in alphabetical order, as in an image folder."""
        names = self.classes.split(",") if isinstance(self.classes, str) else self.classes
        return tuple(sorted({name.strip() for name in names} - {""}))
