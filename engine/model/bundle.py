"""A model on disk: a folder with manifest.json and the files it names, each with its checksum."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

from lipwire.engine.audio.mel import WINDOW_COLUMNS
from lipwire.engine.errors import BundleError
from lipwire.engine.face.articulation import CODES
from lipwire.engine.model.hub import fetch, is_remote
from lipwire.engine.types import CodeStats, JobSpec

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
KINDS = ("lite", "diff2lip", "wav2lip")
PREDICTIONS = ("epsilon", "v", "x0", "image")
FRAMINGS = ("stabilised", "box")
PRECISIONS = ("float32", "float16")
DEVICES = ("any", "cpu", "cuda")
DEFAULT_BUNDLE = Path(__file__).parents[1] / "bundles" / "lite"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says about itself; `manifest.json` holds exactly these fields."""

    name: str
    version: str
    kind: str
    """one of KINDS: which inputs the graphs take"""
    licence: str
    files: dict[str, str]
    """file name -> sha256 in hex"""
    prediction: str
    """what the network returns: epsilon, v, x0, or at once the image"""
    spacing: str
    """which timesteps are visited: leading or trailing, see lipwire.engine.model.ddim"""
    steps_offered: tuple[int, ...]
    default_steps: int
    crop_size: int
    """pixels"""
    framing: str = "stabilised"
    """how the crop is cut out: rotation-stabilised, or the axis-aligned box of the paper"""
    references: int = 1
    """pictures of the person that a job must bring"""
    reach_px: float = 0.0
    """range of a typical speaker's opening, see `JobSpec`; 0: the graphs take no reach"""
    codes: dict[str, list[float]] = field(default_factory=dict)
    """mean and spread of the articulation codes, see `CodeStats`; empty: not known"""
    expression: float = 1.4
    """see `CodeStats`; 1.4 for the voices of bundles that say nothing, which move too little"""
    reference_codes: bool = False
    """whether the graphs take the codes that the references show, and may begin at a unit"""
    network: dict[str, Any] = field(default_factory=dict)
    """the torch network's own settings, see lipwire.engine.nets.build_network"""
    noise_seed: int = 0
    lookahead_s: float = 0.0
    """sound needed past a picture's own time"""
    mel: dict[str, float] = field(default_factory=dict)
    precision: str = "float32"
    """of the graphs' arithmetic; what goes in and comes out is float32 in any case"""
    device: str = "any"
    """what the graphs were built for: any, cpu or cuda"""
    opset: int = 0
    parameters: int = 0
    gflop_per_frame: float = 0.0
    """at the default steps, counting a multiply-add as two"""
    built_with: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    """data, steps, settings, checkpoint: where the weights come from"""
    quality: dict[str, Any] = field(default_factory=dict)
    """measured on held-out speakers"""
    parity: dict[str, float] = field(default_factory=dict)
    """graph -> relative error against the network it was exported from"""
    format_version: int = FORMAT_VERSION

    @property
    def job_spec(self) -> JobSpec:
        """What jobs for this model must bring."""
        columns = int(self.mel.get("columns", WINDOW_COLUMNS))
        codes = None
        if self.codes:
            mean, spread = (tuple(self.codes[name]) for name in ("mean", "spread"))
            codes = CodeStats(mean, spread, self.expression)
        crop = (self.crop_size, self.framing, self.references, columns)
        return JobSpec(*crop, self.reach_px, codes, self.reference_codes)

    def to_json(self) -> str:
        """As written to disk."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder whose files have been checked."""

    path: Path
    """of the folder"""
    manifest: Manifest

    def file(self, name: str) -> Path:
        """The path of one of the bundle's files.

        Raises:
            BundleError: the manifest does not name it.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.path}: holds no {name} (only {sorted(self.manifest.files)})")
        return self.path / name


def is_plain(name: str) -> bool:
    """Whether a file's name stays in its folder, on any system."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def sha256(path: Path) -> str:
    """Checksum of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(path: Path) -> Manifest:
    try:
        values = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path}: not a model bundle, it has no {MANIFEST}") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path / MANIFEST}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise BundleError(f"{path / MANIFEST}: must be a JSON object")
    version = values.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise BundleError(
            f"{path}: bundle format {version!r} is unknown; this lipwire reads {FORMAT_VERSION}"
        )
    if unknown := set(values) - {f.name for f in fields(Manifest)}:
        raise BundleError(f"{path / MANIFEST}: unknown fields {sorted(unknown)}")
    required = {f.name for f in fields(Manifest) if f.default is f.default_factory is MISSING}
    if absent := required - set(values):
        raise BundleError(f"{path / MANIFEST}: incomplete, without {sorted(absent)}")
    _check_types(path / MANIFEST, values)
    manifest = Manifest(**{**values, "steps_offered": tuple(values["steps_offered"])})
    for name, value, allowed in (
        ("kind", manifest.kind, KINDS),
        ("prediction", manifest.prediction, PREDICTIONS),
        ("spacing", manifest.spacing, ("leading", "trailing")),
        ("framing", manifest.framing, FRAMINGS),
        ("precision", manifest.precision, PRECISIONS),
        ("device", manifest.device, DEVICES),
    ):
        if value not in allowed:
            raise BundleError(f"{path / MANIFEST}: {name} is {value!r}, must be one of {allowed}")
    if manifest.default_steps not in manifest.steps_offered:
        raise BundleError(f"{path / MANIFEST}: default_steps is not among steps_offered")
    return manifest


def _check_types(path: Path, values: dict[str, Any]) -> None:
    """Refuse values of another kind than `Manifest` declares, where it would fail later."""

    def natural(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    files, steps = values["files"], values["steps_offered"]
    named = isinstance(files, dict) and all(isinstance(v, str) for v in files.values())
    counted = isinstance(steps, list) and bool(steps) and all(map(natural, steps))
    size, whole = values["crop_size"], "a whole number from 1 on"
    told = isinstance(values.get("reference_codes", False), bool)
    stats = f"mean and spread of {CODES} codes, or empty"
    for name, good, wanted in (
        ("files", named, "file names with their sha256"),
        ("steps_offered", counted, "a list of whole numbers from 1 on"),
        ("default_steps", natural(values["default_steps"]), whole),
        ("crop_size", natural(size) and size % 2 == 0, "an even number of pixels"),
        ("references", natural(values.get("references", 1)), whole),
        ("reach_px", _is_length(values.get("reach_px", 0.0)), "pixels, 0 for a model without"),
        ("codes", _are_stats(values.get("codes", {})), stats),
        ("expression", _is_length(values.get("expression", 1.4)), "a factor"),
        ("reference_codes", told, "true or false"),
        ("network", isinstance(values.get("network", {}), dict), "the network's settings"),
        ("mel", isinstance(values.get("mel", {}), dict), "the sound's settings"),
    ):
        if not good:
            raise BundleError(f"{path}: {name} is {values.get(name)!r}, must be {wanted}")


def _are_stats(value: object) -> bool:
    if value == {}:
        return True
    if not isinstance(value, dict) or set(value) != {"mean", "spread"}:
        return False
    mean, spread = value["mean"], value["spread"]
    lists = isinstance(mean, list) and isinstance(spread, list)
    return (
        lists
        and len(mean) == len(spread) == CODES
        and all(isinstance(v, int | float) and -1e3 < v < 1e3 for v in mean)
        and all(_is_length(v) and v > 0 for v in spread)
    )


def _is_length(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < inf


def open_bundle(path: str | Path | None = None) -> Bundle:
    """Read a bundle and check every file before anything is loaded from it.

    Args:
        path: its folder, or `hf:owner/name@revision` on the Hugging Face Hub; None opens the model
            that ships with lipwire.

    Raises:
        BundleError: a missing or altered file, or a format we do not know; one line says which.
    """
    folder = Path(path) if path is not None else DEFAULT_BUNDLE
    if is_remote(folder):
        folder = fetch(folder)
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such model bundle")
    manifest = _parse(folder)
    for name, expected in manifest.files.items():
        if not is_plain(name):
            raise BundleError(f"{folder}: file name {name!r} leaves the bundle")
        file = folder / name
        if not file.is_file():
            raise BundleError(f"{file}: is missing")
        try:
            found = sha256(file)
        except OSError as error:
            raise BundleError(f"{file}: cannot be read ({error.strerror})") from error
        if found != expected:
            raise BundleError(f"{file}: checksum differs from the manifest's; it was altered")
    return Bundle(folder, manifest)


def check_steps(manifest: Manifest, steps: int) -> int:
    """`steps` if the bundle offers them.

    Raises:
        BundleError: it does not; the message lists what it offers.
    """
    if steps not in manifest.steps_offered:
        raise BundleError(
            f"bundle {manifest.name} offers {list(manifest.steps_offered)} steps, not {steps}"
        )
    return steps
