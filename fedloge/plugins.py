"""Loading what a config names: a built-in method, model or partitioner, or a plug-in of the user's."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from importlib.machinery import PathFinder, SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from fedloge.digest import digest
from fedloge.errors import PluginError, unknown_name

_allowed: ContextVar[bool] = ContextVar("plugins allowed", default=True)


@contextlib.contextmanager
def plugins(*, allowed: bool) -> Iterator[None]:
    """Inside the block `load_plugin` executes plug-ins, or refuses them: what comes from elsewhere may name any."""
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


def load_plugin(spec: str, group: str, builtin: Mapping[str, Any], what: str) -> Any:
    """The object that a config names, imported if need be.

    Parameters
    ----------
    spec : a built-in name, the name of an entry point, ``package.module:Name`` or
        ``package.module.Name``, or ``path/to/file.py:Name``; looked up in this order.
    group : entry point group, such as ``"fedloge.methods"``.
    builtin : the built-in ones by name.
    what : the kind of plug-in for the message, such as ``"method"``.

    Raises
    ------
    PluginError
        No such name, file or module, its import failed, or plug-ins are not allowed here (`plugins`).
    """
    if spec in builtin:
        return builtin[spec]
    who = f"{what} {spec!r}"
    if not _allowed.get() and names_a_plugin(spec, group):
        raise PluginError(
            f"{who} is a plug-in, and loading the model would run its code; if you trust it, "
            "give allow_plugins=True (--allow-plugins)"
        )
    found = entry_points(group=group)
    if spec in found.names:
        try:
            return found[spec].load()
        except Exception as exc:
            raise _import_failure(who, exc) from exc
    source, colon, name = spec.rpartition(":")
    if spec.endswith(".py") or (colon and not name):
        raise PluginError(f"{who}: say what to take from it, as in {spec.rstrip(':')}:Name")
    if source.endswith(".py"):
        return _member(who, _module_of_file(who, Path(source)), name)
    if not colon:
        source, dot, name = spec.rpartition(".")
        if not dot:
            message = unknown_name(what, spec, {*builtin, *found.names})
            raise PluginError(f"{message}; or give package.module:Name or path/to/file.py:Name")
    return _member(who, _module(who, source), name)


def names_a_plugin(spec: str, group: str) -> bool:
    """Whether `spec` names something of the user's own: a file, a dotted name or an entry point."""
    # A name with a slash and a dot is a library's, timm/NAME.TAG; a file has a colon after it.
    dotted = "." in spec and "/" not in spec
    return dotted or ":" in spec or spec in entry_points(group=group).names


def plugin_file(spec: str, group: str) -> Path | None:
    """The file that `load_plugin` would execute for a plug-in's name; nothing is executed here.

    None where there is no such file: a missing module, or one that is no Python source.
    """
    found = entry_points(group=group)
    value = found[spec].value.partition("[")[0].strip() if spec in found.names else spec
    source, colon, _ = value.rpartition(":")
    if source.endswith(".py"):
        return Path(source).resolve()
    if not colon:
        source = value.rpartition(".")[0]
    path: Sequence[str] | None = None
    origin: str | None = None
    parts = source.split(".")
    for depth in range(len(parts)):
        # Not `importlib.util.find_spec`, which imports the parent packages.
        spec_found = PathFinder.find_spec(".".join(parts[: depth + 1]), path)
        if spec_found is None:
            return None
        path, origin = spec_found.submodule_search_locations, spec_found.origin
    return Path(origin).resolve() if origin and origin.endswith(".py") else None


def _member(who: str, module: ModuleType, name: str) -> Any:
    if not hasattr(module, name):
        own = [key for key in vars(module) if not key.startswith("_")]
        source = module.__file__ or module.__name__
        raise PluginError(f"{who}: {unknown_name(f'name in {source}', name, own)}")
    return getattr(module, name)


def _module(who: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        # Is it the module asked for that is missing, or one that it imports?
        if exc.name and f"{name}.".startswith(f"{exc.name}."):
            raise PluginError(
                f"{who}: there is no module {exc.name!r}; install it, or give path/to/file.py:Name"
            ) from None
        raise _import_failure(who, exc) from exc
    except Exception as exc:
        raise _import_failure(who, exc) from exc


def _module_of_file(who: str, path: Path) -> ModuleType:
    """The module of a file, under a unique name; the same object until the file changes."""
    try:
        stat = path.stat()
    except OSError as exc:
        raise PluginError(f"{who}: cannot read {path} ({exc.strerror})") from None
    identity = f"{path.resolve()}\0{stat.st_mtime_ns}\0{stat.st_size}"
    name = f"_fedloge_plugin_{path.stem}_{digest(identity.encode())}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _Uncached(name, str(path.resolve()))
    spec = importlib.util.spec_from_loader(name, loader)
    if spec is None:
        raise PluginError(f"{who}: {path} cannot be imported as a module")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pydantic models look their own module up while it is being made.
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException as exc:
        del sys.modules[name]
        if not isinstance(exc, Exception):
            raise
        raise _import_failure(who, exc) from exc
    return module


class _Uncached(SourceFileLoader):
    """Always compiles: cached bytecode is dated by the second, too coarse for a file being edited."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _import_failure(who: str, exc: Exception) -> PluginError:
    return PluginError(f"{who} failed to import: {type(exc).__name__}: {exc}")
