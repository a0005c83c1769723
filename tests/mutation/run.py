"""Changes the code in one place at a time and counts which changes the tests notice:  python tests/mutation/run.py

A mutant is one module of src with one changed place. The tests of that module run on it in a copy of the tree: the file
that mirrors the module and all that import it, the fastest first. A mutant is killed where one of them fails or takes
too long. Test files that fail on the unchanged code are left out and named. Prints the share killed by folder, and the
survivors with their places and diffs. Results are kept in --out; a run that was stopped continues there.
"""

import argparse
import ast
import difflib
import hashlib
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SWAPS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
         ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add,
         ast.Mult: ast.Div, ast.Div: ast.Mult, ast.And: ast.Or, ast.Or: ast.And}


class Mutant(NamedTuple):
    """A module with one change."""

    path: str    # from the root
    line: int
    kind: str
    source: str  # of the whole module

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.path}\n{self.source}".encode()).hexdigest()[:16]


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST | None]]:
    """(kind, what is replaced, by what); None: the statement `pass`."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield "comparison", node, ast.Compare(node.left, [SWAPS[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS and not any(map(is_text, (node.left, node.right))):
        yield "arithmetic", node, ast.BinOp(node.left, SWAPS[type(node.op)](), node.right)
    if isinstance(node, ast.BoolOp):
        yield "and/or", node, ast.BoolOp(SWAPS[type(node.op)](), node.values)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield "constant", node, ast.Constant(node.value + 1)
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield "condition", node.test, ast.UnaryOp(ast.Not(), node.test)
    if isinstance(node, ast.AugAssign) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "statement removed", node, None
    if isinstance(node, ast.Return) and node.value is not None and not is_none(node.value):
        yield "None returned", node, ast.Return(ast.Constant(None))
    if isinstance(node, ast.Call):
        plain = not any(isinstance(argument, ast.Starred) for argument in node.args)
        if len(node.args) > 1 and plain:
            yield "arguments swapped", node, ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]],
                                                      node.keywords)
        for number, keyword in enumerate(node.keywords):
            if keyword.arg:
                yield "keyword dropped", node, ast.Call(node.func, node.args, [
                    *node.keywords[:number], *node.keywords[number + 1:]])


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def is_passed_over(node: ast.AST) -> bool:
    """Messages, flags and the call of main: tests of what a text says would be brittle."""
    if isinstance(node, (ast.Raise, ast.JoinedStr)):
        return True
    if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
        return True
    name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return name.endswith((".add_argument", "print", "tqdm.write"))


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but annotations and what is passed over."""
    if is_passed_over(node) or isinstance(node, ast.Expr) and is_passed_over(node.value):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child)


def mutants(path: Path) -> list[Mutant]:
    """Every mutant of a module."""
    source = path.read_text(encoding="utf-8")
    data, found = source.encode(), []
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in walk(ast.parse(source)):
        for kind, old, new in changes(node):
            text = "pass" if new is None else ast.unparse(ast.fix_missing_locations(new))
            text = text if new is None or isinstance(new, (ast.Return, ast.Constant)) else f"({text})"
            start, end = starts[old.lineno - 1] + old.col_offset, starts[old.end_lineno - 1] + old.end_col_offset
            changed = (data[:start] + text.encode() + data[end:]).decode()
            found.append(Mutant(path.relative_to(ROOT).as_posix(), old.lineno, kind, changed))
    return found


def imported_by(path: Path) -> set[str]:
    """Modules that a file imports, "scoring.metrics", inside its functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def tests_of(module: str, imports: dict[Path, set[str]]) -> list[Path]:
    """Test files for "scoring.metrics": those that import it; where none does, those that import what imports it."""
    mirror = f"test_{module.rpartition('.')[2]}.py"
    found = [path for path, names in imports.items() if path.name.startswith("test_") and (
        module in names or path.name == mirror)]
    if found:
        return found
    users = {".".join(path.relative_to(ROOT / "src").with_suffix("").parts) for path, names in imports.items()
             if path.is_relative_to(ROOT / "src") and module in names}
    return [path for path, names in imports.items() if path.name.startswith("test_") and users & names]


def copy_tree(folder: Path) -> Path:
    """A copy of the code and its tests, with ../shared beside it, where tests look for public images."""
    for name in ("src", "tests", "folds"):
        shutil.copytree(ROOT / name, folder / "repo" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE", "pyproject.toml", "requirements.txt", "run.sh"):
        shutil.copy(ROOT / name, folder / "repo" / name)
    if (ROOT.parent / "shared").exists():
        (folder / "shared").symlink_to((ROOT.parent / "shared").resolve())
    return folder / "repo"


def passes(tree: Path, test: Path, marks: str, limit: float) -> bool:
    """True where a test file passes in a tree within `limit` seconds."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", marks,
               str(test.relative_to(ROOT))]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # a stale .pyc would hide a change
    process = subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(limit) in (0, 5)  # 5: no test is left
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return False


