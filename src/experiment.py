"""What we choose: network, weights, image size, augmentation, schedule, label policy, views, seed."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

from common.settings import BY_LABEL, WITH_NUMBERS, by_label, check_value, read_value
from competition import check_choices

CHEXPERT_COPIES = (  # with which 001 trained; Lung Opacity, Pleural Effusion and Support Devices had none
    "No Finding=4", "Enlarged Cardiomediastinum=1", "Cardiomegaly=1", "Lung Lesion=9", "Edema=1", "Consolidation=1",
    "Pneumonia=1", "Atelectasis=1", "Pneumothorax=1", "Pleural Other=10", "Fracture=8")


@dataclass(frozen=True)
class Stage:
    """Some epochs in which part of a network learns."""

    what: str                            # "all"; "head": the layers behind the backbone; "last8": the head and the last
    #                                      8 layers with weights
    epochs: int                          # at most, where `patience` ends them sooner
    lr: float                            # peak


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What we choose. Numbers, names and flags only, so that a recipe can be saved as JSON beside its weights."""

    network: str = "cnn_e"               # a key of NETWORKS, or any timm name
    weights: str = "none"                # where training starts: none, imagenet, a file of a timm network's weights, or
    #                                      run:NAME, the same fold of another run on the same split
    head: str = "linear"                 # behind a timm network's pooled features: linear; hidden:1024, a ReLU layer
    #                                      between; two_linear:500, two without one
    head_fit: Literal["gradient", "logistic", "svc", "knn"] = "gradient"  # all but the first fit the head at once on
    #                                      frozen features
    per_task: bool = False               # one network a label, as 003 (see models/architectures.py) trained them
    image_size: int = 64                 # pixels, square
    colour: Literal["competition", "grey", "rgb"] = "competition"  # what is stored and seen: grey, or red, green, blue
    resize_mode: Literal["squash", "letterbox"] = "squash"  # into the square; letterbox keeps the aspect ratio, black
    #                                      beside it
    preprocessing: tuple[str, ...] = ()  # keys of PREPROCESSING, in this order, before pixels are stored
    dropout: float = 0.0                 # before the last layer of timm networks; ours have their own
    augmentation: str = "none"           # a key of AUGMENTATIONS
    mix: str = "none"                    # of two images of a batch and their losses: mixup:0.2, cutmix:1
    loss: str = "cross_entropy"          # binary or of classes, by the task; or focal:2, asymmetric:4:1:0.05,
    #                                      auc_margin:1, soft_f1
    label_smoothing: float = 0.0         # share of a target that is spread evenly
    epochs: int = 10                     # fixed: no epoch is chosen on the fold that is reported
    batch_size: int = 32                 # images a step
    accumulate: int = 1                  # a step's images go through the network in so many parts: less memory
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"  # sgd has a momentum of 0.9
    lr: float = 1e-3                     # peak, reached after the warm-up
    layer_decay: float = 1.0             # factor on lr a layer with weights (lite0 has 50), from the head to the image
    schedule: str = "cosine"             # of lr: cosine, constant, one_cycle, step:EPOCHS:FACTOR, plateau:EPOCHS:FACTOR
    warmup: float = 0.1                  # share of all steps, of a stage's where there are stages
    stages: tuple[str, ...] = ()         # what learns for how many epochs at which lr, one after the other, as
    #                                      "head:5:1e-3", "last8:5:1e-4", "all:10:1e-5"; none: all, with epochs and lr
    val_fraction: float = 0.0            # share of the training folds' images, whole groups, set apart for the next two
    patience: int = 0                    # epochs without a better score there end a stage, with the best epoch's
    #                                      weights; 0: never. And schedule=plateau looks at that score.
    weight_decay: float = 1e-2           # on matrices and kernels only, not on biases and norms
    ema_decay: float = 0.99              # of the weights, a step; climbs to this, 0 switches the average off
    snapshots: tuple[int, ...] = ()      # epochs whose averaged weights are kept too, each as a run of its own to look
    #                                      at or to blend, NAME_epoch8
    max_grad_norm: float = 1.0
    precision: Literal["auto", "fp32", "bf16", "mixed"] = "auto"  # of training steps, predictions are always fp32;
    #                                      mixed: bf16, but depthwise convolutions in fp32; auto: a short trial says
    uncertain: tuple[str, ...] = ("ignore",)  # what -1 means in training, scores never use it: a policy of
    #                                      data/labels.py
    #                                      for all labels and others by label, ("zeros", "Edema=uniform:0.55:0.85")
    missing_labels: tuple[str, ...] = ("ignore",)  # what an empty cell means in training: "ignore" or "zeros", likewise
    constant_images: Literal["drop", "one_per_label_vector", "keep"] = "drop"  # images of one grey value in training;
    #                                      they are
    #                                      predicted by the prior unless they are kept
    sampler: Literal["natural", "square_root", "balanced", "label_repeats"] = "natural"  # which training images an
    #                                      epoch has
    label_repeats: tuple[str, ...] = ()  # with that sampler: how often a positive of a label is seen, ("Hernia=10",)
    loss_weights: Literal["none", "balanced", "pos_weight"] = "none"  # of labels or classes, from the training folds
    split: int = 0                       # which of the folds file's splits, where it has several
    tta: tuple[str, ...] = ("identity",)  # keys of VIEWS, averaged; flips only where left and right mean the same
    seed: int = 0

    @property
    def plan(self) -> tuple[Stage, ...]:
        """The stages of training, one where none are named."""
        parts = (stage.split(":") for stage in self.stages or (f"all:{self.epochs}:{self.lr!r}",))
        return tuple(Stage(what, int(epochs), float(lr)) for what, epochs, lr in parts)

    def __post_init__(self):
        check_choices(self)
        for name in WITH_NUMBERS:
            value = getattr(self, name)
            for each in value if isinstance(value, tuple) else (value,):
                check_value(name, each)
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
        kind, numbers = read_value(self.schedule)
        if numbers and not (numbers[0] >= 1 and 0 < numbers[1] <= 1):
            raise ValueError(f"schedule={self.schedule}: EPOCHS must be at least 1 and FACTOR in (0, 1]")
        if 0 in read_value(self.head)[1]:
            raise ValueError(f"head={self.head}: WIDTH must be at least 1")
        if self.accumulate > 1 and self.batch_size < 2 * self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} with batch_size={self.batch_size}: a part needs two images "
                             "at least, for batch norm")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be in (0, 1], not {self.layer_decay}")
        self._check_stages()
        if self.snapshots:
            self._check_snapshots()
        if not self.tta:
            raise ValueError('tta must name at least one view, for example "identity"')
        for name in ("uncertain", "missing_labels"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name a policy, for example \"ignore\"")
        for name in BY_LABEL:
            by_label(name, getattr(self, name))
        if (self.sampler == "label_repeats") != bool(self.label_repeats):
            raise ValueError(f"sampler={self.sampler} with label_repeats={','.join(self.label_repeats) or '(none)'}: the sampler "
                             "'copies' needs them, Label=NUMBER, and no other has any")

    def _check_snapshots(self) -> None:
        where = f"snapshots={','.join(map(str, self.snapshots))}"
        if list(self.snapshots) != sorted(set(self.snapshots)) or not (
                1 <= self.snapshots[0] and self.snapshots[-1] < self.epochs):
            raise ValueError(f"{where}: must be different epochs in their order, from 1 to {self.epochs - 1}; the "
                             f"last, {self.epochs}, is the run itself")
        if self.patience or self.head_fit != "gradient":
            other = f"patience={self.patience}" if self.patience else f"head_fit={self.head_fit}"
            raise ValueError(f"{where} with {other}: it is not known beforehand that there will be such epochs; set "
                             "one of the two")

    def _check_stages(self) -> None:
        for stage in self.plan:
            if stage.epochs < 1 or not 0 < stage.lr < math.inf:
                raise ValueError(f"stages={','.join(self.stages)}: every stage needs an epoch at least and an lr that "
                                 "is above 0")
        if self.stages and (total := sum(stage.epochs for stage in self.plan)) != self.epochs:
            raise ValueError(f"stages={','.join(self.stages)} are {total} epochs, but epochs is {self.epochs}; set "
                             f"epochs={total}")
        if self.val_fraction and not 0.01 <= self.val_fraction <= 0.5:
            raise ValueError(f"inner must be 0 or in [0.01, 0.5], a share of the training images, not {self.val_fraction}")
        watches = self.patience > 0 or self.schedule.startswith("plateau")
        if watches != (self.val_fraction > 0):
            raise ValueError(f"patience={self.patience} and schedule={self.schedule} with val_fraction={self.val_fraction:g}: they "
                             "look at the score of an inner split of the training folds, val_fraction=0.1, which nothing "
                             "else needs")


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

