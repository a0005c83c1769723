"""The choices of an experiment: network, weights, image size, augmentation, loss, schedule, label policies, seed."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

from common.settings import NUMBER, WHOLE, check_form
from competition import check_choices

CHEXPERT_COPIES = (  # with which 001 trained; Lung Opacity, Pleural Effusion and Support Devices had none
    "No Finding=4", "Enlarged Cardiomediastinum=1", "Cardiomegaly=1", "Lung Lesion=9", "Edema=1", "Consolidation=1",
    "Pneumonia=1", "Atelectasis=1", "Pneumothorax=1", "Pleural Other=10", "Fracture=8")

# forms of values that no registry lists, and a regular expression for each
WEIGHTS = {"none": "none", "imagenet": "imagenet", "run:NAME": r"run:[^:]+",
           "FILE": r"[^:]*\.(?:safetensors|pt|pth|bin)"}
STAGES = {"head:EPOCHS:LR": f"head:{WHOLE}:{NUMBER}", "lastN:EPOCHS:LR": rf"last\d+:{WHOLE}:{NUMBER}",
          "all:EPOCHS:LR": f"all:{WHOLE}:{NUMBER}"}
REPEATS = {"NUMBER": WHOLE}  # of an entry of label_repeats


@dataclass(frozen=True)
class Stage:
    """Some epochs in which a part of the network is trained."""

    what: str    # "all"; "head": the layers behind the backbone; "last8": the head and the last 8 layers with weights
    epochs: int  # at most; fewer where `patience` ends them
    lr: float    # peak


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that is chosen for a run. Text, numbers and flags only, so that a recipe is saved as JSON.

    The comment of a field is its line in `python src/train.py --fields`. Names in fields of text are entries of the
    registry that training/recipe_checks.py gives for the field; they are checked there, before anything is trained.
    Raises ValueError where a value is out of its range, or two fields contradict each other.
    """

    network: str = "cnn_e"               # a network of ours, or any timm name: python src/show_networks.py
    weights: str = "none"                # where training starts; run:NAME is the same fold of another run
    head: str = "linear"                 # layers between a timm network's pooled features and the logits
    head_fit: str = "gradient"           # how the head is fitted; all but gradient use features computed once
    per_task: bool = False               # one network for each label
    image_size: int = 64                 # side of the square image in pixels
    colour: Literal["competition", "grey", "rgb"] = "competition"  # channels that are stored and trained on
    resize_mode: Literal["squash", "letterbox"] = "squash"  # into the square; letterbox keeps the aspect ratio
    preprocessing: tuple[str, ...] = ()  # steps in this order, before pixels are stored
    dropout: float = 0.0                 # before the last layer of timm networks; ours have their own
    augmentation: str = "none"           # random changes of training images
    mix: str = "none"                    # mixes pairs of images of a batch, and their losses
    loss: str = "cross_entropy"          # of labels or of classes, by the task
    label_smoothing: float = 0.0         # share of a target that is spread evenly
    epochs: int = 10                     # number of epochs
    batch_size: int = 32                 # images of a training step
    accumulate: int = 1                  # parts in which a batch goes through the network, to save memory
    optimizer: str = "adamw"             # adam adds weight decay to the gradient; sgd has a momentum of 0.9
    lr: float = 1e-3                     # peak learning rate
    layer_decay: float = 1.0             # factor on lr from each layer with weights to the one before it
    schedule: str = "cosine"             # learning rate by step; plateau needs val_fraction
    warmup: float = 0.1                  # share of a stage's steps in which the learning rate climbs
    stages: tuple[str, ...] = ()         # what is trained, for how many epochs, at which lr; (): everything
    val_fraction: float = 0.0            # share of the training images held out for patience and plateau
    patience: int = 0                    # epochs without a better validation score that end a stage; 0: none do
    weight_decay: float = 1e-2           # of matrices and kernels; biases and norms do not decay
    ema_decay: float = 0.99              # moving average of the weights, per step; 0: none
    snapshots: tuple[int, ...] = ()      # epochs whose weights are also kept, as runs NAME_epoch8
    max_grad_norm: float = 1.0           # gradients are clipped to this norm
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # number format of training steps
    uncertain: tuple[str, ...] = ("ignore",)  # what -1 means in training: a policy, or Label=policy
    missing_labels: tuple[str, ...] = ("ignore",)  # what an empty cell means in training, likewise
    constant_images: Literal["drop", "one_per_label_vector", "keep"] = "drop"  # images of one grey value in training
    sampler: str = "natural"             # which training images an epoch shows, and how often
    label_repeats: tuple[str, ...] = ()  # Label=NUMBER for sampler=label_repeats: times its positives are shown
    loss_weights: Literal["none", "balanced", "pos_weight"] = "none"  # of labels or classes, from the training folds
    split: int = 0                       # which split of the folds file
    tta: tuple[str, ...] = ("identity",)  # views of an image whose logits are averaged in prediction
    seed: int = 0                        # of weights, order, augmentation and drawn targets

    @property
    def plan(self) -> tuple[Stage, ...]:
        """The stages of training; one where none are named."""
        parts = (stage.split(":") for stage in self.stages or (f"all:{self.epochs}:{self.lr!r}",))
        return tuple(Stage(what, int(epochs), float(lr)) for what, epochs, lr in parts)

    def __post_init__(self):
        check_choices(self)
        check_form("weights", self.weights, WEIGHTS)
        for stage in self.stages:
            check_form("stages", stage, STAGES)
        for name in ("image_size", "epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("lr", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("weight_decay", "seed", "split", "patience"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name in ("dropout", "ema_decay", "warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if self.accumulate > 1 and self.batch_size < 2 * self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} with batch_size={self.batch_size}: batch norm needs at "
                             "least two images in each part")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be in (0, 1], not {self.layer_decay}")
        if self.val_fraction and not 0.01 <= self.val_fraction <= 0.5:
            raise ValueError(f"val_fraction must be 0 or in [0.01, 0.5], not {self.val_fraction}")
        self._check_stages()
        if self.snapshots:
            self._check_snapshots()
        for name, example in (("tta", "identity"), ("uncertain", "ignore"), ("missing_labels", "ignore")):
            if not getattr(self, name):
                raise ValueError(f'{name} must have at least one entry, for example "{example}"')

    def _check_snapshots(self) -> None:
        where = f"snapshots={','.join(map(str, self.snapshots))}"
        if list(self.snapshots) != sorted(set(self.snapshots)) or not (
                1 <= self.snapshots[0] and self.snapshots[-1] < self.epochs):
            raise ValueError(f"{where}: must be different epochs in ascending order, from 1 to {self.epochs - 1}; the "
                             f"last epoch, {self.epochs}, is the run itself")
        if self.patience or self.head_fit != "gradient":
            other = f"patience={self.patience}" if self.patience else f"head_fit={self.head_fit}"
            raise ValueError(f"{where} with {other}: training may end before these epochs; set one of the two")

    def _check_stages(self) -> None:
        for stage in self.plan:
            if stage.epochs < 1 or not 0 < stage.lr < math.inf:
                raise ValueError(f"stages={','.join(self.stages)}: every stage needs at least one epoch and an "
                                 "lr above 0")
        if self.stages and (total := sum(stage.epochs for stage in self.plan)) != self.epochs:
            raise ValueError(f"stages={','.join(self.stages)} are {total} epochs, but epochs is {self.epochs}; set "
                             f"epochs={total}")


