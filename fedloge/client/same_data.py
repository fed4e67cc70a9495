"""A client with data of its own takes part in a run with the data that it began the run with.

The server knows no digest of them. So the client keeps one for each run, beside its personal tensors.
"""

from __future__ import annotations

import json
import logging

from fedloge.client.personal_state import PersonalStore
from fedloge.data.content import Content, changed
from fedloge.errors import CheckpointError, UpdateError
from fedloge.messages import Stamp
from fedloge.run_files import DATA_OF_CLIENT

log = logging.getLogger(__name__)


def check_same_data(store: PersonalStore, stamp: Stamp, content: Content) -> None:
    """Compare a client's data with those that it began the run with, or remember them at its first message.

    What has changed is said here, in the log; the server learns only that something has.

    Raises
    ------
    UpdateError
        The data are others. To go on with these, the site removes the file that the log names.
    CheckpointError
        The file is damaged.
    """
    path = store.folder / DATA_OF_CLIENT
    try:
        before = Content.of(json.loads(path.read_bytes()))
    except FileNotFoundError:
        store.keep(DATA_OF_CLIENT, json.dumps(content.described()).encode())
        return
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
        raise CheckpointError(
            f"client {store.client}: {path} is damaged ({exc}); restore it from a backup, or remove it to go on "
            "with the data as they are"
        ) from None
    if what := changed(before, content):
        log.warning(
            "client %d began run %s with other data: %s; put back what was there, or remove %s to go on with "
            "the data as they are",
            store.client,
            stamp.run_id,
            what,
            path,
        )
        raise UpdateError(
            f"client {store.client}: its data are not those that it began the run with; its own log says what has "
            "changed and how to go on"
        )
