"""A sheet of what the paper's network paints for chosen people, sampled as its bundle samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lipwire.training.data.batch import resized
from lipwire.training.data.dataset import ClipData, mel_windows, to_planes
from lipwire.training.families import Given, Opened
from lipwire.training.lite.samples import counted, shown_frames, write_rows
from lipwire.training.paper.trajectory import Moment, fixed_noise, trajectory

STEPS = (8, 25)  # of a network that was not distilled: few, and the paper's
MOMENTS = 4  # whose x_t and x0 are shown


def paper_sheet(
    opened: Opened, clips: Sequence[ClipData], who: str, path: Path, columns: int = 10
) -> None:
    """Write a captioned PNG of some people alone, their mouths moved by their own voices.

    Rows: input; reference, half a clip away; painted in 8 and 25 steps, or in a student's own
    number; painted to the sound of the column at the other end; then x_t and the x0 estimate at
    four levels from noise to clean. Columns are frames from the most closed mouth to the widest of
    each clip.

    Args:
        opened: the network.
        clips: to look in.
        who: shown are the clips whose key or speaker contains this.
        path: of the PNG.
        columns: frames in all.

    Raises:
        ConfigError: no clip is of that name, or `path` cannot be written.
    """
    family, net = opened.family, opened.net
    size, half = family.size(net), family.size(net) // 2
    crops, others, mels = [], [], []
    for clip, frames in shown_frames(clips, who, columns):
        heard = mel_windows(clip, family.columns(net))
        for index in frames:
            other = (index + len(clip) // 2) % len(clip)
            own, reference = (
                to_planes(resized(np.asarray(clip.crops[i]), size)) for i in (index, other)
            )
            crops.append(own)
            others.append(reference)
            mels.append(heard[index])
    inputs, references, sounds = (torch.from_numpy(np.stack(x)) for x in (crops, others, mels))
    visible = inputs[:, :, :half]
    given = Given(visible, references, sounds, fixed_noise(size).repeat(len(inputs), 1, 1, 1))

    student = opened.state.get("student_steps")
    offered = STEPS if student is None else (int(student),)
    runs: list[list[Moment]] = [trajectory(family, net, given, steps) for steps in offered]
    swapped = trajectory(family, net, given._replace(mels=sounds.flip(0)), offered[-1])

    def whole(hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([visible, hidden.clamp(-1, 1)], dim=2)

    rows = {"input": inputs, "reference": references}
    rows |= {counted(len(moments)): whole(moments[-1].x0) for moments in runs}
    rows["other sound"] = whole(swapped[-1].x0)
    last = runs[-1]
    for place in np.unique(np.linspace(0, len(last) - 1, MOMENTS).round().astype(int)):
        rows[f"x_t  t={last[place].t}"] = whole(last[place].x_t)
        rows[f"x0   t={last[place].t}"] = whole(last[place].x0)
    write_rows(path, list(rows.values()), list(rows))
