"""What a folder needs to be a bundle: its model card for people, its manifest with checksums."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lipwire.engine.model.bundle import MANIFEST, Bundle, Manifest, open_bundle, sha256

MODEL_CARD = "MODEL_CARD.md"


def model_card(manifest: Manifest) -> str:
    """Markdown, made of what the manifest says."""
    facts = {
        "kind": manifest.kind,
        "licence": manifest.licence,
        "crop": f"{manifest.crop_size} px, {manifest.framing}",
        "steps": f"{_list(manifest.steps_offered)}; {manifest.default_steps} by default",
        "look-ahead": f"{1000 * manifest.lookahead_s:.1f} ms of sound",
        "precision": manifest.precision,
        "built for": f"{manifest.device} device",
        "parameters": f"{manifest.parameters:,}",
        "cost": f"{manifest.gflop_per_frame:g} GFLOP a frame at {manifest.default_steps} steps",
    }
    lines = [f"# {manifest.name} {manifest.version}", ""]
    lines += [
        "A lip-sync model for lipwire: it repaints the lower half of a face so that it speaks a",
        "given voice. It makes people appear to say what they did not say; use it with the consent",
        "of the person shown, and say that the result is generated.",
        "",
    ]
    lines += ["| | |", "| --- | --- |", *(f"| {name} | {what} |" for name, what in facts.items())]
    for title, values in (
        ("Training", manifest.training),
        ("Measured", manifest.quality),
        ("Error against torch", manifest.parity),
        ("Built with", manifest.built_with),
    ):
        if values:
            lines += ["", f"## {title}", ""]
            lines += [f"- {name}: {_plain(value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def seal(folder: Path, manifest: Manifest, names: Iterable[str]) -> Bundle:
    """Write the model card and the manifest of a folder's files, with their checksums."""
    (folder / MODEL_CARD).write_text(model_card(manifest), encoding="utf-8")
    sums = {name: sha256(folder / name) for name in sorted({*names, MODEL_CARD})}
    text = replace(manifest, files=sums).to_json()
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return open_bundle(folder)


def update_manifest(bundle: Bundle, **changes: Any) -> Bundle:
    """Rewrite fields of a bundle's manifest that do not describe its files, e.g. quality."""
    return seal(bundle.path, replace(bundle.manifest, **changes), bundle.manifest.files)


def _list(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
