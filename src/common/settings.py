"""Settings as they are typed: NAME=VALUE read as a field's type, and values that carry numbers, "focal:2"."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Description = TypeVar("Description")

NUMBER = r"(?:\d+\.?\d*(?:e-?\d+)?|\.\d+)"
WHOLE = r"\d{1,4}"
# fields whose entries hold for all labels, "zeros", or for one, "Edema=zeros": what may stand there, each as a pattern
BY_LABEL = {
    "uncertain": {"ignore": "ignore", "zeros": "zeros", "ones": "ones", "mean": "mean",
                  "uniform:LOW:HIGH": f"uniform:{NUMBER}:{NUMBER}", "self:RUN": "self:.+"},
    "missing_labels": {"ignore": "ignore", "zeros": "zeros"},
    "label_repeats": {"NUMBER": WHOLE},
}
# fields whose value, or each of whose values, is a name that may carry numbers
WITH_NUMBERS = {
    "weights": {"none": "none", "imagenet": "imagenet", "run:NAME": r"run:[^:]+",
                "FILE": r"[^:]*\.(?:safetensors|pt|pth|bin)"},
    "head": {"linear": "linear", "hidden:WIDTH": f"hidden:{WHOLE}", "two_linear:WIDTH": f"two_linear:{WHOLE}"},
    "loss": {"cross_entropy": "cross_entropy", "focal:GAMMA": f"focal:{NUMBER}",
             "asymmetric:NEGATIVE:POSITIVE:CLIP": f"asymmetric:{NUMBER}:{NUMBER}:{NUMBER}",
             "auc_margin:MARGIN": f"auc_margin:{NUMBER}", "soft_f1": "soft_f1"},
    "mix": {"none": "none", "mixup:ALPHA": f"mixup:{NUMBER}", "cutmix:ALPHA": f"cutmix:{NUMBER}"},
    "schedule": {"cosine": "cosine", "constant": "constant", "one_cycle": "one_cycle",
                 "step:EPOCHS:FACTOR": f"step:{WHOLE}:{NUMBER}", "plateau:EPOCHS:FACTOR": f"plateau:{WHOLE}:{NUMBER}"},
    "stages": {"head:EPOCHS:LR": f"head:{WHOLE}:{NUMBER}", "lastN:EPOCHS:LR": rf"last\d+:{WHOLE}:{NUMBER}",
               "all:EPOCHS:LR": f"all:{WHOLE}:{NUMBER}"},
}


def check_value(name: str, value: str) -> None:
    """Raises ValueError, with the nearest name, where a field of WITH_NUMBERS cannot have this value."""
    known = WITH_NUMBERS[name]
    if not any(re.fullmatch(pattern, value) for pattern in known.values()):
        raise ValueError(f"{name}: there is no {value!r}{_nearest(value, known)} There are {', '.join(known)}")


def read_value(value: str) -> tuple[str, tuple[float, ...]]:
    """The name and the numbers of a value of WITH_NUMBERS: "step:2:0.5" -> ("step", (2.0, 0.5))."""
    kind, *numbers = value.split(":")
    return kind, tuple(map(float, numbers))


def _nearest(value: str, known: Mapping[str, str]) -> str:
    kinds = {each.partition(":")[0]: each for each in known}
    near = difflib.get_close_matches(value.partition(":")[0], kinds, n=1)
    return f"; did you mean {kinds[near[0]]!r}?" if near else "."


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
            raise ValueError(f"{name}: there is no {value!r}{_nearest(value, known)} An entry is VALUE or Label=VALUE, "
                             f"and the values are {', '.join(known)}")
        label, value = match[1] or "", match[2]
        if value.startswith("uniform:") and not 0 <= float(value.split(":")[1]) <= float(value.split(":")[2]) <= 1:
            raise ValueError(f"{name}: {value!r} must have 0 <= LOW <= HIGH <= 1")
        if name == "label_repeats" and not label:
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