def sample(folders: list[str], count: int, seed: int) -> list[Mutant]:
    """So many mutants of each folder, always the same for the same code and seed."""
    drawn = []
    for folder in folders:
        found = [mutant for path in sorted((ROOT / "src" / folder).glob("*.py")) for mutant in mutants(path)]
        drawn += random.Random(f"{seed}/{folder}").sample(found, min(count, len(found)))
    return drawn


def time_tests(tests: list[Path], tree: Path, marks: str) -> dict[Path, float]:
    """Seconds of every test file that passes on the unchanged code."""
    seconds = {}
    for test in tests:
        start = time.monotonic()
        if passes(tree, test, marks, 1800):
            seconds[test] = time.monotonic() - start
        else:
            print(f"left out, it fails on the unchanged code: {test.relative_to(ROOT)}", flush=True)
    return seconds


def show(results: list[dict]) -> None:
    """The share killed by folder, and the survivors."""
    for result in results:
        if not result["killed_by"]:
            print(f"\nsurvived: {result['path']}:{result['line']} ({result['kind']})\n{result['diff']}")
    print(f"\n{'folder':<14}{'mutants':>8}{'killed':>8}{'share':>8}")
    by_folder = {}
    for result in results:
        by_folder.setdefault(Path(result["path"]).parent.name, []).append(bool(result["killed_by"]))
    for folder, killed in [*sorted(by_folder.items()), ("all", sum(by_folder.values(), []))]:
        print(f"{folder:<14}{len(killed):>8}{sum(killed):>8}{sum(killed) / max(1, len(killed)):>8.0%}")


def main() -> None:
    """Samples mutants, runs their tests and prints what survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", nargs="+", help='folders of src, "." for the scripts; default: all')
    parser.add_argument("--per-folder", type=int, default=15, help="mutants a folder; default: 15")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--processes", type=int, default=1, help="test runs at a time; default: 1")
    parser.add_argument("--slow", action="store_true", help="run the tests marked slow too")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "mutation.jsonl", help="default: runs/mutation.jsonl")
    args = parser.parse_args()
    folders = args.folders or [".", *sorted(path.parent.name for path in (ROOT / "src").glob("*/__init__.py"))]
    marks = "slow or not slow" if args.slow else "not slow"
    drawn = sample(folders, args.per_folder, args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    done = {line["key"]: line for line in map(json.loads, args.out.read_text().splitlines())} if args.out.exists() else {}
    todo = [mutant for mutant in drawn if mutant.key not in done]
    imports = {path: imported_by(path) for name in ("src", "tests") for path in sorted((ROOT / name).rglob("*.py"))}
    tests = {path: tests_of(path.removeprefix("src/").removesuffix(".py").replace("/", "."), imports)
             for path in {mutant.path for mutant in todo}}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.processes) as pool, args.out.open("a") as out:
        trees = queue.SimpleQueue()
        for number in range(args.processes):
            trees.put(copy_tree(Path(folder) / str(number)))
        seconds = time_tests(sorted(set().union(*tests.values())), copy_tree(Path(folder) / "timed"), marks)

        def try_out(mutant: Mutant) -> dict:
            tree, original = trees.get(), (ROOT / mutant.path).read_text(encoding="utf-8")
            (tree / mutant.path).write_text(mutant.source, encoding="utf-8")
            in_order = sorted((test for test in tests[mutant.path] if test in seconds), key=seconds.get)
            killed_by = next((test.relative_to(ROOT).as_posix() for test in in_order
                              if not passes(tree, test, marks, 30 + 4 * seconds[test])), "")
            (tree / mutant.path).write_text(original, encoding="utf-8")
            trees.put(tree)
            diff = difflib.unified_diff(original.splitlines(), mutant.source.splitlines(), lineterm="", n=0)
            return {"key": mutant.key, "path": mutant.path, "line": mutant.line, "kind": mutant.kind,
                    "killed_by": killed_by, "tests": len(in_order), "diff": "\n".join(list(diff)[2:])}

        for number, result in enumerate(pool.map(try_out, todo), 1):
            done[result["key"]] = result
            out.write(json.dumps(result) + "\n")
            out.flush()
            print(f"{number}/{len(todo)} {result['path']}:{result['line']} {result['kind']}: "
                  f"{result['killed_by'] or 'SURVIVED'}", flush=True)
    show([done[mutant.key] for mutant in drawn])


if __name__ == "__main__":
    main()