SCRATCH = Experiment()
LITE0 = Experiment(network="tf_efficientnet_lite0", weights="imagenet", augmentation="warp", epochs=8, lr=2e-3,
                   dropout=0.2)
# where the test images come from elsewhere: stronger augmentation, and the mean over three scales
STRONG = replace(LITE0, image_size=128, augmentation="warp_strong", epochs=5, tta=("identity", "zoom_in", "zoom_out"))
# heads on features that are computed once. Dropout costs as much as all else that a head does; without it the accuracy
# on pneumonia3 was 0.767, with it 0.781
LITE0_FROZEN = Experiment(network="tf_efficientnet_lite0", weights="imagenet", image_size=128, batch_size=128,
                          stages=("head:20:1e-2",), epochs=20, dropout=0.2)
# fitted at once: no epochs, no average
LITE0_FITTED = Experiment(network="tf_efficientnet_lite0", weights="imagenet", image_size=128, epochs=1, ema_decay=0.0,
                          head_fit="logistic")
PIXELS_FITTED = replace(LITE0_FITTED, network="pixels", weights="none", image_size=64)

# how the reference systems trained (models/architectures.py, models/reference_networks.py), corrected where they were
# wrong, as each comment says; first Adam as they had it, without decay, warm-up and average
PLAIN = replace(SCRATCH, optimizer="adam", schedule="constant", warmup=0.0, weight_decay=0.0, ema_decay=0.0)
# 000. Corrected: images normalised as the weights expect, in prediction too; no flip; uncertain labels drawn anew every
# epoch. Kept: the rate halved every epoch, and dropout of 0.9 between two layers without activation
DENSENET_000 = replace(PLAIN, network="densenet121", weights="imagenet", head="two_linear:500", dropout=0.9,
                       image_size=224, augmentation="rotate7_crop", lr=1e-4, schedule="step:1:0.5", epochs=8,
                       batch_size=64, uncertain=("uniform:0.55:0.85",), missing_labels=("zeros",))
