"""The lists of VoxCeleb2's test set that the paper's section 4 measures, made from the films.

The paper gives the rules, not the lists: whom it drew cannot be known, so the seed is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np

from lipwire.engine.errors import ConfigError
from lipwire.training.data.layouts import VIDEO_SUFFIXES
from lipwire.training.evaluation.lists import PLACES

IDENTITIES = 71  # sec. 4.1.2: all 71 x 70 = 4,970 ordered pairs
ABLATION = 500  # sec. 4.3
STUDY = 20  # Table 4: films, each with the sound of another person's
RECONSTRUCTION_CLIPS = 4_911  # sec. 4.1.1, all videos of the test set


def make_voxceleb2_lists(root: Path, out: Path, seed: int = 0) -> dict[str, int]:
    """Write the paper's lists of the films below a folder.

    - `reconstruction.txt`: the first utterance of every video (sec. 4.1.1; 4,911 in the paper).
    - `cross.txt`: of 71 identities the first utterance of the first video, each with each other's
      voice (sec. 4.1.2).
    - `ablation-reconstruction.txt`, `ablation-cross.txt`: 500 lines of each (sec. 4.3).
    - `study.txt`: 20 films with sounds of other people, drawn at random (Table 4).

    Args:
        root: of VoxCeleb2's test set, as it is unpacked.
        out: folder for the lists, made if missing.
        seed: of what is drawn.

    Returns:
        Lines by list.

    Raises:
        ConfigError: there are no films laid out as VoxCeleb2's, or the lists cannot be written.
    """
    first = _first_utterances(root)
    rng = np.random.default_rng(seed)
    by_identity: dict[str, str] = {}
    for name in first:  # sorted: the first video of each comes first
        by_identity.setdefault(name.split("/")[0], name)
    drawn = _some(rng, sorted(by_identity), IDENTITIES)
    lists = {
        "reconstruction": [f"{name} {name}" for name in first],
        "cross": [f"{by_identity[a]} {by_identity[b]}" for a, b in permutations(drawn, 2)],
    }
    for name in ("reconstruction", "cross"):
        lists[f"ablation-{name}"] = _some(rng, lists[name], ABLATION)
    lists["study"] = [f"{_sound(rng, first, name)} {name}" for name in _some(rng, first, STUDY)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, lines in lists.items():
            head = f"# {name} of {root.name}, {len(lines)} lines, seed {seed}: sound, then picture"
            (out / f"{name}.txt").write_text("\n".join([head, *lines, ""]), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror})") from error
    return {name: len(lines) for name, lines in lists.items()}


def _first_utterances(root: Path) -> list[str]:
    """`id/video/utterance` of the first film of every video, sorted."""
    for place in PLACES:
        found: dict[Path, str] = {}
        for path in sorted((root / place).glob("id*/*/*")):
            if path.suffix.lower() in VIDEO_SUFFIXES:
                name = path.relative_to(root / place).with_suffix("").as_posix()
                found.setdefault(path.parent, name)
        if found:
            return list(found.values())
    raise ConfigError(f"{root}: no film lies there as VoxCeleb2's do, idXXXXX/VIDEO/UTTERANCE.mp4")


def _sound(rng: np.random.Generator, names: Sequence[str], picture: str) -> str:
    """One of another person's, if there is one."""
    person = picture.split("/")[0]
    others = [name for name in names if name.split("/")[0] != person] or [picture]
    return others[int(rng.integers(len(others)))]


def _some(rng: np.random.Generator, lines: Sequence[str], count: int) -> list[str]:
    """So many of them, in their order; all if there are no more."""
    if len(lines) <= count:
        return list(lines)
    return [lines[i] for i in sorted(rng.choice(len(lines), count, replace=False).tolist())]
