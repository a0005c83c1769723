"""What learns and how fast: frozen parts stay to the bit, layers nearer to the image learn more slowly."""

import pytest
import torch
from torch import nn

from models.classifier import build_model, head_modules
from training.optimization import build_optimizer, freeze_modes, set_trainable, weight_groups


def learning(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    freeze_modes(model)
    images = torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (model(images) - 1).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("network", ["cnn_b", "mlp_b", "test_resnet", "test_vit", "test_efficientnet"])
def test_a_frozen_backbone_and_its_batch_norm_do_not_change(network):
    torch.manual_seed(0)
    model = build_model(network, 1, 64, 3, dropout=0.2)
    set_trainable(model, "head")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one_step(model, build_optimizer(model, "sgd", 0.1, 0.0))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and changed <= learning(model)
    heads = {id(parameter) for head in head_modules(model) for parameter in head.parameters()}
    assert {id(parameter) for parameter in model.parameters() if parameter.requires_grad} == heads


def test_a_frozen_backbone_gives_the_features_it_gives_in_evaluation():
    torch.manual_seed(0)
    model = build_model("test_efficientnet", 1, 64, 3, dropout=0.0)
    set_trainable(model, "head")
    nn.init.normal_(head_modules(model)[0].weight)
    images = torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8)
    model.train()
    freeze_modes(model)
    training = model(images)
    torch.testing.assert_close(training, model.eval()(images))


def test_dropout_is_off_in_frozen_parts_alone():
    model = build_model("cnn_e", 1, 64, 3)
    for what, dropping in (("head", 0), ("last2", 2), ("all", 5)):
        set_trainable(model, what)
        model.train()
        freeze_modes(model)
        assert sum(each.training for each in model.modules() if isinstance(each, nn.Dropout)) == dropping


def test_after_a_stage_of_the_head_all_can_learn_again():
    model = build_model("cnn_b", 1, 64, 3)
    set_trainable(model, "head")
    assert learning(model) == {"network.output.weight", "network.output.bias"}
    set_trainable(model, "last2")
    assert learning(model) == {f"network.{layer}.{kind}" for layer in ("output", "hidden2", "hidden1")
                               for kind in ("weight", "bias")}
    set_trainable(model, "all")
    assert learning(model) == {name for name, _ in model.named_parameters()}


def test_more_layers_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="backbone has 5 layers with weights"):
        set_trainable(build_model("cnn_b", 1, 64, 3), "last6")


def test_layer_decay_slows_early_layers_and_spares_biases():
    model = build_model("mlp_a", 1, 64, 3)
    optimizer = build_optimizer(model, "adamw", 0.1, 0.05, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(parameter)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups
             for parameter in group["params"]}
    assert found == {
        "network.hidden1.weight": (0.025, 0.05), "network.hidden1.bias": (0.025, 0),
        "network.hidden2.weight": (0.05, 0.05), "network.hidden2.bias": (0.05, 0),
        "network.output.weight": (0.1, 0.05), "network.output.bias": (0.1, 0)}


@pytest.mark.parametrize("network", ["cnn_e", "lstm", "test_resnet", "test_vit"])
@pytest.mark.parametrize("layer_decay", [1.0, 0.9])
def test_every_weight_that_learns_is_in_one_group(network, layer_decay):
    model = build_model(network, 1, 64, 3)
    grouped = [id(parameter) for group in build_optimizer(model, "adamw", 0.1, 0.05, layer_decay).param_groups
               for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize("kind, libraries", [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam),
                                             ("sgd", lambda groups, lr: torch.optim.SGD(groups, lr, momentum=0.9))])
def test_an_optimizer_steps_as_the_librarys_does(kind, libraries):
    ours, theirs = (nn.Linear(3, 2) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    first, second = build_optimizer(ours, kind, 0.1, 0.05), libraries(weight_groups(theirs, 0.05), 0.1)
    for _ in range(3):
        for model, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
