"""Bundles on the Hugging Face Hub: `hf:owner/name` or `hf:owner/name@revision`.

The hub's cache keeps them; the checksums in a bundle's manifest decide whether it is used.
"""

from __future__ import annotations

import re
from pathlib import Path

from lipwire.engine.errors import BundleError

PREFIX = "hf:"
_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
# A bundle is flat: graphs, weights, manifest and card. Whatever else is there is not fetched.
MANIFEST = "manifest.json"


def is_remote(path: str | Path) -> bool:
    """Whether a bundle's name is one of the hub's."""
    return str(path).startswith(PREFIX)


def fetch(path: str | Path) -> Path:
    """The folder that a bundle of the hub is in now; it is fetched if it is not there.

    Raises:
        BundleError: no such name, nothing there, no way to it, or huggingface-hub is missing.
    """
    found = _NAME.fullmatch(str(path))
    if found is None:
        raise BundleError(f"{path}: a bundle of the hub is named hf:owner/name@revision")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise BundleError(f"{path}: pip install lipwire[hub] to fetch bundles") from None
    try:
        folder = snapshot_download(
            found[1],
            revision=found[2],
            allow_patterns=[MANIFEST, "*.onnx", "*.npz", "*.md", "*.safetensors", "*.json"],
        )
    except Exception as error:  # of many kinds; a hub may answer anything
        cause = str(error).strip().splitlines()[0][:160] if str(error) else type(error).__name__
        raise BundleError(f"{path}: cannot be fetched ({cause})") from error
    return Path(folder)
