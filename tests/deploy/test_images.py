"""The images' files: linted, and what they promise of the running container is written in them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import lipwire

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FILES = ("Dockerfile", "Dockerfile.cuda")


@pytest.mark.parametrize("name", FILES)
def test_hadolint_has_nothing_to_say(name: str, hadolint: str) -> None:
    done = subprocess.run([hadolint, DEPLOY / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stdout, done.stdout


@pytest.mark.parametrize("name", FILES)
def test_an_image_is_of_this_version_and_runs_as_nobody_in_particular(name: str) -> None:
    text = (DEPLOY / name).read_text()
    assert f"ARG VERSION={lipwire.__version__}\n" in text
    user = re.findall(r"^USER (\d+)$", text, re.MULTILINE)
    assert user == ["10001"] and "HEALTHCHECK" in text and "STOPSIGNAL SIGTERM" in text
