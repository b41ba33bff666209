"""What a runtime compiles of a network: `encode` once a frame, `step` once a DDIM step.

Every kind of model is cut into the same two graphs, so that a runtime needs to know no kind; one
that paints in a single pass has no `encode`. What flows in is named the same everywhere, float32:

    visible       [B, 3, S/2, S]   the half of the crop that the model may see, RGB in ±1
    references    [B, 3R, S, S]    R pictures of the person, RGB in ±1
    mel           [B, 80, C]       log-mel in ±4
    reach         [B, codes]       how far the person's mouth goes, 1 as a typical speaker's
    shown         [B, R, codes]    the codes that the references show, in spreads
    noise         [B, 3, H, S]     the session's one noise image; H is S, or S/2: hidden rows
    x_t           [B, 3, H, S]     the sample at step t; the noise at first
    t             [B]              0..999
    coefficients  [B, 5]           of the step, see lipwire.engine.model.ddim.step_coefficients
    context_i     whatever `encode` returned
    x_prev        [B, 3, H, S]     out of `step`: the sample at the next step, at last the picture
    raw           [B, ...]         out of `step`: what the network itself returned
    codes         [B, codes]       out of `voice`: the mouth that the sound asks for

A graph takes those that it needs. The last S/2 rows of the last x_prev are the repainted half.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipwire.engine.audio.mel import MAX_ABS, N_MELS, WINDOW_COLUMNS
from lipwire.engine.errors import ConfigError
from lipwire.engine.face.articulation import CODES
from lipwire.engine.nets.diff2lip import Diff2LipUNet, network_input
from lipwire.engine.nets.lite import LiteNet
from lipwire.engine.nets.wav2lip import Wav2Lip

ENCODE, STEP, VOICE = "encode", "step", "voice"


@dataclass(frozen=True, slots=True)
class Graph:
    """A module to compile, with the names of what goes in and comes out.

    It holds the whole network as `net`, so its weights are named as in the state dict after `net.`.
    """

    name: str  # encode, step or voice; its file in a bundle is `name`.onnx
    module: nn.Module
    inputs: dict[str, Tensor]
    """examples in the order of the module's arguments; axis 0 of every one is the batch"""
    outputs: tuple[str, ...]


def take_step(x_t: Tensor, out: Tensor, coefficients: Tensor) -> Tensor:
    """The DDIM step of `lipwire.engine.model.ddim.step_coefficients`: f32[B, 3, H, S] -> the
    same."""
    from_x, from_out, prev_x, prev_x0, limit = coefficients[..., None, None, None].unbind(1)
    # Coefficients reach 160 at high noise levels: in half precision they would drown the picture.
    x_t, out = x_t.float(), out.float()
    x0 = from_x * x_t + from_out * out
    x0 = torch.minimum(torch.maximum(x0, -limit), limit)
    return prev_x * x_t + prev_x0 * x0


class LiteEncode(nn.Module):
    """Voice and condition encoder of the lite network."""

    def __init__(self, net: LiteNet) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        visible: Tensor,
        references: Tensor,
        mel: Tensor,
        reach: Tensor | None = None,
        shown: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Feature maps for the step."""
        code = self.net.voice(mel, reach)
        maps: tuple[Tensor, ...] = self.net.encoder(visible, references, code, shown)
        return maps


class LiteVoice(nn.Module):
    """The lite network's voice branch alone."""

    def __init__(self, net: LiteNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, mel: Tensor, reach: Tensor | None = None) -> tuple[Tensor]:
        """f32[B, codes]."""
        return (self.net.voice(mel, reach),)


class LiteStep(nn.Module):
    """The lite denoiser and the DDIM step after it."""

    def __init__(self, net: LiteNet) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, x_t: Tensor, t: Tensor, coefficients: Tensor, references: Tensor, *context: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x_{t-1} of the hidden half, and v."""
        sigma = -coefficients[:, 1]  # for v, x0_from_out is -sqrt(1 - alpha_bar)
        v = self.net.denoiser(x_t, t, sigma, references, *context)
        return take_step(x_t, v, coefficients), v


class Diff2LipEncode(nn.Module):
    """The paper's audio path, which depends on neither picture nor step."""

    def __init__(self, net: Diff2LipUNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, mel: Tensor) -> tuple[Tensor, ...]:
        """What is added to the time embedding, f32[B, E]."""
        return (self.net.audio_style(mel),)


