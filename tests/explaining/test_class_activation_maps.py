"""Grad-CAM against captum, both methods against networks whose answer is known, on tokens, and with nothing to see."""

from collections.abc import Callable

import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import nn

from common.hardware import import_torchvision
from explaining.attribution import cam_layer, grad_cam, hires_cam
from models.cam_layers import KINDS
from models.classifier import Classifier, PerTask, build_model

TOKEN_NETWORKS = ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "cait_xxs24_224",
                  "swin_tiny_patch4_window7_224"]


@pytest.fixture(autouse=True)
def torchvision():
    import_torchvision()


def random_images(size: int, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, channels, size, size), generator=generator, dtype=torch.uint8)


def build(network: str, size: int, **options) -> nn.Module:
    """A network with a random head: ours start at zero, where every map is empty."""
    torch.manual_seed(0)
    model = build_model(network, 1, size, 3, **options).eval()
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.normal_(head.weight, std=0.1)
    return model


def captum_heat(model: nn.Module, images: torch.Tensor, label: int) -> torch.Tensor:
    heat = LayerGradCam(model, model.cam_layer()).attribute(images.float(), target=label, relu_attributions=True)
    heat = LayerAttribution.interpolate(heat, tuple(images.shape[2:]), "bilinear")[:, 0].detach()
    peak = heat.amax(dim=(1, 2), keepdim=True)
    return heat / peak.where(peak > 0, torch.ones(()))


def cam(model: nn.Module, images: torch.Tensor, label: int, method: Callable = grad_cam) -> tuple[torch.Tensor, ...]:
    maps = method(model, images, label)
    return maps.heat, maps.empty


def hottest(heat: torch.Tensor) -> tuple[int, int]:
    return divmod(int(heat[0].argmax()), heat.shape[2])


