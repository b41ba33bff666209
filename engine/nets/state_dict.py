"""A network's weights in whatever a trainer saved: where they lie, and what stands before names."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

# What trainers put around weights, the averaged ones first: what is nearest to what is wanted.
_AVERAGED = re.compile(r"ema|averag|swa", re.IGNORECASE)
_USUAL = re.compile(
    r"state_?dict|^model|^net|weights|^params|generator|^g$|^gen|net_?g", re.IGNORECASE
)
# Nets that are trained beside, and what is no net at all.
_OTHERS = re.compile(r"disc|critic|optim|sched|scaler|loss|^d$|net_?d$", re.IGNORECASE)
# Wrappers' own names: DataParallel and DDP, torch.compile, Lightning's usual attributes.
_WRAPPERS = re.compile(r"^(module|_orig_mod)\.|(?<=\.)_orig_mod\.")
DEPTH = 4  # of dictionaries in each other

COUNTER = "num_batches_tracked"  # of batch norms; no weight


def find_weights(state: Mapping[Any, Any]) -> tuple[str, dict[str, Tensor]]:
    """The dictionary of tensors that is most probably the network's, and its place.

    Returns:
        The names that lead to it, joined by dots ('' for the file itself), and its tensors, under
        names without what data-parallel training and torch.compile put before them; empty if
        there is none.
    """
    found = [(place, tensors) for place, tensors in _dictionaries(state, "", 0) if tensors]
    if not found:
        return "", {}

    def merit(each: tuple[str, dict[str, Tensor]]) -> tuple[bool, bool, bool, int]:
        place, tensors = each
        names = place.split(".")
        return (
            not any(map(_OTHERS.search, names)),
            any(map(_AVERAGED.search, names)),
            any(map(_USUAL.search, names)),
            len(tensors),
        )

    place, tensors = max(found, key=merit)
    return place, {plain_name(name): value for name, value in tensors.items()}


def _dictionaries(
    value: Mapping[Any, Any], place: str, depth: int
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    yield place, {str(k): v for k, v in value.items() if isinstance(v, Tensor)}
    if depth < DEPTH:
        for name, inner in value.items():
            if isinstance(inner, Mapping):
                yield from _dictionaries(inner, f"{place}.{name}".lstrip("."), depth + 1)


def plain_name(name: str) -> str:
    """A tensor's name without `module.` and `_orig_mod.`."""
    while (shorter := _WRAPPERS.sub("", name)) != name:
        name = shorter
    return name


def unwrapped(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the network's own names, if they have but an attribute's name before them.

    `net.`, `generator.`: what Lightning and other holders of several networks save. Those of the
    others are left out.
    """
    if not wanted or any(name in weights for name in wanted):
        return dict(weights)
    needed = [name for name in wanted if not name.endswith(COUNTER)]
    last = max(needed, key=len)
    for name in weights:
        prefix = name.removesuffix(last)
        found = prefix != name and prefix.endswith(".")
        if found and all(prefix + own in weights for own in needed):
            return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    return dict(weights)


def describe(state: Mapping[Any, Any]) -> str:
    """What a file without weights has, for people."""
    names = [f"{name} ({type(value).__name__})" for name, value in list(state.items())[:6]]
    return ", ".join(names) + (", ..." if len(state) > 6 else "") if names else "nothing"


def torchscript(path: Path) -> str | None:
    """How to convert a TorchScript archive, which is a program; None: it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return None
    if not any(name.endswith("/constants.pkl") for name in inside):
        return None
    out = path.with_suffix(".weights.pth").name
    return (
        "is a TorchScript archive, a program that is not run here; where you trust it, convert it: "
        f"python -c \"import torch; torch.save(torch.jit.load('{path}', 'cpu').state_dict(), "
        f"'{out}')\""
    )