class Diff2LipStep(nn.Module):
    """The paper's UNet and the DDIM step after it."""

    def __init__(self, net: Diff2LipUNet) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        coefficients: Tensor,
        noise: Tensor,
        visible: Tensor,
        references: Tensor,
        style: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """x_{t-1}, and the network's six channels."""
        condition = torch.cat([visible, noise[:, :, visible.shape[2] :]], dim=2)
        out = self.net(network_input(x_t, condition, references), t, style)
        return take_step(x_t, out[:, :3], coefficients), out


class Wav2LipStep(nn.Module):
    """The whole of Wav2Lip as one step: no noise, no audio path worth keeping apart."""

    def __init__(self, net: Wav2Lip) -> None:
        super().__init__()
        self.net = net

    def forward(self, visible: Tensor, references: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """The picture, RGB in ±1, and as the network returns it, BGR in 0..1."""
        masked = torch.cat([(visible + 1) / 2, torch.zeros_like(visible)], dim=2)
        face = torch.cat([masked.flip(1), ((references + 1) / 2).flip(1)], dim=1)
        out = self.net(mel[:, None], face)
        return out.flip(1) * 2 - 1, out


def example_inputs(net: nn.Module, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of a network's graphs but the context, in the ranges that they will see."""
    random = torch.Generator().manual_seed(seed)
    config = net.config
    size = int(getattr(config, "size", 0) or getattr(config, "image_size", 0))
    rows = size // 2 if isinstance(net, LiteNet) else size
    references = int(getattr(config, "references", 1))
    columns = int(getattr(config, "mel_columns", WINDOW_COLUMNS))

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random) * 2 - 1

    noise = torch.randn(batch, 3, rows, size, generator=random)
    # A step in the middle, where x0 depends on both x_t and the network.
    coefficients = torch.tensor([[0.7, -0.7, 0.6, 0.5, 1.0]]).expand(batch, -1).contiguous()
    told = {}
    if getattr(config, "reach_px", 0.0):
        told["reach"] = uniform(batch, CODES) * 0.5 + 1
    if getattr(config, "told", False):
        told["shown"] = uniform(batch, references, CODES) * 2
    return {
        "visible": uniform(batch, 3, size // 2, size),
        "references": uniform(batch, 3 * references, size, size),
        "mel": uniform(batch, N_MELS, columns) * MAX_ABS,
        **told,
        "noise": noise,
        "x_t": torch.randn(batch, 3, rows, size, generator=random),
        "t": torch.full((batch,), 499.0),
        "coefficients": coefficients,
    }


@torch.no_grad()
def graphs(net: nn.Module, batch: int = 2, seed: int = 0) -> tuple[Graph, ...]:
    """The graphs of a network, with examples of what they take; modules share its weights.

    Raises:
        ConfigError: a network of no known kind.
    """
    examples = example_inputs(net, batch, seed)

    def pick(*names: str) -> dict[str, Tensor]:
        return {name: examples[name] for name in names}

    encode: nn.Module
    step: nn.Module
    if isinstance(net, Wav2Lip):
        frame = pick("visible", "references", "mel")
        return (Graph(STEP, Wav2LipStep(net).eval(), frame, ("x_prev", "raw")),)
    if isinstance(net, LiteNet):
        told = tuple(name for name in ("reach", "shown") if name in examples)
        encode, frame = LiteEncode(net), pick("visible", "references", "mel", *told)
        step, taken = LiteStep(net), pick("x_t", "t", "coefficients", "references")
    elif isinstance(net, Diff2LipUNet):
        encode, frame = Diff2LipEncode(net), pick("mel")
        names = ("x_t", "t", "coefficients", "noise", "visible", "references")
        step, taken = Diff2LipStep(net), pick(*names)
    else:
        raise ConfigError(f"no graphs are known of a {type(net).__name__}")
    context = {f"context_{i}": made for i, made in enumerate(encode.eval()(*frame.values()))}
    taken |= context
    return (
        Graph(ENCODE, encode.eval(), frame, tuple(context)),
        Graph(STEP, step.eval(), taken, ("x_prev", "raw")),
    )


def voice_graph(net: nn.Module, batch: int = 2, seed: int = 0) -> tuple[Graph, ...]:
    """The voice branch of a network that has one, by itself; of others nothing.

    `encode` holds it too: a job brings sound. By itself it tells what mouth the sound asks for
    before a job is made.
    """
    if not isinstance(net, LiteNet):
        return ()
    examples = example_inputs(net, batch, seed)
    names: tuple[str, ...] = ("mel", "reach")
    taken = {name: examples[name] for name in names if name in examples}
    return (Graph(VOICE, LiteVoice(net).eval(), taken, ("codes",)),)
