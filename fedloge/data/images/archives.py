"""Tar and zip archives: listed once, read member by member, never unpacked."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fedloge.atomic_files import write_atomically
from fedloge.data.images.file_tree import (
    FileTree,
    StoredFile,
    composed,
    passed_over,
    printable,
    too_large,
)
from fedloge.digest import digest
from fedloge.errors import DataError, RunError

# Part of every kept listing: raise it when a listing's form changes.
_FORMAT = 1
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
)


def archive_tree(path: Path, cache: Path) -> FileTree:
    """The files of a tar archive (plain, gz, bz2, xz) or a zip archive.

    Links within it are resolved. The listing is kept in `cache`, because a compressed archive has to
    be read to its end for it; it is made anew when the archive's size or date changes.

    Raises
    ------
    DataError
        It is no archive, damaged, or cut short.
    """
    found = path.stat()
    identity = [str(path.resolve()), found.st_size, found.st_mtime_ns]
    kept = cache / f"listing-{digest(json.dumps(identity).encode())}.json"
    tree = _kept_tree(kept, path, identity)
    if tree is None:
        tree = _zip_tree(path) if _is_zip(path) else _tar_tree(path)
        tree = replace(tree, identity=identity)
        _keep(kept, tree)
    return tree


def _kept_tree(kept: Path, path: Path, identity: Sequence[Any]) -> FileTree | None:
    try:
        content = json.loads(kept.read_bytes())
        if content["format"] != _FORMAT or content["identity"] != identity:
            return None
        body = content["tree"]
        if digest(json.dumps(body).encode()) != content["digest"]:
            return None
        files = [StoredFile(**{**file, "place": tuple(file["place"])}) for file in body["files"]]
        refused = [(name, reason) for name, reason in body["refused"]]
        return FileTree(path, files, refused, body["folders"], identity)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(kept: Path, tree: FileTree) -> None:
    body = {
        "files": [asdict(file) for file in tree.files],
        "refused": list(tree.refused),
        "folders": list(tree.folders),
    }
    text = json.dumps(body)
    content = {
        "format": _FORMAT,
        "identity": list(tree.identity),
        "digest": digest(text.encode()),
        "tree": body,
    }
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps(content).encode())
    except (OSError, RunError):
        # Without a cache the archive is listed again next time; decoding says that there is none.
        return


@dataclass
class _Members:
    """What an archive's members come to."""

    path: Path
    files: list[StoredFile] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    folders: dict[str, None] = field(default_factory=dict)

    def place(self, raw: str) -> str | None:
        """The name of a member within the data set; None for one that is passed over or refused."""
        parts = PurePosixPath(composed(raw)).parts
        if any(passed_over(part) for part in parts if part not in ("..", "/")):
            return None
        if not parts or ".." in parts or parts[0] == "/":
            if parts:
                self.refused.append((printable(raw), "leads out of the archive"))
            return None
        if any(0xDC80 <= ord(c) <= 0xDCFF for c in raw):
            self.refused.append((printable(raw), "has a name that is not UTF-8; rename it"))
            return None
        for depth in range(1, len(parts)):
            self.folders["/".join(parts[:depth])] = None
        return "/".join(parts)

    def add(self, file: StoredFile) -> None:
        """A regular member."""
        if reason := too_large(file.size):
            self.refused.append((file.name, reason))
        else:
            self.files.append(file)

    def tree(self) -> FileTree:
        """All of them, with the links resolved."""
        by_name = {file.name: file for file in self.files}
        targets = dict(self.links)
        for name, target in self.links:
            for _ in range(16):  # a link may name a link; more than this is a circle
                target = targets.get(target, target)
            if target in by_name:
                self.files.append(replace(by_name[target], name=name))
            else:
                self.refused.append((name, "is a link to no file of the archive"))
        return FileTree(self.path, self.files, self.refused, list(self.folders))


