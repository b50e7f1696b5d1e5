"""Keys of the endpoint: several, of which a file has the hashes alone, each with limits of its own; and how that file is written.

A key is 256 random bits, so one round of SHA-256 hides it. The file is read again when it has changed; one that is damaged then keeps the
keys that were. Limits count in each process: behind N replicas a key may send up to N times as much.
"""

import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mirepoix.models.errors import Refused

_LOG = logging.getLogger(__name__)
PREFIX = "mpx-"
LIMITS = ("requests_per_minute", "inputs_per_minute", "in_flight")
CHECK_SECONDS = 1.0
"""How often a server looks whether the file has changed, at most."""
_NAME = re.compile(r"[\w.@+-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class KeyEntry:
    """A key as the file has it; a limit of None is none."""

    name: str
    sha256: str
    created: str
    requests_per_minute: int | None = None
    inputs_per_minute: int | None = None
    in_flight: int | None = None


class Bucket:
    """An allowance for each minute, of which all may be spent at once. Who spends more than there is waits longer afterwards."""

    def __init__(self, per_minute: int):
        self.per_minute = per_minute
        self._left, self._at = float(per_minute), 0.0

    def take(self, amount: int, now: float) -> float:
        """0.0, and the amount is spent; or the seconds after which it can be."""
        self._left = min(self.per_minute, self._left + max(0.0, now - self._at) * self.per_minute / 60)
        self._at = now
        lacking = min(amount, self.per_minute) - self._left
        if lacking > 1e-6:
            return lacking * 60 / self.per_minute
        self._left -= amount
        return 0.0


class Key:
    """A key, and what was spent of its limits in this process."""

    def __init__(self, entry: KeyEntry):
        self.entry = entry
        self.running = 0
        self._requests, self._inputs = (
            None if limit is None else Bucket(limit) for limit in (entry.requests_per_minute, entry.inputs_per_minute)
        )

    def admit_request(self, now: float) -> float:
        """0.0 where a request is within the limit of a minute; else the seconds after which it will be."""
        return 0.0 if self._requests is None else self._requests.take(1, now)

    def admit_inputs(self, count: int, now: float) -> float:
        """The same for the inputs of an admitted request; one of more than a minute has is admitted where the whole minute is left."""
        return 0.0 if self._inputs is None else self._inputs.take(count, now)

    def enter(self) -> bool:
        """Whether the key may have one more request in flight, which then counts until `leave`."""
        if self.entry.in_flight is not None and self.running >= self.entry.in_flight:
            return False
        self.running += 1
        return True

    def leave(self) -> None:
        self.running -= 1


class Keys:
    """The keys of a file, and the single one of the environment, which has no limits."""

    def __init__(self, file: str | Path = "", single: str = "", clock: Callable[[], float] = time.monotonic):
        self._file, self._clock = Path(file).expanduser() if file else None, clock
        self._single = [Key(KeyEntry("MIREPOIX_API_KEY", digest(single.encode()), ""))] if single else []
        self._seen: tuple[int, int, int] | None = None
        self._checked = clock()
        self._keys: list[Key] = []
        if self._file is not None:
            self._seen = _state(self._file)
            self._keys = [Key(entry) for entry in read_entries(self._file)]

    def find(self, authorization: bytes) -> Key | None:
        """The key of a header `Authorization: Bearer KEY`, in whatever case the scheme is written; None where it is no key of ours."""
        self._refresh()
        scheme, *given = authorization.split(None, 1) or (b"",)
        if scheme.lower() != b"bearer" or not given:
            return None
        hashed, found = digest(given[0].rstrip()), None
        for key in (*self._single, *self._keys):  # all of them, so that the time says nothing of which
            if hmac.compare_digest(hashed, key.entry.sha256):
                found = key
        return found

    def _refresh(self) -> None:
        if self._file is None or self._clock() - self._checked < CHECK_SECONDS:
            return
        self._checked = self._clock()
        state = _state(self._file)
        if state == self._seen:
            return
        self._seen = state
        try:
            entries = read_entries(self._file)
        except Refused as refused:
            _LOG.warning("the keys stay what they were: %s", refused)
            return
        known = {key.entry: key for key in self._keys}
        self._keys = [known.get(entry) or Key(entry) for entry in entries]


def open_keys(file: str = "", single: str | None = None) -> Keys | None:
    """The keys that a server requires; None where there are none of either kind."""
    return Keys(file, single or "") if file or single else None


def digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def _state(file: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written; None while there is none."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


# The file


def read_entries(file: Path) -> list[KeyEntry]:
    """The keys of a file; refused where it is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content["keys"], list):
            raise ValueError
        entries = [_entry(each) for each in content["keys"]]
    except OSError as error:
        raise Refused(f"{file} cannot be read ({error.strerror}); make it with: mirepoix keys add NAME --file {file}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Refused(f"{file} is no file of keys; give one that `mirepoix keys add NAME --file FILE` wrote") from None
    if len({entry.name for entry in entries}) < len(entries):
        raise Refused(f"{file} has two keys of one name; remove one of them")
    return entries


def _entry(fields_of: dict[str, Any]) -> KeyEntry:
    entry = KeyEntry(**fields_of)
    texts = isinstance(entry.name, str) and isinstance(entry.sha256, str) and isinstance(entry.created, str)
    if not (texts and _NAME.fullmatch(entry.name) and _DIGEST.fullmatch(entry.sha256)):
        raise ValueError
    for name in LIMITS:
        limit = getattr(entry, name)
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise ValueError
    return entry


def add_key(file: Path, name: str, limits: dict[str, int | None]) -> str:
    """A new key, whose hash is in the file from now on; the key itself is nowhere but in what this returns."""
    if not _NAME.fullmatch(name):
        raise Refused(f"{name!r} is no name of a key; give letters, digits and any of . _ - + @, at most 64")
    for limit, given in limits.items():
        if given is not None and given < 1:
            raise Refused(f"--{limit.replace('_', '-')} is {given}; give 1 or more, or leave it out for no limit")
    key = PREFIX + secrets.token_urlsafe(32)
    with _changing(file) as entries:
        if any(entry.name == name for entry in entries):
            raise Refused(f"{file} has a key {name} already; give another name, or revoke that one first")
        entries.append(KeyEntry(name, digest(key.encode()), datetime.now(UTC).isoformat(timespec="seconds"), **limits))
    return key


def revoke_key(file: Path, name: str) -> None:
    """Takes a key out of the file; servers that have the file refuse it a second later."""
    read_entries(file)
    with _changing(file) as entries:
        kept = [entry for entry in entries if entry.name != name]
        if len(kept) == len(entries):
            names = ", ".join(entry.name for entry in entries) or "none"
            raise Refused(f"{file} has no key {name}; it has {names}")
        entries[:] = kept


@contextmanager
def _changing(file: Path) -> Iterator[list[KeyEntry]]:
    """The keys of a file, to be changed within the block, one process at a time; then they are written, whole, for this user alone."""
    if not file.parent.is_dir():
        raise Refused(f"there is no folder {file.parent}; make it first")
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        entries = read_entries(file) if file.exists() else []
        yield entries
        _write(file, entries)
    except PermissionError as error:
        raise Refused(f"{file} cannot be written ({error.strerror}); give a file of your own") from None
    finally:
        os.close(folder)


def _write(file: Path, entries: list[KeyEntry]) -> None:
    plain = [{name: value for name, value in asdict(entry).items() if value is not None} for entry in entries]
    handle, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # which only its owner may read
    try:
        with open(handle, "w", encoding="utf-8") as stream:
            json.dump({"keys": plain}, stream, indent=2)
            stream.write("\n")
            stream.flush()
            os.fsync(handle)
        os.replace(draft, file)
    except BaseException:
        os.unlink(draft)
        raise