class BrightSpots(nn.Module):
    """A logit for bright places, one for dark ones: its convolution's two maps are the image and its negative."""

    def __init__(self, gain: float = 1.0, squash: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.conv.weight.data = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
        self.gain, self.squash = gain, squash

    def forward(self, images):
        logits = self.gain * self.conv(images).relu().mean(dim=(2, 3))
        return logits.sigmoid() if self.squash else logits


def classifier(network: nn.Module, layer: str) -> Classifier:
    return Classifier(network, 1, (0.5,), (0.25,), dict.fromkeys(KINDS, layer))


def bright_spots(**options) -> Classifier:
    network = BrightSpots(**options)
    return classifier(network, "conv")


def square_image() -> torch.Tensor:
    image = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    image[:, :, 20:26, 4:10] = 255
    return image


@pytest.mark.parametrize("network", ["cnn_a", "cnn_b", "cnn_c", "cnn_e", "resnet18", "tf_efficientnet_lite0"])
def test_maps_are_captums(network):
    model, images = build(network, 64), random_images(64)
    compared = 0
    for label in range(3):
        heat, empty = cam(model, images, label)
        expected = captum_heat(model, images, label)
        torch.testing.assert_close(heat[~empty], expected[~empty], rtol=1e-4, atol=1e-4)
        compared += int((~empty).sum())
    assert compared >= 3


class Corner(nn.Module):
    """A logit for brightness in the upper left, against it in the lower right: no feature matters on the mean."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.conv.weight)
        self.output = nn.Linear(16, 1)
        nn.init.zeros_(self.output.weight)
        self.output.weight.data[0, [0, 15]] = torch.tensor([1.0, -1.0])

    def forward(self, images):
        return self.output(self.conv(images).flatten(1))


def test_hirescam_knows_in_which_cell_a_feature_matters():
    model, image = classifier(Corner(), "conv"), torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    assert cam(model, image, 0)[1].all()  # the mean gradient is 0
    heat, empty = cam(model, image, 0, hires_cam)
    assert not empty.any() and heat[0, 0, 0] == 1 and heat.sum() == 1


def test_hirescam_is_the_product_of_values_and_gradients():
    """With a ReLU behind the layer, and a linear layer over all its cells, worked out by hand."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 64, 2))
    model, images = classifier(network, "0"), random_images(8)
    values = network[0](model.normalise(images)).detach()
    for label in range(2):
        by_hand = (values.relu() * network[3].weight[label].detach().reshape(5, 8, 8)).sum(dim=1).relu()
        heat, _ = cam(model, images, label, hires_cam)
        torch.testing.assert_close(heat, by_hand / by_hand.amax(dim=(1, 2), keepdim=True), rtol=1e-4, atol=1e-5)


def test_behind_a_mean_of_the_map_both_methods_are_one():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    maps = [cam(classifier(network, "0"), random_images(16), 1, method)[0] for method in (grad_cam, hires_cam)]
    torch.testing.assert_close(*maps)


@pytest.mark.parametrize("network", TOKEN_NETWORKS)
def test_tokens_become_maps(network):
    heat, empty = cam(build(network, 64), random_images(64), 0)
    assert heat.shape == (3, 64, 64)
    assert not empty.all()
    assert heat[~empty].amax(dim=(1, 2)).eq(1).all()


def test_class_tokens_are_left_out():
    """The map of a ViT is its patches' in their rows and columns: a patch that alone decides is the hottest."""
    class Tokens(nn.Module):
        num_prefix_tokens = 1

        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(1, 1, 8, stride=8, bias=False)
            nn.init.constant_(self.patches.weight, 1 / 64)
            self.norm = nn.Identity()

        def forward(self, images):
            tokens = self.patches(images).flatten(2).transpose(1, 2)           # (B, 16, 1)
            tokens = torch.cat([torch.full_like(tokens[:, :1], 99), tokens], 1)  # a class token larger than all
            return self.norm(tokens).relu()[:, 1:].sum(dim=1)                    # (B, 1)

    network, image = Tokens(), torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    image[:, :, 16:24, 8:16] = 255  # the patch in row 2, column 1
    heat, empty = cam(classifier(network, "norm"), image, 0)
    assert not empty.any()
    row, column = hottest(heat)
    assert 16 <= row < 24 and 8 <= column < 16


@pytest.mark.parametrize("label, is_inside", [(0, True), (1, False)])
def test_hottest_pixel_is_where_the_evidence_is(label, is_inside):
    heat, empty = cam(bright_spots(), square_image(), label)
    row, column = hottest(heat)
    assert not empty[0]
    assert (20 <= row < 26 and 4 <= column < 10) is is_inside


def test_gradient_is_the_logits_not_the_probabilitys():
    """Where the network is sure the sigmoid is flat and its gradient zero in float32; the logit's is not."""
    sure, flat = bright_spots(gain=1e4), bright_spots(gain=1e4, squash=True)
    heat, empty = cam(sure, square_image(), 0)
    assert not empty[0] and heat.max() == 1
    assert cam(flat, square_image(), 0)[1].all()


def test_a_map_without_evidence_is_empty():
    heat, empty = cam(bright_spots(), torch.zeros(2, 1, 32, 32, dtype=torch.uint8), 0)
    assert empty.tolist() == [True, True]
    assert heat.eq(0).all()


def test_one_empty_map_leaves_the_others_as_they_are():
    images = torch.cat([torch.zeros_like(square_image()), square_image()])
    heat, empty = cam(bright_spots(), images, 0)
    assert empty.tolist() == [True, False]
    torch.testing.assert_close(heat[1:], cam(bright_spots(), square_image(), 0)[0])


def test_noise_of_rounding_is_not_a_map():
    """Two features that cancel leave 1e-8 of themselves: that is no evidence."""
    class Cancelling(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1, bias=False)
            self.conv.weight.data = torch.tensor([1.0, 1.0 + 1e-7]).reshape(2, 1, 1, 1)

        def forward(self, images):
            maps = self.conv(images)
            return (maps[:, 1] - maps[:, 0]).mean(dim=(1, 2))[:, None]

    network = Cancelling()
    heat, empty = cam(classifier(network, "conv"), square_image(), 0)
    assert empty.all() and heat.eq(0).all()


def test_an_activation_in_place_changes_no_map():
    """The layer's own output counts, not what a ReLU behind it makes of it."""
    def sequential(in_place: bool) -> Classifier:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=in_place), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                nn.Linear(4, 2))
        return classifier(network, "0")

    torch.testing.assert_close(*(cam(sequential(in_place), random_images(16), 0)[0] for in_place in (True, False)))


def test_frozen_weights_are_explained_too():
    model = build("cnn_b", 64)
    expected = cam(model, random_images(64), 0)[0]
    torch.testing.assert_close(cam(model.requires_grad_(False), random_images(64), 0)[0], expected)


def test_dropout_is_off_and_nothing_is_left_behind():
    model = build("cnn_e", 64)
    expected = cam(model, random_images(64), 0)[0]
    torch.testing.assert_close(cam(model.train(), random_images(64), 0)[0], expected)
    assert not model.cam_layer()._forward_hooks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_label_of_its_own_network_is_explained_by_that_network():
    first, second = (bright_spots() for _ in range(2))
    second.network.conv.weight.data *= -1  # there, bright places speak against the label
    model = PerTask([first, second])
    heat, empty = zip(*(cam(model, square_image(), label) for label in (0, 1)), strict=True)
    torch.testing.assert_close(heat[0], cam(first, square_image(), 0)[0])
    torch.testing.assert_close(heat[1], cam(second, square_image(), 0)[0])
    assert cam_layer(model, 1) is second.network.conv


@pytest.mark.parametrize("network", ["lstm", "mlp_a", "mlp_b"])
def test_a_network_without_a_map_is_refused(network):
    model = build(network, 16)
    assert cam_layer(model) is None
    with pytest.raises(ValueError, match="no convolution or tokens"):
        cam(model, random_images(16), 0)