def _linked(name: str, target: str) -> str:
    """Where a symbolic link in an archive leads, as a name within the data set."""
    parts: list[str] = []
    for part in (PurePosixPath(name).parent / composed(target)).parts:
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _tar_tree(path: Path) -> FileTree:
    members, opened = _Members(path), False
    try:
        with ExitStack() as stack:
            stream = stack.enter_context(decompressed(path))
            plain = isinstance(stream, io.BufferedReader)
            tar = stack.enter_context(tarfile.open(fileobj=stream, mode="r:" if plain else "r|"))
            opened = True
            for member in tar:
                _add_tar_member(members, member, plain)
                tar.members = []  # type: ignore[attr-defined] # tarfile keeps all that it has seen
            _drain(stream)
            end = tar.offset
        if plain and not _ends_well(path, end):
            raise EOFError("no end-of-archive mark")
    except _DAMAGE as exc:
        if isinstance(exc, tarfile.TarError) and not opened:
            raise DataError(
                f"{path}: unsupported file; expected a folder, or a tar archive (plain, .gz, .bz2 or "
                ".xz) or zip archive"
            ) from None
        raise cut_short(path, exc) from None
    return members.tree()


def _add_tar_member(members: _Members, member: tarfile.TarInfo, plain: bool) -> None:
    name = members.place(member.name)
    if name is None:
        return
    if member.isdir():
        members.folders[name] = None
    elif member.issym():
        members.links.append((name, _linked(name, member.linkname)))
    elif member.islnk():
        members.links.append((name, "/".join(PurePosixPath(composed(member.linkname)).parts)))
    elif not member.isreg() or member.issparse():
        members.refused.append((name, "is no regular file"))
    else:
        part = ("part", str(members.path), member.offset_data, member.size)
        members.add(StoredFile(name, part if plain else (), member.size, member=member.name))


def _zip_tree(path: Path) -> FileTree:
    members = _Members(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = members.place(member.filename)
                if name is None:
                    continue
                mode = member.external_attr >> 16
                if member.is_dir():
                    members.folders[name] = None
                elif member.flag_bits & 1:
                    members.refused.append((name, "is encrypted"))
                elif stat.S_ISLNK(mode) and member.file_size < 4096:
                    target = archive.read(member).decode("utf-8", "replace")
                    members.links.append((name, _linked(name, target)))
                else:
                    place = ("zip", str(path), member.filename)
                    members.add(StoredFile(name, place, member.file_size, member=member.filename))
    except _DAMAGE as exc:
        raise cut_short(path, exc) from None
    return members.tree()


def tar_stream(path: Path, wanted: Mapping[str, object]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the wanted members of a compressed tar archive, from its beginning on.

    `DataError`: it is damaged or cut short.
    """
    try:
        with ExitStack() as stack:
            stream = stack.enter_context(decompressed(path))
            tar = stack.enter_context(tarfile.open(fileobj=stream, mode="r|"))
            for member in tar:
                if member.isreg() and member.name in wanted:
                    content = tar.extractfile(member)
                    yield member.name, content.read() if content else b""
                tar.members = []  # type: ignore[attr-defined]
    except _DAMAGE as exc:
        raise cut_short(path, exc) from None


def _is_zip(path: Path) -> bool:
    with path.open("rb") as f:
        return f.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def decompressed(path: Path) -> IO[bytes]:
    """An archive's bytes, by what the file says it is packed with."""
    with path.open("rb") as f:
        magic = f.read(6)
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(path)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(path)  # type: ignore[return-value]
    if magic.startswith(b"BZh"):
        return bz2.open(path)
    return path.open("rb")


def cut_short(path: Path, exc: Exception) -> DataError:
    """The error for an archive that cannot be read to its end."""
    return DataError(f"{path}: cannot be read to its end ({exc}); cut short? Get the archive again")


def _drain(stream: IO[bytes]) -> None:
    # A compressed stream verifies its checksum, and notices that it was cut short, at its end only.
    while stream.read(1 << 20):
        pass


def _ends_well(path: Path, offset: int) -> bool:
    # tarfile mistakes a damaged or missing header for the end. The true end is a block of zeros.
    with path.open("rb") as f:
        f.seek(offset)
        return f.read(512) == bytes(512)
