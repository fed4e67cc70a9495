"""Options of partitioner ``on-node``, which is no partitioner: nothing is split."""

from __future__ import annotations

from fedloge.options import Options


class OnNodeOptions(Options):
    """Of partitioner ``on-node``, where the examples lie with the clients already.

    `classes`: their names, the same for all; a list, or text separated by commas.
    `share_class_counts`: clients tell how many examples of each class they hold, for many,
    medium and few.
    """

    classes: list[str] | str = ""
    share_class_counts: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in alphabetical order, as an image folder's are."""
        names = self.classes.split(",") if isinstance(self.classes, str) else self.classes
        return tuple(sorted({name.strip() for name in names} - {""}))
