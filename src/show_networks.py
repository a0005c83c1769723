"""Lists the networks, or summarizes and draws one:  python src/show_networks.py

Without flags: a table of all networks of the experiments, with parameters, FLOPs, image size and where their ImageNet
weights are. With --network, one network layer by layer, and with --diagram a drawing of it:
  python src/show_networks.py --network cnn_e --diagram cnn_e.png
--network is a network of this project, any of timm's, or an experiment; channels and outputs are the competition's.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from rich.table import Column, Table
from tqdm import tqdm

from commandline import make_parser, pick_competition, run_script
from common.console import make_console
from common.figures import save_figure
from common.hardware import tune_process
from competition import Competition
from data.pixel_store import image_channels
from experiment import EXPERIMENTS, Experiment

if TYPE_CHECKING:
    from models.summary import Summary

BOX_WIDTH, ROW_HEIGHT = 2.6, 0.85  # inches of the diagram


def main(argv: list[str] | None = None) -> "dict[str, Summary] | Summary":
    """Returns the summaries of all networks, or of one."""
    parser = make_parser(__doc__)
    parser.add_argument("--network", metavar="NAME", help="one network, layer by layer")
    parser.add_argument("--diagram", type=Path, metavar="FILE", help="draw it to a .png or .svg file")
    args = parser.parse_args(argv)
    if args.diagram and (not args.network or args.diagram.suffix not in (".png", ".svg")):
        raise ValueError(f"--diagram {args.diagram} needs a --network to draw and a name that ends in .png or .svg")
    tune_process()
    competition = pick_competition(args.competition)
    if args.network is None:
        return list_networks(competition)

    from models.summary import summarize

    experiment = pick_network(args.network)
    summary = summarize(experiment.network, image_channels(competition, experiment), experiment.image_size,
                        len(competition.labels), experiment.head, experiment.dropout)
    table = Table("layer", "", Column("output", justify="right"), Column("parameters", justify="right"),
                  title=_title(args.network, summary))
    for stage in (stage for row in summary.rows for stage in row):
        table.add_row(stage.name, stage.description, _shape(stage.shape), f"{stage.parameters:,}")
    make_console().print(table)
    if args.diagram:
        save_figure(draw(args.network, summary), args.diagram, dpi=100)
        print(f"written: {args.diagram}")
    return summary


def pick_network(name: str) -> Experiment:
    """The experiment of that name, else the first with that network, else a timm network at its own image size.

    Raises ValueError with the nearest names if there is no such network.
    """
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    for experiment in EXPERIMENTS.values():
        if experiment.network == name:
            return experiment

    from models.classifier import check_network

    check_network(name, "none")  # first, because it imports torchvision in the way timm needs

    import timm

    size = timm.get_pretrained_cfg(name)
    return Experiment(network=name, image_size=size.input_size[-1] if size else 224)


def list_networks(competition: Competition) -> "dict[str, Summary]":
    """Prints the networks of all experiments with the competition's channels and outputs.

    Returns the summaries, by the first experiment with that network, head and image size.
    """
    from models.summary import summarize

    named, summaries = {}, {}
    for name, experiment in EXPERIMENTS.items():
        named.setdefault((experiment.network, experiment.head, experiment.image_size), name)
    table = Table("network", "head", "experiment",
                  *(Column(title, justify="right") for title in ("parameters", "MFLOPs per image", "image")),
                  "ImageNet weights",
                  title=f"networks with the {len(competition.labels)} outputs of {competition.name}")
    for (network, head, size), name in tqdm(named.items(), "networks", disable=None, leave=False):
        channels = image_channels(competition, EXPERIMENTS[name])
        summary = summaries[name] = summarize(network, channels, size, len(competition.labels), head)
        table.add_row(network, head, name, f"{summary.parameters:,}", f"{summary.flops / 1e6:,.1f}",
                      f"{channels} x {size}²", weights_source(network))
    make_console().print(table)
    return summaries


def weights_source(network: str) -> str:
    """Where a network's ImageNet weights are, or which of them are missing."""
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


def _title(name: str, summary: "Summary") -> str:
    return (f"{name} on {summary.channels} x {summary.image_size}² pixels: {summary.parameters:,} parameters, "
            f"{summary.flops / 1e6:,.1f} MFLOPs per image")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{side:,}" for side in shape)


def draw(name: str, summary: "Summary") -> Figure:
    """A diagram from the image, on top, to the logits: one box per stage, in one row where networks are parallel."""
    rows = [[f"image\n{_shape((summary.channels, *2 * (summary.image_size,)))}"]]
    rows += [[f"{each.name}: {_shape(each.shape)}\n{each.description}\n{each.parameters:,} parameters" for each in row]
             for row in summary.rows]
    width = max(7.0, BOX_WIDTH * max(map(len, rows)))
    figure = Figure(figsize=(width, ROW_HEIGHT * (len(rows) + 1)), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(-len(rows), 1))
    axes.set_axis_off()
    axes.text(0.5, 0.7, _title(name, summary), ha="center", weight="bold", fontsize=9)
    above = []
    for depth, row in enumerate(rows):
        places = [(place + 0.5) / len(row) for place in range(len(row))]
        for place, text in zip(places, row, strict=True):
            for start in above:
                axes.annotate("", (place, 0.36 - depth), (start, 0.64 - depth), arrowprops={"arrowstyle": "-|>"})
            axes.text(place, -depth, text, ha="center", va="center", fontsize=7,
                      bbox={"boxstyle": "round", "facecolor": "#e8eef7", "edgecolor": "#888888"})
        above = places
    return figure


if __name__ == "__main__":
    run_script(main)
