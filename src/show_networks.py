"""See which networks there are and what they are made of:  python src/show_networks.py --list

A table of all networks that experiments name: parameters, arithmetic of one image, size, and where their ImageNet
weights come from. One network, stage by stage, and drawn:
  python src/show_networks.py --network cnn_e --diagram cnn_e.png
(or .svg). --network is a network of ours, any of timm's, or an experiment; channels and outputs are the competition's.
"""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from rich.table import Column, Table
from tqdm import tqdm

from commandline import make_parser
from common.console import make_console
from common.figures import save_figure
from common.hardware import tune_process
from competition import COMPETITIONS, Competition
from data.pixel_store import image_channels
from experiment import EXPERIMENTS, Experiment

# inches, points
WIDTH, HEIGHT, GAP, MARGIN, TOP, SMALL, NORMAL, LARGE = 3.6, 0.62, 0.26, 0.25, 0.75, 7.5, 9, 12
BESIDE = 1.75  # width of boxes that stand side by side
COLOURS = {"convolution": "#cfe3f7", "pool": "#e6e6e6", "linear": "#fbe2c4", "recurrent": "#e3d5f2", "block": "#d4ecd6",
           "other": "#f7f7f7"}


@dataclass(frozen=True)
class Entry:
    """A line of the list."""

    network: str
    head: str
    experiment: str  # the first that names it
    parameters: int
    flops: int
    channels: int
    image_size: int
    weights: str     # where they come from


def main(argv: list[str] | None = None) -> "list[Entry] | Anatomy":  # noqa: F821
    """Returns the list's entries, or the one network's anatomy."""
    parser = make_parser(__doc__)
    parser.add_argument("--list", action="store_true", help="all networks that experiments name; the default")
    parser.add_argument("--network", metavar="NAME", help="one network, stage by stage")
    parser.add_argument("--diagram", type=Path, metavar="FILE", help="draw it, .png or .svg")
    args = parser.parse_args(argv)
    if args.diagram and (not args.network or args.diagram.suffix not in (".png", ".svg")):
        raise ValueError(f"--diagram {args.diagram} needs a --network to draw and a name that ends in .png or .svg")
    tune_process()
    competition = COMPETITIONS[args.competition]
    if args.network is None or args.list:
        return list_networks(competition)

    from models.summary import summarize

    name, experiment = args.network, pick_network(args.network)
    anatomy = summarize(experiment.network, image_channels(competition, experiment), experiment.image_size,
                         len(competition.labels), experiment.head, experiment.dropout)
    make_console().print(_stage_table(name, anatomy))
    if args.diagram:
        figure = draw(name, anatomy)
        save_figure(figure, args.diagram, dpi=100)
        print(f"drawn into {args.diagram}")
    return anatomy


def pick_network(name: str) -> Experiment:
    """The experiment of that name, or the first with that network, or a plain one of timm's at its own size.

    Raises ValueError with the nearest names where there is no such network.
    """
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    for experiment in EXPERIMENTS.values():
        if experiment.network == name:
            return experiment

    from models.classifier import check_network

    check_network(name, "none")  # imports timm as it must be imported

    import timm

    size = timm.get_pretrained_cfg(name)
    return Experiment(network=name, image_size=size.input_size[-1] if size else 224)


def list_networks(competition: Competition) -> list[Entry]:
    """Prints the table of all networks with the competition's channels and outputs; returns its lines."""
    from models.summary import summarize

    named = {}
    for name, experiment in EXPERIMENTS.items():
        named.setdefault((experiment.network, experiment.head, experiment.image_size), (name, experiment))
    entries = []
    for (network, head, size), (name, experiment) in tqdm(named.items(), "networks", disable=None, leave=False):
        channels = image_channels(competition, experiment)
        anatomy = summarize(network, channels, size, len(competition.labels), head, experiment.dropout)
        entries.append(Entry(network, head, name, anatomy.parameters, anatomy.flops, channels, size,
                             weights_source(network)))
    table = Table("network", "head", "experiment",
                  *(Column(title, justify="right") for title in ("parameters", "MFLOPs an image", "image")),
                  "ImageNet weights",
                  title=f"networks as {competition.name} has them, {len(competition.labels)} outputs")
    for entry in entries:
        table.add_row(entry.network, entry.head, entry.experiment, f"{entry.parameters:,}", f"{entry.flops / 1e6:,.1f}",
                      f"{entry.channels} x {entry.image_size}²", entry.weights)
    make_console().print(table)
    return entries


