"""What we choose: network, weights, image size, augmentation, schedule, label policy, views, seed."""

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from competition import check_choices

Description = TypeVar("Description")

NUMBER = r"(?:\d+\.?\d*|\.\d+)"
# fields whose entries hold for all labels, "zeros", or for one, "Edema=zeros": what may stand there, each as a pattern
BY_LABEL = {
    "uncertain": {"ignore": "ignore", "zeros": "zeros", "ones": "ones", "mean": "mean",
                  "uniform:LOW:HIGH": f"uniform:{NUMBER}:{NUMBER}", "self:RUN": "self:.+"},
    "blank": {"ignore": "ignore", "zeros": "zeros"},
    "copies": {"NUMBER": r"\d{1,4}"},
}
CHEXPERT_COPIES = (  # with which 001 trained; Lung Opacity, Pleural Effusion and Support Devices had none
    "No Finding=4", "Enlarged Cardiomediastinum=1", "Cardiomegaly=1", "Lung Lesion=9", "Edema=1", "Consolidation=1",
    "Pneumonia=1", "Atelectasis=1", "Pneumothorax=1", "Pleural Other=10", "Fracture=8")


def by_label(name: str, entries: Sequence[str]) -> dict[str, str]:
    """The values of a field of BY_LABEL by label; under "" the one that holds for all other labels, where there is one.

    Raises ValueError where an entry is not among the values (with the nearest one), or a label stands there twice.
    """
    known, found = BY_LABEL[name], {}
    for entry in entries:
        # the label is as short as it can be, and there is none if the whole entry is a value: runs may have a = in them
        match = re.fullmatch(rf"(?:(.+?)=)??({'|'.join(known.values())})", entry)
        if match is None:
            value = entry.rpartition("=")[2]
            kinds = {each.partition(":")[0]: each for each in known}
            near = difflib.get_close_matches(value.partition(":")[0], kinds, n=1)
            hint = f"; did you mean {kinds[near[0]]!r}?" if near else "."
            raise ValueError(f"{name}: there is no {value!r}{hint} An entry is VALUE or Label=VALUE, and the values "
                             f"are {', '.join(known)}")
        label, value = match[1] or "", match[2]
        if value.startswith("uniform:") and not 0 <= float(value.split(":")[1]) <= float(value.split(":")[2]) <= 1:
            raise ValueError(f"{name}: {value!r} must have 0 <= LOW <= HIGH <= 1")
        if name == "copies" and not label:
            raise ValueError(f"{name}: {entry!r} names no label; an entry is Label=NUMBER")
        if label in found:
            raise ValueError(f"{name}: {repr(label) if label else 'all labels'} has two values, {found[label]} and "
                             f"{value}")
        found[label] = value
    return found


