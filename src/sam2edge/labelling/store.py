"""The folder of a run: what is done and how it comes to be so, exactly once, whatever is killed and when.

    run.json           what the run is: another one is refused
    labels/KEY.jsonl   the labels of an item, or .parquet, and what else it writes, as masks/KEY/
    items/KEY.json     its record, which comes last: with it the item is done
    failed/KEY.json    why an item failed; a later run tries it again
    .tmp/              what is being written
    .lock              held by the process that runs it

Workers write below .tmp, on the same file system, and what is whole is renamed. The same item has the same name and the
same bytes, so it does no harm if two workers do it, as when one was given up that lived on.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sam2edge.closeable import Closeable
from sam2edge.errors import InputError, MediaError
from sam2edge.labelling.items import Record, whole_key

RUN, LABELS, FAILURES = "run.json", "labels", "failed"
_ITEMS, _TMP, _LOCK = "items", ".tmp", ".lock"
_ABANDONED = 3600.0
"""Seconds after its last write from which a temporary folder is that of a killed worker."""


class Store(Closeable):
    """Reads and writes the folder; workers on any machine have one of their own on the same folder."""

    def __init__(self, out: Path) -> None:
        self.out = out.absolute()
        self._lock: int | None = None

    def open_run(self, run: Mapping[str, Any]) -> None:
        """Begin a run or go on with it, alone: the folder is locked until `close`, or until this process is killed.

        Args:
            run: What it is, as JSON can say it; runs with another are refused.

        Raises:
            InputError: The folder is another run's, another program's, or is being used.
        """
        run = json.loads(json.dumps(run))
        found = self._foreign()
        if found:
            raise InputError(
                f"{self.out}: holds {found}, which is no run of `sam2edge label`; give an empty folder to -o"
            )
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if (self.out / RUN).exists() and self._has_begun():
                self._compare(run)
            else:
                self._write(self.out / RUN, json.dumps(run, indent=1) + "\n")
            for name in (LABELS, _ITEMS, FAILURES, _TMP):
                (self.out / name).mkdir(exist_ok=True)
            self._sweep(_ABANDONED)
        except OSError as error:
            raise InputError(f"{self.out}: cannot be written: {error.strerror or error}") from error
        except InputError:
            self.close()
            raise

    def done(self) -> set[str]:
        """Return the keys of what is done, parts of items included."""
        return {name.removesuffix(".json") for name in os.listdir(self.out / _ITEMS) if name.endswith(".json")}

    def settled(self) -> set[str]:
        """Return the keys of what is done without problems; an item with an unreadable image is done again."""
        return {key for key in self.done() if not self.record(key).problems}

    def record(self, key: str) -> Record:
        """Return the record of an item that is done."""
        return Record.from_json((self.out / _ITEMS / f"{key}.json").read_text(encoding="utf-8"))

    def records(self) -> Iterator[Record]:
        """Yield the record of every whole item that is done, in the order of the keys."""
        for key in sorted(self.done()):
            if whole_key(key) == key:
                yield self.record(key)

    def failures(self) -> Iterator[dict[str, Any]]:
        """Yield what `fail` wrote of items that are not done since, in the order of the keys."""
        done = self.done()  # a worker that was killed right after its commit left the note
        for file in sorted((self.out / FAILURES).glob("*.json")):
            if file.stem not in done:
                yield json.loads(file.read_text(encoding="utf-8"))

    @contextlib.contextmanager
    def staged(self, key: str) -> Iterator[Path]:
        """Yield an empty folder that mirrors the run's; what is written there is committed if the block ends well.

        The block must leave the record with `write_record`. What lies in one of the folders labels, masks, … is moved
        as one, file or folder, and replaces what an attempt that was killed halfway has left.

        Raises:
            MediaError: The disk is full, or the folder cannot be written; nothing is committed.
        """
        try:
            (self.out / _TMP).mkdir(exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{key}.{socket.gethostname()}.{os.getpid()}.", dir=self.out / _TMP))
        except OSError as error:
            raise MediaError(f"{self.out}: cannot be written: {error.strerror or error}") from error
        try:
            yield folder
            try:
                self._commit(key, folder)
            except OSError as error:
                raise MediaError(f"{self.out}: cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def fail(self, key: str, sources: tuple[str, ...], reason: str, attempts: int) -> None:
        """Note that an item failed; a success takes the note away."""
        note = {"key": key, "sources": list(sources), "reason": reason, "attempts": attempts}
        self._write(self.out / FAILURES / f"{key}.json", json.dumps(note, indent=1) + "\n")

    def forget(self, key: str) -> None:
        """Remove an item, its record first, with all its files."""
        for room in sorted(self.out.iterdir(), key=lambda room: room.name != _ITEMS):
            if room.is_dir() and not room.name.startswith("."):
                for entry in _entries(room, key):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others have the folder. Workers must have ended: what they were writing is removed."""
        if self._lock is not None:
            self._sweep(0)
            os.close(self._lock)
            self._lock = None

    def _foreign(self) -> str:
        """Return the name of something that shows that the folder is not ours, "" if nothing does."""
        if not self.out.exists():
            return ""
        if not self.out.is_dir():
            raise InputError(f"{self.out}: is a file; -o needs a folder")
        names = set(os.listdir(self.out))
        return "" if RUN in names else min(names - {_LOCK, _TMP}, default="")

    def _take_lock(self) -> None:
        self._lock = os.open(self.out / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._lock, 200).decode(errors="replace").strip()
            os.close(self._lock)
            self._lock = None
            raise InputError(f"{self.out}: another run is writing there ({holder}); wait for its end") from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _has_begun(self) -> bool:
        """Return whether anything was done or failed; otherwise the run may become another one."""
        return any((self.out / name).is_dir() and os.listdir(self.out / name) for name in (LABELS, _ITEMS, FAILURES))

    def _compare(self, run: Mapping[str, Any]) -> None:
        """Raise an InputError that names what differs from the run that is there."""
        try:
            before = json.loads((self.out / RUN).read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{self.out / RUN}: is damaged: {error}; give another folder to -o") from error
        old, new = _flat(before), _flat(run)
        differences = [
            f"{name} {_shown(old.get(name))} (now {_shown(new.get(name))})"
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        ]
        if differences:
            raise InputError(
                f"{self.out}: is a run with other settings: {', '.join(differences)}; give the same "
                "settings, or another folder to -o"
            )

    def _sweep(self, age: float) -> None:
        """Remove what killed workers left: what was last written so many seconds ago.

        A worker that outlived its driver may still be writing, and ends within a frame.
        """
        for entry in (self.out / _TMP).glob("*"):
            if time.time() - max(map(_written, (entry, *entry.rglob("*"))), default=0) >= age:
                shutil.rmtree(entry, ignore_errors=True)

    def _commit(self, key: str, folder: Path) -> None:
        """Move what a staging folder holds to its place, the record last, so that a power cut leaves all or no item."""
        record = folder / _ITEMS / f"{key}.json"
        if not record.is_file():
            raise AssertionError(f"{key}: was staged without a record")
        if (self.out / _ITEMS / record.name).exists() and not self.record(key).problems:
            return  # it was done by a worker that was given up and lived on
        rooms = [room for room in folder.iterdir() if room.name != _ITEMS]
        for room in rooms:
            for path in (*room.rglob("*"), room):
                _sync(path)
        _sync(record)
        for room in rooms:
            target = self.out / room.name
            target.mkdir(exist_ok=True)
            for entry in room.iterdir():
                if entry.is_dir():  # rename replaces files, but no folder that holds something
                    shutil.rmtree(target / entry.name, ignore_errors=True)
                os.replace(entry, target / entry.name)
            _sync(target)
        os.replace(record, self.out / _ITEMS / record.name)
        _sync(self.out / _ITEMS)
        (self.out / FAILURES / record.name).unlink(missing_ok=True)

    def _write(self, path: Path, text: str) -> None:
        """Write a small file whole."""
        path.parent.mkdir(exist_ok=True)
        descriptor, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), 0o644)  # mkstemp's 0600 would keep other users out
                os.fsync(file.fileno())
            os.replace(new, path)
        finally:
            Path(new).unlink(missing_ok=True)
        _sync(path.parent)


def write_record(folder: Path, record: Record) -> None:
    """Write the record of an item into its staging folder."""
    (folder / _ITEMS).mkdir(exist_ok=True)
    (folder / _ITEMS / f"{record.key}.json").write_text(record.to_json() + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries(room: Path, key: str) -> list[Path]:
    return [entry for entry in (room / key, *room.glob(f"{glob.escape(key)}.*")) if entry.exists()]


def _written(path: Path) -> float:
    """Return when something was last written, 0 if it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _flat(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested objects as one; no two have a field of the same name."""
    flat = {}
    for name, value in run.items():
        flat.update(_flat(value) if isinstance(value, dict) else {name: value})
    return flat


def _shown(value: Any) -> str:
    return json.dumps(value)[:60]
