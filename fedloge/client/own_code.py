"""A site that answers with its own installed code, whatever code a server has sent.

Flower hands a site the server's app with every message and runs it. Here the app is neither written
to disk nor put on the path: the installed package answers, so that its policy and audit hold against
the server's code too. An app that differs from it is refused, since it would mean something else.
"""

from __future__ import annotations

import io
import logging
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.supernode.runtime import run_clientapp as runtime

from fedloge.client.client_app import app
from fedloge.client.guard import guard
from fedloge.errors import PolicyError

log = logging.getLogger(__name__)

APP = "fedloge/fedloge"
"""Publisher and name of the project's app, as Flower's bundler writes them (``tool.flwr.app``)."""


def answer_with(own: OwnCode) -> None:
    """From here on, Flower's client process answers with the installed package alone.

    Both names belong to a private module of Flower 1.41; a test drives a real SuperNode through them.
    """
    app.code = "own"
    setattr(runtime, "install_from_fab", own.compare)  # noqa: B010 - their types are Flower's own
    setattr(runtime, "get_load_client_app_fn", lambda **_: own.app)  # noqa: B010


class OwnCode:
    """The installed package as it is when this is made, and how the app of a message differs from it.

    Make it where the package is imported: what is installed later is not what runs.
    """

    def __init__(self) -> None:
        root = Path(__file__).parents[1]
        self._files = {
            f"fedloge/{path.relative_to(root).as_posix()}": path.read_bytes()
            for path in root.rglob("*.py")
        }
        self._different: list[str] = []

    def compare(self, bundle: bytes, *_: object, **__: object) -> None:
        """Note which files of the package differ from those of an app bundle, a zip archive."""
        self._different = self.different_files(bundle)

    def different_files(self, bundle: bytes) -> list[str]:
        """The package's Python files that an app bundle holds in another form, lacks, or has besides."""
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            sent = {
                name: archive.read(name)
                for name in archive.namelist()
                if name.startswith("fedloge/") and name.endswith(".py")
            }
        names = sent.keys() | self._files.keys()
        return sorted(name for name in names if sent.get(name) != self._files.get(name))

    def app(self, app_id: str, app_version: str, app_hash: str) -> ClientApp:
        """The installed app, if the server's is the same; else one that refuses every message.

        Parameters
        ----------
        app_id : ``publisher/name`` of the server's app.
        app_hash : SHA-256 of its bundle, for the log.
        """
        own = version("fedloge")
        if (app_id, app_version) != (APP, own):
            return _Refusing(
                f"the server runs {app_id} {app_version}, this site its own {APP} {own}"
            )
        if self._different:
            first = ", ".join(self._different[:3])
            return _Refusing(
                f"the server's code differs from this site's own in {len(self._different)} files ({first})"
            )
        log.info("the server's app %s is this site's own %s", app_hash[:12], own)
        return app


class _Refusing(ClientApp):
    """Answers every message with one reason, which the site's audit log records."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self._reason = reason

    def __call__(self, message: Message, context: Context) -> Message:
        return guard(message, context, self._refuse, "own")

    def _refuse(self, _: Message, __: Context) -> NoReturn:
        raise PolicyError(
            "code",
            f"{self._reason}; install the same at both, or start the site with 'fedloge superexec --code sent'",
        )
