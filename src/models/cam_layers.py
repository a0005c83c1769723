"""Which layers of a network give maps, and which of them Grad-CAM and HiResCAM read.

Measured on the demo's phantoms (tests/benchmarks/gradcam_layers.py), where the findings are known, at 64 pixels: the
hottest pixel of six networks lies in them most often, in both halves of the patients alike, by Grad-CAM on the last map
of 4 cells a side or more, by HiResCAM on the last of 5 to 8 or more. At 128 pixels Grad-CAM too was better on 8 cells
than on 4, so it is a cell's pixels that count. Larger images were not measured: there it is the usual 7 cells.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.architectures import Network

KINDS = ("coarse", "fine")  # of layers: Grad-CAM reads the coarse one, HiResCAM the fine one
CELLS = 7         # along a side, at least: the last map of networks for 224 pixels
CELL_PIXELS = 16  # small enough cells for Grad-CAM: 4 along a side at 64 pixels
# families whose class token reads the patches only behind their last block, and the blocks in which it does
CLASS_BLOCKS = ("cls_attn_blocks", "blocks_token_only")


def find_cam_layers(network: nn.Module, channels: int, image_size: int) -> dict[str, str]:
    """The name of the layer of each of KINDS: the last whose map has enough cells, else the largest map.

    Empty if no layer gives a map.
    """
    sides = map_sides(network, channels, image_size)
    least = {"coarse": min(CELLS, image_size // CELL_PIXELS), "fine": CELLS}
    return {kind: [name for name, side in sides.items() if side >= min(least[kind], max(sides.values()))][-1]
            for kind in KINDS} if sides else {}


def map_sides(network: nn.Module, channels: int, image_size: int) -> dict[str, int]:
    """Layers whose output is a square map, from the image to the head, and how many cells a side it has.

    Of ours all stages, of timm's networks the ends of stages. Of a transformer with a class token there is one: the
    norm through which that token last reads the patches, or first where it joins them only behind the last block;
    what lies behind reaches the class token no more, what lies before is mixed further. Of an XCiT trained on the demo
    the hottest pixel is inside 18 % and, by HiResCAM, 27 % of 230 times there; at the last block's norm 6 % and 12 %.
    """
    if isinstance(network, Network):
        return _sides_of_stages(network, channels, image_size)
    info = getattr(network, "feature_info", None) or []
    stages = info if isinstance(info, list) else info.info
    modules = dict(network.named_modules())
    sides = {stage["module"]: image_size // stage["reduction"] for stage in stages if stage["module"] in modules}
    if hasattr(network, "blocks") and hasattr(network, "cls_token"):
        joined = next((name for name in CLASS_BLOCKS if name in modules), None)
        norm = f"{joined}.0.norm1" if joined else f"blocks.{len(network.blocks) - 1}.norm1"
        return {norm: image_size // stages[-1]["reduction"]} if norm in modules else {}
    return sides


def _sides_of_stages(network: Network, channels: int, image_size: int) -> dict[str, int]:
    """Computed by one forward pass on torch's meta device."""
    sides = {}

    def note(name: str, output: Tensor) -> None:
        if output.ndim == 4 and output.shape[2] == output.shape[3] > 1:
            sides[name] = output.shape[3]

    hooks = [stage.register_forward_hook(lambda _, __, output, name=name: note(name, output))
             for name, stage in network.named_children() if not isinstance(stage, nn.Dropout)]
    state = {name: torch.empty_like(value, device="meta") for name, value in network.state_dict().items()}
    was_training = network.training
    try:
        with torch.no_grad():
            image = torch.empty(1, channels, image_size, image_size, device="meta")
            functional_call(network.eval(), state, image)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return sides
