"""Published folders: written beside their target, completed by a manifest of sizes and hashes, and visible only when complete.

A target is a local path or an object-store URI that pyarrow reads (s3://bucket/folder?endpoint_override=...). A local artefact is
<target>/manifest.json beside its files, and one rename commits it. On an object store there is no rename: the files go to
<target>/<digest>/ and the manifest, written last, commits them; as that folder is named by its content, two publishers cannot mix.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pyarrow import NativeFile, fs

from mirepoix.models.errors import Refused

MANIFEST = "manifest.json"
CHUNK = 1 << 22
RUN_NAME = re.compile(r"(?P<recipe>.+)-(?P<when>\d{8}-\d{6})-[0-9a-f]{4}")
"""The folder of a run below runs/ of a storage."""
KEY = re.compile(r"[0-9a-f]{16}")
"""The folder of a result below artefacts/<stage>/ of a storage."""
_SECRET_USER = re.compile(r"(?:s3|https?)://[^/?#]*@|[^:/?]+://[^/?@]*:(?!\d+(?:[/?]|$)).*@", re.I | re.S)
_SECRET_FIELD = re.compile("key|token|secret|password|sig$", re.I)


class Damaged(Refused):
    """An artefact whose files are not those of its manifest."""


class Missing(Damaged):
    """An artefact that was never committed, or whose manifest is gone."""


@dataclass(frozen=True)
class Manifest:
    """The manifest of an artefact: size and sha256 of each file, the digest of all files, and free fields."""

    digest: str
    files: dict[str, dict[str, Any]]  # relative name -> {"size", "sha256"}
    fields: dict[str, Any]

    def dumps(self) -> bytes:
        return json.dumps({"digest": self.digest, "files": self.files, "fields": self.fields}, indent=1, sort_keys=True).encode()

    @classmethod
    def loads(cls, text: bytes) -> "Manifest":
        return cls(**json.loads(text))


# Targets


def is_local(target: str | Path) -> bool:
    """Whether the target is a path (or a file:// URI) and not an object store's URI."""
    return "://" not in str(target) or str(target).startswith("file://")


def local_path(target: str | Path) -> Path:
    """The path that a local target names."""
    assert is_local(target), f"{target} is not local"
    text = str(target)
    return Path(unquote(urlsplit(text).path) if text.startswith("file://") else text).expanduser().absolute()


def absolute(target: str) -> str:
    """A local target by its absolute path, which is right in any folder; a URI as it is."""
    return str(local_path(target)) if is_local(target) else target


def cache_folder() -> Path:
    """The user's folder for copies: mirepoix/ in XDG_CACHE_HOME, or in ~/.cache where that is unset, empty or relative."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "mirepoix"


def join(target: str | Path, *names: str) -> str:
    """A target below another; the query of a URI (endpoint, region) stays at its end."""
    path, mark, query = str(target).partition("?") if not is_local(target) else (str(target), "", "")
    return "/".join([path.rstrip("/") or "/", *names]) + mark + query


def has_secret(uri: str) -> bool:
    """Whether a URI has a password, a user where that is a secret too (S3, HTTP), or a query field that is named like a secret."""
    if "://" not in uri:
        return False
    fields = parse_qsl(uri.partition("?")[2], keep_blank_values=True)
    return bool(_SECRET_USER.match(uri)) or any(_SECRET_FIELD.search(name) for name, _ in fields)


def refuse_credentials(target: str | Path) -> None:
    """Refuses a URI that has a secret, because URIs are written to reports, leases and MLflow as they were given."""
    if has_secret(str(target)):
        raise Refused(
            f"a {str(target).partition(':')[0]} URI was given with a key in it, and URIs are written into reports; give it without, "
            "and the key in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or as the node's role"
        )


def _open(target: str | Path) -> tuple[fs.FileSystem, str]:
    if is_local(target):
        return fs.LocalFileSystem(), str(local_path(target))
    refuse_credentials(target)
    try:
        filesystem, path = fs.FileSystem.from_uri(str(target))
    except (ValueError, OSError) as error:  # raised by pyarrow: unknown scheme, unknown query key, malformed URI
        raise Refused(f"storage {target} cannot be opened: {error}; give a local path or a URI such as s3://bucket/folder") from error
    return filesystem, path.rstrip("/")


def _listing(target: str | Path, recursive: bool) -> tuple[str, list[fs.FileInfo]]:
    filesystem, path = _open(target)
    return path, filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=recursive))


def list_names(target: str | Path) -> list[str]:
    """The sorted names directly below a target; none where it does not exist, and of a file."""
    try:
        return sorted(info.base_name for info in _listing(target, recursive=False)[1])
    except NotADirectoryError:
        return []


def read(target: str | Path) -> bytes | None:
    """The bytes of one file or object; None where it does not exist."""
    filesystem, path = _open(target)
    try:
        with filesystem.open_input_stream(path) as stream:
            content: bytes = stream.read()
            return content
    except FileNotFoundError:
        return None


def open_file(target: str | Path) -> NativeFile:
    """One file or object, to read any part of it; FileNotFoundError where it does not exist."""
    filesystem, path = _open(target)
    return filesystem.open_input_file(path)


def copy_files(target: str | Path, folder: Path) -> None:
    """Copies all files below a target into a local folder, whether it is an artefact or not."""
    filesystem, path = _open(target)
    fs.copy_files(path, str(folder), source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem())


def write(target: str | Path, content: bytes) -> None:
    """Writes one file or object atomically: a reader sees the old content or the new."""
    if is_local(target):
        path = local_path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".draft-") as folder:
            draft = Path(folder) / path.name
            draft.write_bytes(content)
            _sync(draft)
            os.replace(draft, path)
    else:
        filesystem, place = _open(target)
        with filesystem.open_output_stream(place) as stream:
            stream.write(content)


def delete(target: str | Path) -> None:
    """Removes a file, a folder or an artefact; a reader never sees an artefact that is partly removed. Of a link, what it names stays."""
    if is_local(target):
        path = local_path(target)
        if path.is_dir() and not path.is_symlink():
            with suppress(FileNotFoundError):
                shutil.rmtree(_set_aside(path))
        else:
            path.unlink(missing_ok=True)
        return
    filesystem, place = _open(target)
    for name in (f"{place}/{MANIFEST}", place):
        with suppress(FileNotFoundError):
            if filesystem.get_file_info(name).type == fs.FileType.File:
                filesystem.delete_file(name)
    if filesystem.get_file_info(place).type == fs.FileType.Directory:
        filesystem.delete_dir(place)


def _set_aside(path: Path) -> Path:
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=".removed-"))
    try:
        os.rename(path, aside)
    except OSError:
        aside.rmdir()
        raise
    return aside


@dataclass(frozen=True)
class Usage:
    """What is below a target: bytes of all files, and when the newest of them was written, in seconds since 1970."""

    bytes: int
    newest: float


def usage(target: str | Path) -> Usage:
    """The bytes and the age of a file or a folder; zero where it does not exist."""
    filesystem, path = _open(target)
    infos = [filesystem.get_file_info(path)]
    if infos[0].type == fs.FileType.Directory:
        infos += _listing(target, recursive=True)[1]
    times = [info.mtime_ns / 1e9 for info in infos if info.mtime_ns is not None]
    return Usage(sum(info.size for info in infos if info.type == fs.FileType.File), max(times, default=0.0))


@dataclass(frozen=True)
class SharedFile:
    """A file that has several names, by hard links: its bytes are free again when the last of them goes."""

    id: tuple[int, int]
    bytes: int
    names: int


def shared_files(target: str | Path) -> list[SharedFile]:
    """The files below a local folder that have several names, one entry for each name below it; an object store has none."""
    if not is_local(target) or local_path(target).is_symlink():
        return []
    found = [os.lstat(os.path.join(home, name)) for home, _, names in os.walk(local_path(target)) for name in names]
    return [SharedFile((file.st_dev, file.st_ino), file.st_size, file.st_nlink) for file in found if file.st_nlink > 1]


# Artefacts


def read_manifest(target: str | Path) -> Manifest | None:
    """The manifest of a committed artefact; None where none was committed."""
    text = read(join(target, MANIFEST))
    try:
        return None if text is None else Manifest.loads(text)
    except (ValueError, TypeError) as error:
        raise Damaged(f"{join(target, MANIFEST)} cannot be read: {error}; delete the folder {target} and run its stage again") from error


def files_of(target: str | Path, manifest: Manifest) -> str:
    """Where the files of an artefact lie."""
    return str(target) if is_local(target) else join(target, manifest.digest)


def digest_of(hashes: Iterable[tuple[str, str]]) -> str:
    """The digest of an artefact, from file names and content hashes only: equal results have equal digests whenever they were made."""
    return hashlib.sha256(json.dumps(sorted(hashes)).encode()).hexdigest()


def verify(target: str | Path, hashes: bool = True, parts: tuple[str, ...] = ("",)) -> Manifest:
    """Compares an artefact with its manifest: names and sizes, and with `hashes` the contents, of the files whose names begin with one of
    `parts`; raises Damaged."""
    manifest = read_manifest(target)
    if manifest is None:
        raise Missing(f"{target} has no {MANIFEST}: it was never published completely, or the file was removed; run its stage again")
    home = target if is_local(target) else join(target, manifest.digest)
    sizes = _sizes(home)
    mismatch = _first_mismatch(manifest, sizes, _hashes(home, [name for name in sizes if name.startswith(parts)]) if hashes else ())
    if mismatch:
        raise Damaged(f"{target} is damaged: {mismatch}; run its stage again with --force")
    return manifest


def _first_mismatch(manifest: Manifest, sizes: dict[str, int], hashes: Iterable[tuple[str, str]]) -> str | None:
    for name, expected in manifest.files.items():
        if name not in sizes:
            return f"file {name} is missing"
        if sizes[name] != expected["size"]:
            return f"file {name} has {sizes[name]} bytes, its manifest says {expected['size']}"
    for name in sizes:
        if name not in manifest.files:
            return f"file {name} is not in its manifest"
    for name, sha256 in hashes:
        if sha256 != manifest.files[name]["sha256"]:
            return f"file {name} has changed (sha256 {sha256[:12]}, its manifest says {manifest.files[name]['sha256'][:12]})"
    if manifest.digest != digest_of((name, entry["sha256"]) for name, entry in manifest.files.items()):
        return f"file {MANIFEST} has changed (its digest is not that of the hashes it lists)"
    return None


def _sizes(target: str | Path) -> dict[str, int]:
    home, infos = _listing(target, recursive=True)
    sizes = {info.path[len(home) + 1 :]: info.size for info in infos if info.type == fs.FileType.File}
    sizes.pop(MANIFEST, None)
    return dict(sorted(sizes.items()))


def _hashes(target: str | Path, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    filesystem, home = _open(target)

    def sha256(name: str) -> tuple[str, str]:
        state = hashlib.sha256()
        with filesystem.open_input_stream(f"{home}/{name}") as stream:
            while chunk := stream.read(CHUNK):
                state.update(chunk)
        return name, state.hexdigest()

    with ThreadPoolExecutor() as pool:
        yield from pool.map(sha256, names)


def publish(folder: Path, target: str | Path, fields: dict[str, Any], replace: bool = False) -> Manifest:
    """Commits a finished folder, which is moved or removed, under the target; an artefact that is already there is kept unless `replace`.

    Returns the manifest that is there afterwards. A local target must be on the file system of the folder.
    """
    assert not (folder / MANIFEST).exists(), f"{folder} holds a {MANIFEST}: the name belongs to the store"
    links = [str(path) for path in folder.rglob("*") if path.is_symlink()]
    assert not links, f"{links[0]} is a link: its content would not be published with it"
    sizes = _sizes(folder)
    hashes = dict(_hashes(folder, sizes))
    files = {name: {"size": size, "sha256": hashes[name]} for name, size in sizes.items()}
    manifest = Manifest(digest_of(hashes.items()), files, fields)
    return (_publish_local if is_local(target) else _publish_objects)(folder, target, manifest, replace)


def _publish_objects(folder: Path, target: str | Path, manifest: Manifest, replace: bool) -> Manifest:
    existing = None if replace else read_manifest(target)
    if existing is None:
        filesystem, path = _open(join(target, manifest.digest))
        fs.copy_files(str(folder), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem)
        write(join(target, MANIFEST), manifest.dumps())
    shutil.rmtree(folder)
    return existing or manifest


def _publish_local(folder: Path, target: str | Path, manifest: Manifest, replace: bool) -> Manifest:
    path = local_path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in manifest.files:
        _sync(folder / name)
    (folder / MANIFEST).write_bytes(manifest.dumps())
    _sync(folder / MANIFEST)
    for part in [child for child in folder.rglob("*") if child.is_dir()] + [folder]:
        _sync(part)
    while True:
        try:
            os.rename(folder, path)
        except OSError:
            if not path.is_dir():
                raise
            with suppress(Damaged):
                existing = None if replace else read_manifest(path)
                if existing is not None:
                    shutil.rmtree(folder)
                    return existing
            delete(path)
        else:
            _sync(path.parent)
            return manifest


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fetch(target: str | Path, cache: Path, parts: tuple[str, ...] = ("",)) -> Path:
    """A local, verified folder of an artefact: the artefact itself if it is local, else a copy in the cache, keyed by digest.

    Of what is there already, the contents of the `parts` alone are compared, as in `verify`.
    """
    if is_local(target):
        verify(target, parts=parts)
        return local_path(target)
    manifest = read_manifest(target)
    if manifest is None:
        raise Missing(f"{target} has no {MANIFEST}: it was never published completely, or the file was removed; run its stage again")
    copy = cache / manifest.digest
    if copy.exists():
        with suppress(Damaged):
            verify(copy, parts=parts)
            return copy
        delete(copy)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as draft:
        filesystem, path = _open(join(target, manifest.digest))
        part = Path(draft) / "copy"
        part.mkdir()
        if manifest.files:
            fs.copy_files(path, str(part), source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem())
        (part / MANIFEST).write_bytes(manifest.dumps())
        mismatch = _first_mismatch(manifest, _sizes(part), _hashes(part, manifest.files))
        if mismatch:
            raise Damaged(f"{target} is damaged: {mismatch}; run its stage again with --force")
        with suppress(OSError):  # another process of this node was faster; its copy has the same digest
            os.rename(part, copy)
    verify(copy, hashes=False)
    return copy
