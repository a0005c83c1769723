"""The head of a network: taken out, put back, replaced by a fitted one, or trained alone on features."""

from torch import Tensor, nn
from torch.nn import functional as F

from experiment import Experiment
from models.classifier import Classifier, PerTask, head_names
from models.knn_head import KNNHead
from models.svm_head import SupportVectors


def uses_features(experiment: Experiment) -> bool:
    """True if the backbone is never trained and every image always looks the same, so that features are computed once.
    """
    frozen = experiment.head_fit != "gradient" or all(stage.what == "head" for stage in experiment.plan)
    constant = experiment.augmentation == "none" and experiment.mix == "none" and experiment.tta == ("identity",)
    return frozen and constant and not experiment.per_task


def head_name(model: Classifier | PerTask) -> str:
    """The name, in the model, of the one layer or stack of layers that maps features (B, D) to logits.

    Raises ValueError if there is not exactly one.
    """
    names = head_names(model)
    if len(names) != 1 or isinstance(model.get_submodule(names[0]), nn.Identity):
        raise ValueError("this network has no single head behind a vector of features; train it as a whole, with "
                         "head_fit=gradient and other stages than head")
    return names[0]


def take_head(model: Classifier) -> nn.Module:
    """Replaces the head by an identity and returns it; the model's output is then its features (B, D)."""
    name = head_name(model)
    head = model.get_submodule(name)
    model.set_submodule(name, nn.Identity())
    return head


def put_head(model: Classifier, name: str, head: nn.Module) -> Classifier:
    """Puts a head at the place that `head_name` returned; returns the model."""
    model.set_submodule(name, head)
    if isinstance(head, KNNHead):  # its neighbours change in jumps, so it has no useful gradient
        model.cam_layers = {}
    return model


class FeatureClassifier(nn.Module):
    """A head alone: features (B, D) to logits (B, K), with the dropout that precedes it in the network.

    The head is shared, not copied: what is trained here is trained in the network that it came from.
    """

    def __init__(self, head: nn.Module, dropout: float):
        super().__init__()
        self.head, self.dropout = head, dropout

    def forward(self, features: Tensor) -> Tensor:
        return self.head(F.dropout(features, self.dropout, self.training))

    def clip_units(self) -> list[nn.Module]:
        """The modules whose gradients are clipped separately."""
        return [self]


def fit_head_to(model: Classifier, saved: dict[str, Tensor], exclusive: bool) -> None:
    """Replaces the head by one of the kind and size that saved weights have.

    saved: a state dict;  exclusive: True for classes, of which exactly one is present.
    """
    name = head_name(model)
    if f"{name}.vectors" in saved:
        vectors, outputs = saved[f"{name}.vectors"], saved[f"{name}.intercept"]
        put_head(model, name, SupportVectors(*vectors.shape, len(outputs), exclusive))
    elif f"{name}.cases" in saved:
        put_head(model, name, KNNHead(*saved[f"{name}.cases"].shape, *saved[f"{name}.prior"].shape, exclusive))
    elif f"{name}.weight" in saved:  # logistic regression, whatever layers the network had here
        outputs, features = saved[f"{name}.weight"].shape
        put_head(model, name, nn.Linear(features, outputs))
