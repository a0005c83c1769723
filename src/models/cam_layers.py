"""Which layers of a network give maps, and which of them Grad-CAM and HiResCAM read.

The layers were chosen on the demo, whose findings are known (tests/benchmarks/gradcam_layers.py). At 64 pixels the
hottest pixel of six networks lies inside the finding most often with Grad-CAM on the last map of at least 4 x 4 cells,
and with HiResCAM on the last of at least 5 x 5 to 8 x 8; both halves of the patients agree. At 128 pixels Grad-CAM was
better on 8 x 8 cells than on 4 x 4, so the pixels per cell matter. Larger images were not measured; they use the usual
7 x 7 cells.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.architectures import Network

KINDS = ("coarse", "fine")  # of layers: Grad-CAM reads the coarse one, HiResCAM the fine one
CELLS = 7         # per side, at least: the last map of networks for 224 pixels
CELL_PIXELS = 16  # the largest cell for Grad-CAM: 4 x 4 cells at 64 pixels
# names of the blocks in which the class token reads the patches, for families where it does so after the last block
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
    """Layers whose output is a square map, from the image to the head, and the number of cells per side.

    For this project's networks these are all stages, for timm's the ends of their stages. A transformer with a class
    token has one: the norm through which that token reads the patches for the last time, or for the first time if it
    joins them only after the last block. Later outputs do not reach the class token; earlier ones are mixed further. In
    an XCiT trained on the demo the hottest pixel there is inside the finding in 18 % (HiResCAM: 27 %) of 230 cases,
    and at the last block's norm in 6 % (12 %).
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