# corrected there too: one layer, and a rate that falls slowly
MEMBER_000 = replace(DENSENET_000, head="linear", dropout=0.2, schedule="cosine", warmup=0.1)
# 001. Corrected: images normalised as the weights expect; a frozen backbone's batch norm is frozen too
DENSENET_001 = replace(PLAIN, network="densenet121", weights="imagenet", head="hidden:1024", image_size=224, lr=1e-4,
                       epochs=3, uncertain=("ones",), missing_labels=("zeros",))
# 002. Corrected: training is stopped by the competition's score on a validation split, not by the accuracy
CNN_002 = replace(PLAIN, network="cnn_002", image_size=256, preprocessing=("clahe", "blur"), augmentation="dropblock",
                  mix="mixup:0.2", loss_weights="balanced", schedule="plateau:15:0.1", patience=30, val_fraction=0.1,
                  epochs=300, batch_size=256)
# last8: its "last ten layers" are eight convolutions and two pools. An epoch shows all images, not 81 %
VGG_002 = replace(CNN_002, network="vgg19_002", weights="imagenet", head="hidden:128", dropout=0.5, augmentation="none",
                  schedule="constant", stages=("head:100:1e-4", "last8:100:1e-5", "all:100:1e-6"), patience=15,
                  batch_size=128)
# 004
RESNET_004 = replace(SCRATCH, network="resnet101", weights="imagenet", image_size=224, augmentation="warp",
                     stages=("head:20:1e-3",), epochs=20, ema_decay=0.0)

# the networks of 003 (see models/architectures.py), each as one multi-label network
NETWORKS_003 = {
    "cnn_a": replace(SCRATCH, network="cnn_a"),
    "cnn_b": replace(SCRATCH, network="cnn_b", epochs=15),
    "cnn_c": replace(SCRATCH, network="cnn_c"),
    "cnn_d": replace(SCRATCH, network="cnn_d", epochs=15),
    "cnn_e": SCRATCH,
    "lstm": replace(SCRATCH, network="lstm", epochs=12),
    "mlp_a": replace(SCRATCH, network="mlp_a", epochs=15),
    "mlp_b": replace(SCRATCH, network="mlp_b", epochs=15),
}