# what the reference systems trained with (models/architectures.py, models/reference_networks.py), corrected as is said
# where they
# were wrong; first Adam as they had it, without decay, warm-up and average
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
# 002. Corrected: training is stopped by the competition's score on an inner split, not by the accuracy
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

EXPERIMENTS = {
    # the networks of 003 (see models/architectures.py), each as one multi-label network
    "cnn_a": replace(SCRATCH, network="cnn_a"),
    "cnn_b": replace(SCRATCH, network="cnn_b", epochs=15),
    "cnn_c": replace(SCRATCH, network="cnn_c"),
    "cnn_d": replace(SCRATCH, network="cnn_d", epochs=15),
    "cnn_e": SCRATCH,
    "lstm": replace(SCRATCH, network="lstm", epochs=12),
    "mlp_a": replace(SCRATCH, network="mlp_a", epochs=15),
    "mlp_b": replace(SCRATCH, network="mlp_b", epochs=15),
    # the same, one network a label, as 003 had them; a logit's binary loss is its cross-entropy of two classes
    "cnn_a_per_task": replace(SCRATCH, network="cnn_a", per_task=True),
    "cnn_b_per_task": replace(SCRATCH, network="cnn_b", epochs=15, per_task=True),
    "cnn_c_per_task": replace(SCRATCH, network="cnn_c", per_task=True),
    "cnn_d_per_task": replace(SCRATCH, network="cnn_d", epochs=15, per_task=True),
    "cnn_e_per_task": replace(SCRATCH, per_task=True),
    "lstm_per_task": replace(SCRATCH, network="lstm", epochs=12, per_task=True),
    "mlp_a_per_task": replace(SCRATCH, network="mlp_a", epochs=15, per_task=True),
    "mlp_b_per_task": replace(SCRATCH, network="mlp_b", epochs=15, per_task=True),
    # its best network trained as there, and what was tried around it: 5 epochs were too few, more than 10 too many, and
    # Adam at 1e-3 best. Corrected: class weights rise with rarity, stopping looks at an inner split
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
    # 001; the copies of rare positives stand inside the training folds, and no image is lost for want of them
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
    """The experiment `to_recipe` gave; a field that came later has its default, which must mean what was done before.

    Raises ValueError where a field is unknown.
    """
    if unknown := sorted(set(recipe) - {field.name for field in fields(Experiment)}):
        raise ValueError(f"the recipe has the fields {unknown}, which this version does not know")
    return Experiment(**{name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()})
