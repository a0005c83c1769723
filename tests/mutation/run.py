"""Changes the code in one place at a time and counts which changes the tests notice:  python tests/mutation/run.py

A mutant is one module of src with one changed place. The tests of that module run on it in a copy of the tree: the file
that mirrors the module and all that import it, the fastest first. A mutant is killed if one of them fails or takes too
long. Test files that fail on the unchanged code are left out and named. Prints the share killed by folder, and the
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
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [(ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.In, ast.NotIn), (ast.Is, ast.IsNot),
         (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.And, ast.Or)]
SWAPS = dict([*PAIRS, *[(second, first) for first, second in PAIRS]])


class Mutant(NamedTuple):
    """One change of a module: bytes start to end become `text`."""

    path: str    # from the root
    line: int
    kind: str
    start: int
    end: int
    text: str

    @property
    def source(self) -> str:
        """The whole module with the change."""
        data = (ROOT / self.path).read_bytes()
        return (data[:self.start] + self.text.encode() + data[self.end:]).decode()


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """(kind of change, what is replaced, by what)."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield "comparison", node, ast.Compare(node.left, [SWAPS[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        yield "arithmetic", node, ast.BinOp(node.left, SWAPS[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        yield "and/or", node, ast.BoolOp(SWAPS[type(node.op)](), node.values)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield "constant", node, ast.Constant(node.value + 1)
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield "condition", node.test, ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.AugAssign) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "statement removed", node, ast.Pass()
    elif isinstance(node, ast.Return) and node.value is not None:
        yield "None returned", node, ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Call):
        if len(node.args) > 1 and not any(isinstance(argument, ast.Starred) for argument in node.args):
            swapped = [node.args[1], node.args[0], *node.args[2:]]
            yield "arguments swapped", node, ast.Call(node.func, swapped, node.keywords)
        for keyword in node.keywords:
            kept = [other for other in node.keywords if other is not keyword]
            yield "keyword dropped", node, ast.Call(node.func, node.args, kept)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but annotations, messages, flags and the call of main."""
    called = ast.unparse(node.value.func) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else ""
    if (isinstance(node, (ast.Raise, ast.JoinedStr)) or called.endswith((".add_argument", "print", "tqdm.write"))
            or isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
        return
    yield node
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in ("annotation", "returns"):
                yield from walk(child)


def mutants(path: Path) -> Iterator[Mutant]:
    """Every mutant of a module. What is not changed keeps its layout."""
    data, starts = path.read_bytes(), [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in walk(ast.parse(data)):
        for kind, old, new in changes(node):
            text = ast.unparse(ast.fix_missing_locations(new))
            text = f"({text})" if isinstance(new, ast.expr) and not isinstance(new, ast.Constant) else text
            yield Mutant(path.relative_to(ROOT).as_posix(), old.lineno, kind, starts[old.lineno - 1] + old.col_offset,
                         starts[old.end_lineno - 1] + old.end_col_offset, text)


def tests_of(path: str, texts: dict[Path, str]) -> list[Path]:
    """Test files that mirror or import a module; if there are none, those that import what imports it, and so on."""
    def importing(path: str) -> list[Path]:
        package, _, name = path.removeprefix("src/").removesuffix(".py").rpartition("/")
        lines = rf"from {package}\.{name} import|from {package} import .*\b{name}\b" if package else (
            rf"from {name} import|import {name}\b")
        return [file for file, text in texts.items() if re.search(rf"^ *(?:{lines})", text, re.MULTILINE)
                or file.name == f"test_{name}.py"]

    seen, files = set(), set(importing(path))
    while files - seen and not any(file.name.startswith("test_") for file in files):
        seen |= files
        files = {user for file in files for user in importing(file.relative_to(ROOT).as_posix())}
    return sorted(file for file in files if file.name.startswith("test_"))


def copy_tree(folder: Path) -> Path:
    """A copy of the code and its tests, and beside it ../shared, where tests look for public images."""
    for name in ("src", "tests", "folds"):
        shutil.copytree(ROOT / name, folder / "repo" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (path for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".")):
        shutil.copy(path, folder / "repo")
    if (ROOT.parent / "shared").exists():
        (folder / "shared").symlink_to((ROOT.parent / "shared").resolve())
    return folder / "repo"


def passes(tree: Path, test: Path, marks: str, limit: float) -> bool:
    """True if a test file passes in a tree within `limit` seconds."""
    command = [sys.executable, "-m", "pytest", "-xq", "-p", "no:cacheprovider", "-m", marks, test.relative_to(ROOT)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # a stale .pyc would hide a change
    process = subprocess.Popen(command, cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
                               start_new_session=True)
    try:
        return process.wait(limit) in (0, 5)  # 5: no test is left
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        return process.wait() == 0


def main() -> None:
    """Samples mutants, runs their tests and prints what survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folders = ["src", *sorted(path.parent.name for path in (ROOT / "src").glob("*/__init__.py"))]
    parser.add_argument("--folders", nargs="+", default=folders, choices=folders, help="src: the scripts; default: all")
    parser.add_argument("--per-folder", type=int, default=15, help="mutants a folder; default: 15")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--processes", type=int, default=1, help="test runs at a time; default: 1")
    parser.add_argument("--slow", action="store_true", help="run the tests marked slow too")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "mutation.jsonl",
                        help="default: runs/mutation.jsonl")
    args = parser.parse_args()
    marks = "slow or not slow" if args.slow else "not slow"
    drawn = []
    for folder in args.folders:
        paths = sorted((ROOT / "src" / folder.removeprefix("src")).glob("*.py"))
        found = [mutant for path in paths for mutant in mutants(path)]
        drawn += random.Random(f"{args.seed}/{folder}").sample(found, min(args.per_folder, len(found)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.touch()
    done = {result["key"]: result for result in map(json.loads, args.out.read_text().splitlines())}
    original = {mutant.path: (ROOT / mutant.path).read_text(encoding="utf-8") for mutant in drawn}
    changed = {mutant: mutant.source for mutant in drawn}  # both now: somebody may work on the code meanwhile
    keys = {mutant: hashlib.sha256(f"{mutant.path}\n{changed[mutant]}".encode()).hexdigest() for mutant in drawn}
    todo = [mutant for mutant in drawn if keys[mutant] not in done]
    texts = {path: path.read_text() for name in ("src", "tests") for path in sorted((ROOT / name).rglob("*.py"))}
    tests = {path: tests_of(path, texts) for path in {mutant.path for mutant in todo}}
    trees = queue.SimpleQueue()

    def measure(test: Path) -> float:
        tree, start = trees.get(), time.monotonic()
        passed = passes(tree, test, marks, 1800)
        trees.put(tree)
        print(f"{test.relative_to(ROOT)} {'passes' if passed else 'FAILS, left out'}", flush=True)
        return time.monotonic() - start if passed else float("inf")

    def try_out(mutant: Mutant) -> dict:
        tree, before, after = trees.get(), original[mutant.path], changed[mutant]
        (tree / mutant.path).write_text(after, encoding="utf-8")
        in_order = sorted((test for test in tests[mutant.path] if seconds[test] < float("inf")), key=seconds.get)
        killer = next((test for test in in_order if not passes(tree, test, marks, 30 + 4 * seconds[test])), None)
        (tree / mutant.path).write_text(before, encoding="utf-8")
        trees.put(tree)
        diff = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))[2:]
        return {"key": keys[mutant], "path": mutant.path, "line": mutant.line, "kind": mutant.kind,
                "killed_by": killer.name if killer else "", "diff": "\n".join(diff)}

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.processes) as pool, args.out.open("a") as out:
        for number in range(args.processes):
            trees.put(copy_tree(Path(folder) / str(number)))
        used = sorted(set().union(*tests.values()))
        seconds = dict(zip(used, pool.map(measure, used), strict=True))
        for number, result in enumerate(pool.map(try_out, todo), 1):
            done[result["key"]] = result
            print(json.dumps(result), file=out, flush=True)
            print(f"{number}/{len(todo)} {result['path']}:{result['line']} {result['kind']}: "
                  f"{result['killed_by'] or 'SURVIVED'}", flush=True)
    by_folder = defaultdict(list)
    for result in (done[keys[mutant]] for mutant in drawn):
        by_folder[Path(result["path"]).parent.name].append(bool(result["killed_by"]))
        if not result["killed_by"]:
            print(f"\nsurvived: {result['path']}:{result['line']}, {result['kind']}\n{result['diff']}")
    print(f"\n{'folder':<14}{'mutants':>8}{'killed':>8}{'share':>8}")
    for folder, killed in [*sorted(by_folder.items()), ("all", sum(by_folder.values(), []))]:
        print(f"{folder:<14}{len(killed):>8}{sum(killed):>8}{sum(killed) / max(1, len(killed)):>8.0%}")


if __name__ == "__main__":
    main()