EXPERIMENTS = {
    **NETWORKS_003,
    # the same, one network a label, as 003 had them; a logit's binary loss is its cross-entropy of two classes
    **{f"{name}_per_task": replace(experiment, per_task=True) for name, experiment in NETWORKS_003.items()},
    # its best network trained as there, and what was tried around it: 5 epochs were too few, more than 10 too many, and
    # Adam at 1e-3 best. Corrected: class weights rise with rarity, stopping looks at a validation split
    "cnn_e_003": PLAIN,
    "cnn_e_003_lr_hundredth": replace(PLAIN, lr=1e-2),
    "cnn_e_003_lr_tenth": replace(PLAIN, lr=1e-1),
    "cnn_e_003_sgd": replace(PLAIN, optimizer="sgd", lr=1e-2),
    "cnn_e_003_5_epochs": replace(PLAIN, epochs=5),
    "cnn_e_003_20_epochs": replace(PLAIN, epochs=20),
    "cnn_e_003_stopped": replace(PLAIN, epochs=50, patience=5, val_fraction=0.1),
    "cnn_e_003_balanced": replace(PLAIN, loss_weights="balanced"),
    "cnn_e_003_per_task": replace(PLAIN, per_task=True),
    # otherwise
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
    # 000
    "densenet121_000": DENSENET_000,
    "densenet121_000_corrected": MEMBER_000,
    "efficientnet_b5_000": replace(DENSENET_000, network="tf_efficientnet_b5", head="linear", dropout=0.4, lr=1e-3,
                                   image_size=456, batch_size=6, epochs=12),
    "combined_000": replace(DENSENET_000, network="combined_000", head="linear", dropout=0.0, schedule="step:1:0.1",
                            batch_size=8, epochs=7),
    "combined_000_pooled": replace(MEMBER_000, network="combined_pooled_000", batch_size=8),
    # the other five of the six, whose predictions are to be blended with those of densenet121_000_corrected; a VGG's
    # mean map gets a hidden layer in place of the two that its classifier had
    "densenet169_000": replace(MEMBER_000, network="densenet169"),
    "densenet201_000": replace(MEMBER_000, network="densenet201"),
    "mnasnet_000": replace(MEMBER_000, network="mnasnet_100"),
    "vgg19_bn_000": replace(MEMBER_000, network="vgg19_bn", head="hidden:512"),
    "vgg19_000": replace(MEMBER_000, network="vgg19", head="hidden:512"),
    # 001; rare positives are repeated inside the training folds, and images without one are kept
    "densenet121_001_frozen": replace(DENSENET_001, stages=("head:3:1e-4",)),
    "densenet121_001": DENSENET_001,
    "densenet121_001_balanced": replace(DENSENET_001, sampler="label_repeats", label_repeats=CHEXPERT_COPIES),
    "vgg16_001": replace(DENSENET_001, network="vgg16"),
    "resnet50_001": replace(DENSENET_001, network="resnet50"),
    # 002
    "cnn_002": CNN_002,
    "darknet19_002": replace(CNN_002, network="darknet19_002", lr=3e-3, schedule="plateau:10:0.1", patience=15,
                             epochs=100, batch_size=64),
    "vgg19_002": VGG_002,
    # its notebook is lost: the head, the size and the batch are of its paper (Khan et al. 2020) and its README
    "xception_002": replace(VGG_002, network="legacy_xception", head="hidden:256", image_size=299, batch_size=32,
                            stages=("head:100:1e-4", "all:100:1e-5"), epochs=200),
    # 004; no rate, size or augmentation is given there
    "resnet101_004": RESNET_004,
    "resnet18_front_004": replace(RESNET_004, network="resnet18_front_004", stages=(), lr=1e-4),
    # one epoch of the smallest network, to see that everything runs
    "smoke": replace(SCRATCH, network="cnn_d", epochs=1),
    # heads on features that are computed once; 003 had the support vector machines
    "lite0_frozen": LITE0_FROZEN,
    "lite0_frozen_224": replace(LITE0_FROZEN, image_size=224),
    "logistic_lite0": LITE0_FITTED,
    "logistic_lite0_224": replace(LITE0_FITTED, image_size=224),
    "svc_lite0": replace(LITE0_FITTED, head_fit="svc"),
    "svc_lite0_224": replace(LITE0_FITTED, head_fit="svc", image_size=224),
    "logistic_pixels": PIXELS_FITTED,
    "svc_pixels": replace(PIXELS_FITTED, head_fit="svc"),
    # 004 had nearest neighbours, of features it says too little about
    "knn_lite0": replace(LITE0_FITTED, head_fit="knn"),
    "knn_lite0_224": replace(LITE0_FITTED, head_fit="knn", image_size=224),
    "knn_pixels": replace(PIXELS_FITTED, head_fit="knn"),
}


def to_recipe(experiment: Experiment) -> dict:
    """The experiment as JSON can hold it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(experiment).items()}


def from_recipe(recipe: dict) -> Experiment:
    """The experiment of `to_recipe`; fields that the recipe lacks have their defaults.

    Raises ValueError where a field is unknown.
    """
    if unknown := sorted(set(recipe) - {field.name for field in fields(Experiment)}):
        raise ValueError(f"the recipe has the fields {unknown}, which this version does not know")
    return Experiment(**{name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()})