def for_labels(name: str, entries: Sequence[str], labels: Sequence[str], default: str) -> tuple[str, ...]:
    """What a field of BY_LABEL says of each label, (K,) in their order, `default` where it says nothing.

    Raises ValueError where it names a label that is not there, with the nearest one.
    """
    found = by_label(name, entries)
    for label in found:
        if label and label not in labels:
            near = difflib.get_close_matches(label, labels, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(labels)}"
            raise ValueError(f"{name} names the label {label!r}, which is not there; {hint}")
    return tuple(found.get(label, found.get("", default)) for label in labels)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What we choose. Numbers, names and flags only, so that a recipe can be saved as JSON beside its weights."""

    network: str = "cnn_e"               # a key of NETWORKS, or any timm name
    weights: Literal["none", "imagenet"] = "none"
    per_task: bool = False               # one network a label, as 003 (see networks.py) trained them
    image_size: int = 64                 # pixels, square
    colour: Literal["competition", "grey", "rgb"] = "competition"  # what is stored and seen: grey, or red, green, blue
    fit: Literal["squash", "letterbox"] = "squash"  # into the square; letterbox keeps the aspect ratio, black beside it
    preprocessing: tuple[str, ...] = ()  # keys of PREPROCESSING, in this order, before pixels are stored
    dropout: float = 0.0                 # before the last layer of timm networks; ours have their own
    augmentation: str = "none"           # a key of AUGMENTATIONS
    epochs: int = 10                     # fixed: no epoch is chosen on the fold that is reported
    batch_size: int = 32
    lr: float = 1e-3                     # peak, reached after the warm-up
    warmup: float = 0.1                  # share of all steps
    weight_decay: float = 1e-2           # on matrices and kernels only, not on biases and norms
    ema_decay: float = 0.99              # of the weights, a step; climbs to this, 0 switches the average off
    max_grad_norm: float = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of training steps; predictions are always fp32
    uncertain: tuple[str, ...] = ("ignore",)  # what -1 means in training, scores never use it: a policy of labels.py
    #                                      for all labels and others by label, ("zeros", "Edema=uniform:0.55:0.85")
    blank: tuple[str, ...] = ("ignore",)  # what an empty cell means in training: "ignore" or "zeros", likewise
    black: Literal["drop", "one_per_label_vector", "keep"] = "drop"  # images of one grey value in training; they are
    #                                      predicted by the prior unless they are kept
    sampler: Literal["natural", "square_root", "balanced", "copies"] = "natural"  # which training images an epoch has
    copies: tuple[str, ...] = ()         # with that sampler: how often a positive of a label is seen, ("Hernia=10",)
    loss_weights: Literal["none", "balanced", "pos_weight"] = "none"  # of labels or classes, from the training folds
    split: int = 0                       # which of the folds file's splits, where it has several
    tta: tuple[str, ...] = ("identity",)  # keys of VIEWS, averaged; flips only where left and right mean the same
    seed: int = 0

    def __post_init__(self):
        check_choices(self)
        for name in ("image_size", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("lr", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("weight_decay", "seed", "split"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name in ("dropout", "ema_decay", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if not self.tta:
            raise ValueError('tta must name at least one view, for example "identity"')
        for name in ("uncertain", "blank"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name a policy, for example \"ignore\"")
        for name in BY_LABEL:
            by_label(name, getattr(self, name))
        if (self.sampler == "copies") != bool(self.copies):
            raise ValueError(f"sampler={self.sampler} with copies={','.join(self.copies) or '(none)'}: the sampler "
                             "'copies' needs them, Label=NUMBER, and no other has any")


SCRATCH = Experiment()
LITE0 = Experiment(network="tf_efficientnet_lite0", weights="imagenet", augmentation="warp", epochs=8, lr=2e-3,
                   dropout=0.2)
# where the test images come from elsewhere: stronger augmentation, and the mean over three scales
STRONG = replace(LITE0, image_size=128, augmentation="warp_strong", epochs=5, tta=("identity", "zoom_in", "zoom_out"))

EXPERIMENTS = {
    # the networks of 003 (see networks.py), each as one multi-label network
    "cnn_a": replace(SCRATCH, network="cnn_a"),
    "cnn_b": replace(SCRATCH, network="cnn_b", epochs=15),
    "cnn_c": replace(SCRATCH, network="cnn_c"),
    "cnn_d": replace(SCRATCH, network="cnn_d", epochs=15),
    "cnn_e": SCRATCH,
    "lstm": replace(SCRATCH, network="lstm", epochs=12),
    "mlp_a": replace(SCRATCH, network="mlp_a", epochs=15),
    "mlp_b": replace(SCRATCH, network="mlp_b", epochs=15),
    # the same, otherwise
    "cnn_b_per_task": replace(SCRATCH, network="cnn_b", epochs=15, per_task=True),
    "cnn_e_warp": replace(SCRATCH, augmentation="warp", epochs=20),
    "cnn_e_solt": replace(SCRATCH, augmentation="solt"),
    "cnn_e_solt003": replace(SCRATCH, augmentation="solt003"),
    "cnn_e_albumentations": replace(SCRATCH, augmentation="albumentations"),
    # rare labels more often, or more heavily
    "cnn_e_balanced": replace(SCRATCH, sampler="balanced"),
    "cnn_b_sqrt": replace(SCRATCH, network="cnn_b", epochs=15, sampler="square_root"),
    "cnn_b_pos_weight": replace(SCRATCH, network="cnn_b", epochs=15, loss_weights="pos_weight"),
    # pretrained on ImageNet
    "lite0": LITE0,
    "lite0_128": replace(LITE0, image_size=128),
    "lite0_128_strong": STRONG,
    "lite0_128_strong_short": replace(STRONG, epochs=3),
    "lite0_224": replace(LITE0, image_size=224),
    # uncertain labels as positives; as likely ones, with the range of 000; as the label's mean; as lite0 sees them
    "lite0_ones": replace(LITE0, uncertain=("ones",)),
    "lite0_uniform": replace(LITE0, uncertain=("uniform:0.55:0.85",)),
    "lite0_mean": replace(LITE0, uncertain=("mean",)),
    "lite0_self": replace(LITE0, uncertain=("self:lite0",)),
    # contrast evened out before the pixels are stored
    "lite0_clahe": replace(LITE0, preprocessing=("clahe", "blur")),
    # one epoch of the smallest network, to see that everything runs
    "smoke": replace(SCRATCH, network="cnn_d", epochs=1),
}


def override(description: Description, assignments: Sequence[str]) -> Description:
    """A copy with fields replaced as "name=value" says, the value read as the field's type.

    Raises ValueError where there is no such field (with the nearest one) or the value is not of its type.
    """
    hints = get_type_hints(type(description))
    changes = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"{assignment!r} is not NAME=VALUE")
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(hints)}"
            raise ValueError(f"no setting {name!r}; {hint}")
        changes[name] = _parse(name, text, hints[name])
    return replace(description, **changes)


def _parse(name: str, text: str, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        return tuple(_parse(name, item.strip(), get_args(kind)[0]) for item in text.split(",") if item.strip())
    if get_origin(kind) is Literal:
        if text not in map(str, get_args(kind)):
            raise ValueError(f"{name}={text}: must be one of {', '.join(map(str, get_args(kind)))}")
        return next(choice for choice in get_args(kind) if str(choice) == text)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{name}={text}: must be true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{name}={text}: must be a {'whole ' if kind is int else ''}number") from error


def to_recipe(experiment: Experiment) -> dict:
    """The experiment as JSON can hold it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(experiment).items()}


def from_recipe(recipe: dict) -> Experiment:
    """The experiment `to_recipe` gave; a field that came later has its default, which must mean what was done before.

    Label policies were once one name for all labels. Raises ValueError where a field is unknown.
    """
    if unknown := sorted(set(recipe) - {field.name for field in fields(Experiment)}):
        raise ValueError(f"the recipe has the fields {unknown}, which this version does not know")
    recipe = {name: (recipe[name],) if name in BY_LABEL and isinstance(recipe[name], str) else recipe[name]
              for name in recipe}
    return Experiment(**{name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()})
