"""The terminal that tables are printed on."""

from rich.console import Console


def make_console() -> Console:
    """The screen; wide enough for any table of ours where the output is a file."""
    console = Console()
    return console if console.is_terminal else Console(width=180)
