"""Sheets of what the lite network paints for faces and voices it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lipwire.engine.errors import ConfigError
from lipwire.engine.face.articulation import OPENING
from lipwire.engine.nets.lite import LiteNet
from lipwire.engine.types import F32, U8
from lipwire.training.data.dataset import ClipData, Clips, mel_windows, to_planes
from lipwire.training.families import LiteFamily
from lipwire.training.lite.dataset import draw, pick_references
from lipwire.training.paper.trajectory import Moment, fixed_noise, sampled, to_image

FAMILY = LiteFamily()
STEPS = (1, 2, 8)  # shown side by side: the least, the default, the most
SHOWN = 2  # the step count whose x_t and x0 are shown
CAPTION_PX = 88


@torch.no_grad()
def moments(
    net: LiteNet,
    crops: Tensor,
    references: Tensor,
    codes: Tensor,
    steps: int,
    shown: Tensor | None = None,
) -> list[Moment]:
    """Sampling of the hidden halves with given articulation codes.

    Args:
        net: in evaluation mode.
        crops: f32[B, 3, S, S] in ±1.
        references: f32[B, 3 R, S, S] in ±1.
        codes: f32[B, codes], normalised.
        steps: of DDIM.
        shown: f32[B, R, codes], normalised codes of the references; for a network that is told.
    """
    size = crops.shape[2]
    context = net.encoder(crops[:, :, : size // 2], references, codes, shown)
    noise = fixed_noise(size).repeat(len(crops), 1, 1, 1)
    return sampled(FAMILY, net, (references, context), noise, steps)


def whole(crops: Tensor, hidden: Tensor) -> Tensor:
    """Crops with their hidden halves replaced, f32[B, 3, S, S] in ±1."""
    return torch.cat([crops[:, :, : crops.shape[2] // 2], hidden.clamp(-1, 1)], dim=2)


def sample_sheet(net: LiteNet, clips: Clips, path: Path, columns: int = 10, steps: int = 2) -> None:
    """Write a PNG of rows: input, references, the mouth as measured, closed, wide open.

    Each column is a frame of another clip.
    """
    net.eval()
    batch = draw(clips, columns, net.config.references, np.random.default_rng(0), augmented=False)
    crops, references = torch.from_numpy(batch.crops), torch.from_numpy(batch.references)
    codes, shown = torch.from_numpy(batch.codes), torch.from_numpy(batch.shown)
    closed, wide = torch.zeros_like(codes), torch.zeros_like(codes)
    # Opening, its sides, jaw and lower lip move together when a mouth opens.
    closed[:, [0, 1, 3, 5]], wide[:, [0, 1, 3, 5]] = -0.9, 2.0
    rows = [crops, *references.chunk(net.config.references, dim=1)]
    for wanted in (codes, closed, wide):
        rows.append(whole(crops, moments(net, crops, references, wanted, steps, shown)[-1].x0))
    write_rows(path, rows)


def speaker_sheet(
    net: LiteNet,
    clips: Sequence[ClipData],
    who: str,
    path: Path,
    columns: int = 10,
    code_stats: F32 | None = None,
) -> None:
    """Write a captioned PNG of some people alone, their mouths moved by their own voices.

    Rows: input, references, painted in 1, 2 and 8 steps; then x_t and the x0 estimate of every
    step of two. Columns are frames from the most closed mouth to the widest of each clip.

    Raises:
        ConfigError: no clip is of that name, `path` cannot be written, or there are no
            `code_stats` for a network that is told what its references show.
    """
    if net.config.told and code_stats is None:
        raise ConfigError("this network is told what its references show: code_stats are needed")
    stats = np.array([[0.0], [1.0]], np.float32) if code_stats is None else code_stats
    net.eval()
    rng = np.random.default_rng(0)
    crops, others, mels, told = [], [], [], []
    for clip, frames in shown_frames(clips, who, columns):
        heard = mel_windows(clip, net.config.mel_columns)
        for index in frames:
            picks = pick_references(clip, index, net.config.references, rng)
            crops.append(to_planes(np.asarray(clip.crops[index])))
            others.append(np.concatenate([to_planes(np.asarray(clip.crops[i])) for i in picks]))
            mels.append(heard[index])
            told.append(np.clip((clip.codes[picks] - stats[0]) / stats[1], -4, 4))
    inputs, references, shown = (torch.from_numpy(np.stack(x)) for x in (crops, others, told))
    with torch.no_grad():
        codes = net.voice(torch.from_numpy(np.stack(mels)))
    rows = {"input": inputs}
    for number, reference in enumerate(references.chunk(net.config.references, dim=1), 1):
        rows[f"reference {number}"] = reference
    for steps in STEPS:
        painted = moments(net, inputs, references, codes, steps, shown)
        rows[counted(steps)] = whole(inputs, painted[-1].x0)
    for moment in moments(net, inputs, references, codes, SHOWN, shown):
        rows[f"x_t  t={moment.t}"] = whole(inputs, moment.x_t)
        rows[f"x0   t={moment.t}"] = whole(inputs, moment.x0)
    write_rows(path, list(rows.values()), list(rows))


def shown_frames(
    clips: Sequence[ClipData], who: str, columns: int
) -> list[tuple[ClipData, list[int]]]:
    """Some people's clips, and of each clip frames from its most closed mouth to its widest.

    Args:
        clips: to look in.
        who: chosen are the clips whose key or speaker contains this.
        columns: frames in all, dealt out to the clips as evenly as may be.

    Raises:
        ConfigError: no clip is of that name.
    """
    chosen = [clip for clip in clips if who in clip.key or who in clip.speaker]
    if not chosen:
        known = ", ".join(sorted({clip.speaker for clip in clips})[:8])
        raise ConfigError(f"no clip's key or speaker contains {who!r}; speakers are {known} ..")
    chosen, found = chosen[:columns], []
    for number, clip in enumerate(chosen):
        share = columns // len(chosen) + (number < columns % len(chosen))
        order = np.argsort(clip.codes[:, OPENING], kind="stable")
        picks = order[np.linspace(0, len(order) - 1, share).round().astype(int)]
        found.append((clip, [int(i) for i in picks]))
    return found


def counted(steps: int) -> str:
    """A row's caption."""
    return f"{steps} step{'s' * (steps > 1)}"


def write_rows(path: Path, rows: Sequence[Tensor], captions: Sequence[str] = ()) -> None:
    """Rows f32[B, 3, S, S] in ±1 as one PNG, captions to their left."""
    import cv2

    strips: list[U8] = [np.hstack([to_image(planes) for planes in row]) for row in rows]
    for number, caption in enumerate(captions):
        margin = np.full((len(strips[number]), CAPTION_PX, 3), 255, np.uint8)
        font, at = cv2.FONT_HERSHEY_SIMPLEX, (4, len(margin) // 2)
        cv2.putText(margin, caption, at, font, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        strips[number] = np.hstack([margin, strips[number]])
    if not cv2.imwrite(str(path), np.vstack(strips)[..., ::-1]):
        raise ConfigError(f"{path} cannot be written")