def weights_source(network: str) -> str:
    """Where a network's ImageNet weights are found, or which of them are not."""
    from models.classifier import backbones_of
    from models.pretrained import find_imagenet_weights

    found, missing = [], []
    for backbone in backbones_of(network):
        try:
            found.append(str(find_imagenet_weights(backbone) or "the hub's cache"))
        except FileNotFoundError:
            missing.append(backbone)
    if missing:
        return f"not found: {', '.join(missing)}"
    return ", ".join(found) or "none: trained from scratch"


def _stage_table(name: str, anatomy: "Anatomy") -> Table:  # noqa: F821
    table = Table("stage", "what", Column("gives", justify="right"), Column("parameters", justify="right"),
                  title=f"{name}: {_summary(anatomy)}")
    table.add_row("image", "0 to 255, normalised", _shape((anatomy.channels, *2 * (anatomy.image_size,))), "")
    for stage in (stage for row in anatomy.rows for stage in row):
        table.add_row(stage.name, stage.what, _shape(stage.shape), f"{stage.parameters:,}")
    return table


def _summary(anatomy: "Anatomy") -> str:  # noqa: F821
    return f"{anatomy.parameters:,} parameters, {anatomy.flops / 1e6:,.1f} MFLOPs an image"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{side:,}" for side in shape)


# ---- the diagram


def draw(name: str, anatomy: "Anatomy") -> Figure:  # noqa: F821
    """The network from the image, on top, to its logits: a box a stage, side by side where stages are."""
    image = ("image", "0 to 255, normalised", _shape((anatomy.channels, *2 * (anatomy.image_size,))), 0, "other")
    rows = [[image]] + [[(each.name, each.what, _shape(each.shape), each.parameters, each.kind) for each in row]
                        for row in anatomy.rows]
    widest = max(WIDTH, max(len(row) for row in rows) * (BESIDE + GAP) - GAP)
    width, height = widest + 2 * MARGIN, TOP + len(rows) * (HEIGHT + GAP) - GAP + MARGIN
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    axes.text(MARGIN, height - 0.3, name, fontsize=LARGE, weight="bold")
    axes.text(MARGIN, height - 0.55, _summary(anatomy), fontsize=NORMAL)
    above = []
    for number, row in enumerate(rows):
        each = WIDTH if len(row) == 1 else BESIDE
        left, bottom = (width - len(row) * (each + GAP) + GAP) / 2, height - TOP - number * (HEIGHT + GAP) - HEIGHT
        middles = [left + place * (each + GAP) + each / 2 for place in range(len(row))]
        for middle, box in zip(middles, row, strict=True):
            _draw_box(axes, box, middle - each / 2, bottom, each)
            for start in above:
                axes.add_patch(FancyArrowPatch((start, bottom + HEIGHT + GAP), (middle, bottom + HEIGHT), shrinkA=0,
                                               shrinkB=0, arrowstyle="-|>", mutation_scale=7, color="#555555", lw=0.8))
        above = middles
    return figure


def _draw_box(axes, box: tuple[str, str, str, int, str], left: float, bottom: float, width: float) -> None:
    name, what, shape, parameters, kind = box
    axes.add_patch(FancyBboxPatch((left, bottom), width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.06",
                                  facecolor=COLOURS[kind], edgecolor="#888888", lw=0.8))
    top, low, right = bottom + 0.66 * HEIGHT, bottom + 0.2 * HEIGHT, left + width - 0.1
    counted = f"{parameters:,} parameters" if parameters else ""
    if width == WIDTH:
        axes.text(left + 0.1, top, name, fontsize=NORMAL, weight="bold", va="center")
        axes.text(right, top, shape, fontsize=NORMAL, ha="right", va="center")
        axes.text(left + 0.1, low, what, fontsize=SMALL, va="center")
        axes.text(right, low, counted, fontsize=SMALL, ha="right", va="center", color="#444444")
    else:
        for place, text, style in ((0.8, name, {"weight": "bold"}), (0.5, f"{what}: {shape}", {}), (0.2, counted, {})):
            axes.text(left + width / 2, bottom + place * HEIGHT, text, fontsize=SMALL - 0.5, ha="center", va="center",
                      **style)


if __name__ == "__main__":
    main()
