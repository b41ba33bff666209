"""A folder of results: one line a clip, kept whatever kills the run; shards merge by being read.

    OUT/evaluation.json               what was asked for: a folder is finished as it was begun
    OUT/results-I-of-N.jsonl          a line a clip, appended when all of the clip is measured
    OUT/features/KEY.npz              what the Frechet distance is made of
    OUT/videos/METHOD/KEY.mp4         what was painted, if it was to be kept

Shards may run at once on machines that share OUT, or each in its own OUT: whoever makes the table
names all of them.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lipwire.engine.errors import ConfigError
from lipwire.engine.types import F32
from lipwire.training.data.shards import write_json
from lipwire.training.evaluation.lists import Share

FORMAT = 1
Record = dict[str, Any]


class Store:
    """One shard's results, being written; used by `with`, by one process at a time.

    Args:
        folder: OUT; made if missing.
        share: which shard.
        settings: what decides the figures, as JSON.

    Raises:
        ConfigError: the folder was begun with other settings, or another process writes this shard.
    """

    def __init__(self, folder: Path, share: Share, settings: dict[str, Any]) -> None:
        self.folder, self._share = folder, share
        try:
            (folder / "features").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made ({error.strerror})") from error
        _claim(folder, json.loads(json.dumps(settings)))
        self._file: BinaryIO = (folder / f"results-{share.name}.jsonl").open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ConfigError(f"{folder}: another run writes shard {share.name} there") from error
        self._drop_torn_line()

    def _drop_torn_line(self) -> None:
        """A run that was killed while it wrote left half a line, of a clip to be done again."""
        self._file.seek(0)
        text = self._file.read()
        if text and not text.endswith(b"\n"):
            self._file.truncate(text.rfind(b"\n") + 1)

    def done(self, *, again: bool = False) -> set[str]:
        """Keys that need not be computed, whichever shard did them.

        Args:
            again: clips that were left out are to be tried once more.
        """
        records = read_records([self.folder])
        return {key for key, record in records.items() if not (again and "excluded" in record)}

    def append(self, record: Record, features: dict[str, F32] | None = None) -> None:
        """Keep one clip: its features first, so that a line never stands for what is not there."""
        if features is not None:
            buffer = io.BytesIO()
            # The prefix keeps a method's name from being one of savez's own parameters.
            np.savez(buffer, **{f"of-{k}": v.astype(np.float16) for k, v in features.items()})
            partial = self.folder / "features" / f".{record['key']}.{self._share.name}"
            partial.write_bytes(buffer.getvalue())
            partial.rename(self.folder / "features" / f"{record['key']}.npz")
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "evaluation.json"
    if not path.exists():
        if any(folder.glob("results-*.jsonl")):
            raise ConfigError(
                f"{folder}: holds results, but not what they are of; use another folder"
            )
        write_json(path, {"format": FORMAT, **settings})
        return
    begun = read_settings(folder)
    for name, wanted in settings.items():
        if begun.get(name) != wanted:
            raise ConfigError(
                f"{folder}: was begun with {name} {begun.get(name)}, not {wanted}; use another "
                "folder, or the old options"
            )


def read_settings(folder: Path) -> dict[str, Any]:
    """What a folder's results are of.

    Raises:
        ConfigError: it is no folder of results.
    """
    try:
        found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: is no folder of an evaluation") from error
    if found.get("format") != FORMAT:
        raise ConfigError(
            f"{folder}: was written by another version (format {found.get('format')})"
        )
    return found


def read_records(folders: Sequence[Path]) -> dict[str, Record]:
    """Every clip's line in all shards of all folders, by key; once measured it stays so.

    Raises:
        ConfigError: a line is damaged.
    """
    records: dict[str, Record] = {}
    for folder in folders:
        for path in sorted(folder.glob("results-*.jsonl")):
            # What follows the last \n is torn.
            for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise ConfigError(
                        f"{path}, line {number}: is damaged; without it that clip is measured again"
                    ) from error
                record["folder"] = str(folder)
                known = records.get(record["key"])
                if known is None or "excluded" in known or "excluded" not in record:
                    records[record["key"]] = record
    return records


def read_features(record: Record) -> dict[str, F32]:
    """A clip's features by method, f32[N, D].

    Raises:
        ConfigError: the file is gone or damaged.
    """
    path = Path(record["folder"]) / "features" / f"{record['key']}.npz"
    try:
        with np.load(path) as stored:
            return {
                name.removeprefix("of-"): stored[name].astype(np.float32) for name in stored.files
            }
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); evaluate again") from error
