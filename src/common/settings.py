"""Settings as text: NAME=VALUE read as a field's type, and values by name with arguments, such as "focal:2"."""

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Description = TypeVar("Description")

NUMBER = r"(?:\d+\.?\d*(?:e-?\d+)?|\.\d+)"
WHOLE = r"\d{1,4}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One value that a field of an Experiment can have: an entry of a registry, a dict of choices by name.

    Calling the choice calls `build`. The registry's docstring says with what; the value's arguments come last.

    Example: LOSSES["focal"] = Loss(build=focal, arguments=("GAMMA",)) allows loss="focal:2", and "focal:2" calls
    focal(logits, targets, task, weights, 2.0).
    """

    build: Callable
    arguments: tuple[str, ...] = ()     # their names, each a number 0 or more that follows the name after a colon
    text: bool = False                  # True: the one argument is any text, not a number
    check: Callable[..., str] = lambda *arguments: ""  # what is wrong with the arguments; "" if nothing is

    def __call__(self, *inputs: Any) -> Any:
        return self.build(*inputs)


@dataclass(frozen=True)
class Value:
    """A value as it was typed, taken apart into its registry's entry and its arguments."""

    text: str
    name: str
    choice: Choice
    arguments: tuple

    def __call__(self, *inputs: Any) -> Any:
        return self.choice.build(*inputs, *self.arguments)


def patterns(registry: Mapping[str, Choice]) -> dict[str, str]:
    """A regular expression for each entry's values, by how they are written: {"focal:GAMMA": ...}."""
    return {":".join((name, *choice.arguments)):
            re.escape(name) + (":.+" if choice.text else f":{NUMBER}" * len(choice.arguments))
            for name, choice in registry.items()}


def check_form(field: str, value: str, known: Mapping[str, str]) -> None:
    """Raises ValueError, naming the nearest form, where a value matches none of the patterns of its field's forms."""
    if not any(re.fullmatch(pattern, value) for pattern in known.values()):
        raise ValueError(f"{field}: there is no {value!r}{_nearest(value, known)} There are {', '.join(known)}")


def read_value(field: str, text: str, registry: Mapping[str, Choice]) -> Value:
    """The entry that a field's value names, and its arguments.

    Raises ValueError, with the nearest entry, where there is none of that name, or its arguments are wrong.
    """
    check_form(field, text, patterns(registry))
    name, _, rest = text.partition(":")
    choice = registry[name]
    arguments = (rest,) if choice.text else tuple(map(float, rest.split(":"))) if rest else ()
    if wrong := choice.check(*arguments):
        raise ValueError(f"{field}={text}: {wrong}")
    return Value(text, name, choice, arguments)


def _nearest(value: str, known: Mapping[str, str]) -> str:
    kinds = {each.partition(":")[0]: each for each in known}
    near = difflib.get_close_matches(value.partition(":")[0], kinds, n=1)
    return f"; did you mean {kinds[near[0]]!r}?" if near else "."


def by_label(field: str, entries: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """The values of a field whose entries are VALUE, for all labels, or Label=VALUE: by label, "" for the others.

    known: patterns of the values. Raises ValueError, with the nearest form, where a value matches none of them, or a
    label has two.
    """
    found = {}
    for entry in entries:
        # the label is as short as it can be, and there is none if the whole entry is a value: runs may have a = in them
        match = re.fullmatch(rf"(?:(.+?)=)??({'|'.join(known.values())})", entry)
        if match is None:
            value = entry.rpartition("=")[2]
            raise ValueError(f"{field}: there is no {value!r}{_nearest(value, known)} An entry is VALUE or "
                             f"Label=VALUE, and the values are {', '.join(known)}")
        label, value = match[1] or "", match[2]
        if label in found:
            raise ValueError(f"{field}: {repr(label) if label else 'all labels'} has two values, {found[label]} and "
                             f"{value}")
        found[label] = value
    return found


def for_labels(field: str, entries: Sequence[str], labels: Sequence[str], known: Mapping[str, str],
               default: str) -> tuple[str, ...]:
    """Each label's value of such a field, (K,) in the order of `labels`; `default` where no entry holds for a label.

    Raises ValueError where `by_label` does, or where an entry names a label that does not exist, with the nearest one.
    """
    found = by_label(field, entries, known)
    for label in found:
        if label and label not in labels:
            raise ValueError(f"{field} names the label {label!r}, which does not exist; {_suggest(label, labels)}")
    return tuple(found.get(label, found.get("", default)) for label in labels)


def read_for_labels(field: str, entries: Sequence[str], labels: Sequence[str],
                    registry: Mapping[str, Choice]) -> tuple[Value, ...]:
    """As `for_labels`, each value read from a registry; its first entry is the default."""
    texts = for_labels(field, entries, labels, patterns(registry), next(iter(registry)))
    return tuple(read_value(field, text, registry) for text in texts)


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
            raise ValueError(f"no setting {name!r}; {_suggest(name, hints)}")
        changes[name] = _parse(name, text, hints[name])
    return replace(description, **changes)


def _suggest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


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
