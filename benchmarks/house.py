"""The house in numbers, of one checkout or of two side by side: `python benchmarks/house.py [FOLDER|REVISION] [...]`.

Reads the source (ast) of bertft_core, tasks and flows and runs none of it. A folder is read as it lies there, anything
else is taken for a git revision of this repository. What the rows mean:

layers: modules on the longest chain of imports, those inside functions included; a circle counts as one.
floors, arrows: the same chain between rooms, and how many pairs of rooms import each other. A room is a folder of
    bertft_core, a loose file of its root, tasks or flows.
definitions: functions and classes at the top of a module; private ones begin with an underscore.
files entered by a trial: those whose code is reached from `open_study`, `run_trial` and `Tree.trials`, which writes
    trials to MLflow. The trainer process is not entered: it is met as a command.
value types of a promotion: dataclasses, pydantic models and named tuples reached from the flow `promote`, as far as
    they are of the promotion: of its settings and rule, of the gate, of the registry.

Reached means: a function reaches what its body names; a class is live once it is named or once a parameter, a result
or a field that is reached has it as its type; of a live class those methods are entered that some reached body
calls by name.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tarfile
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGES = ("bertft_core", "tasks", "flows")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
TRIAL = ("open_study", "run_trial", "Tree.trials")  # the trip of a trial: opened, run, written to MLflow
OF_PROMOTION = re.compile(
    r"config/(promotion|store)\.py|mlflow_config\.py|(evaluation/)?gate/|bertft_core/registry/"
    r"|tasks/(aliases|registry|artifacts|answers|comparison|entries|ledger|decision|gate|overrides|cleanup)\.py"
)


def read(place: str) -> dict[str, str]:
    """Path to text of every file of ours, in a folder or a git revision."""
    if Path(place).is_dir():
        paths = (p for package in PACKAGES for p in (Path(place) / package).rglob("*.py"))
        return {p.relative_to(place).as_posix(): p.read_text(encoding="utf-8") for p in paths}
    root = Path(__file__).parents[1]
    archive = subprocess.run(["git", "archive", place, *PACKAGES], cwd=root, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        return {
            member.name: handle.read().decode()
            for member in files
            if member.name.endswith(".py") and (handle := files.extractfile(member))
        }


class House:
    """The modules of a checkout, and the tables that the counts need."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts
        self.paths = {p.removesuffix(".py").removesuffix("/__init__").replace("/", "."): p for p in sorted(texts)}
        self.trees = {module: ast.parse(texts[path], path) for module, path in self.paths.items()}
        self.functions = [n for tree in self.trees.values() for n in ast.walk(tree) if isinstance(n, FUNCTIONS)]
        self.definitions = {
            (module, node.name): node
            for module, tree in self.trees.items()
            for node in tree.body
            if isinstance(node, (*FUNCTIONS, ast.ClassDef))
        }
        self.names = {module: dict(self.imported(module)) for module in self.trees}

    def imported(self, module: str) -> Iterator[tuple[str, tuple[str, str]]]:
        """Local name to (module of ours, name in it or "")."""
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    target = (whole, "") if whole in self.trees else (node.module, alias.name)
                    if target[0] in self.trees:
                        yield alias.asname or alias.name, target

    def imports(self) -> dict[str, set[str]]:
        """Module to the modules of ours that it imports anywhere, those for types left out."""
        graph: dict[str, set[str]] = {module: set() for module in self.trees}
        for module, tree in self.trees.items():
            todo: list[ast.AST] = [tree]
            while todo:
                node = todo.pop()
                if isinstance(node, ast.Import):
                    graph[module] |= {alias.name for alias in node.names}
                if isinstance(node, ast.ImportFrom):
                    graph[module] |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
                if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
                    todo.extend(ast.iter_child_nodes(node))
        return {module: (found & set(self.trees)) - {module} for module, found in graph.items()}

    def resolve(self, module: str, node: ast.AST) -> tuple[str, str] | None:
        """The definition of ours that a name or `module.name` stands for."""
        found: tuple[str, str] | None = None
        if isinstance(node, ast.Name):
            found = (module, node.id) if (module, node.id) in self.definitions else self.names[module].get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            target = self.names[module].get(node.value.id)
            found = (target[0], node.attr) if target and not target[1] else None
        while found and found not in self.definitions and found[1] in self.names[found[0]]:  # passed on by an import
            found = self.names[found[0]][found[1]]
        return found if found in self.definitions else None

    def reached(self, roots: Iterable[tuple[str, str]]) -> tuple[set[str], set[tuple[str, str]]]:
        """Files with code that is entered, and live classes (see the top of this file)."""
        live, called, entered, seen = set[tuple[str, str]](), set[str](), set[str](), set[ast.AST]()
        todo: list[tuple[str, ast.AST]] = []
        for module, name in roots:
            holder, _, method = name.partition(".")
            node: ast.AST = self.definitions[module, holder]
            if method:
                live.add((module, holder))
                called.add(method)
            else:
                todo.append((module, node))
        while True:
            for module, name in sorted(live):
                for item in self.definitions[module, name].body:
                    is_own = isinstance(item, FUNCTIONS) and (item.name in called or item.name == "__post_init__")
                    if (is_own or isinstance(item, ast.AnnAssign)) and item not in seen:
                        todo.append((module, item))
            if not todo:
                return entered, live
            while todo:
                module, node = todo.pop()
                seen.add(node)
                if isinstance(node, FUNCTIONS):
                    entered.add(self.paths[module])
                for part in self.parts(node):
                    called |= {part.attr} if isinstance(part, ast.Attribute) else set()
                    target = self.resolve(module, part)
                    if target and isinstance(self.definitions[target], ast.ClassDef):
                        live.add(target)
                    elif target and self.definitions[target] not in seen:
                        todo.append((target[0], self.definitions[target]))

    def parts(self, node: ast.AST) -> Iterator[ast.AST]:
        """Every node below, annotations in quotation marks included."""
        for part in ast.walk(node):
            yield part
            hint = getattr(part, "annotation", None) or getattr(part, "returns", None)
            if isinstance(hint, ast.Constant) and isinstance(hint.value, str):
                yield from ast.walk(ast.parse(hint.value, mode="eval"))

    def root(self, name: str, folder: str) -> list[tuple[str, str]]:
        """The first definition (a class's method with a dot) of that name below the folder, where there is one."""
        holder, _, method = name.partition(".")
        for (module, defined), node in self.definitions.items():
            methods = {n.name for n in ast.iter_child_nodes(node) if isinstance(n, FUNCTIONS)}
            if defined == holder and (not method or method in methods) and self.paths[module].startswith(folder):
                return [(module, name)]
        return []

    def is_value(self, module: str, node: ast.AST | None) -> bool:
        """A dataclass, a pydantic model, a named tuple."""
        if not isinstance(node, ast.ClassDef):
            return False
        if any("dataclass" in ast.unparse(mark) for mark in node.decorator_list):
            return True
        for base in node.bases:
            target = self.resolve(module, base)
            if ast.unparse(base) in ("BaseModel", "NamedTuple"):
                return True
            if target and self.is_value(target[0], self.definitions[target]):
                return True
        return False


def chain(graph: Mapping[str, set[str]]) -> int:
    """Nodes on the longest chain; those on a circle count as one."""

    @cache
    def below(node: str) -> frozenset[str]:
        seen, todo = set[str](), [node]
        while todo:
            for other in graph[todo.pop()] - seen:
                seen.add(other)
                todo.append(other)
        return frozenset(seen)

    def together(node: str) -> frozenset[str]:
        return frozenset({node, *(other for other in below(node) if node in below(other))})

    @cache
    def height(circle: frozenset[str]) -> int:
        over = {other for node in circle for other in graph[node]} - circle
        return 1 + max((height(together(other)) for other in over), default=0)

    return max(height(together(node)) for node in graph)


def room(module: str) -> str:
    """The room of a module: two names in the core, one elsewhere."""
    return ".".join(module.split(".")[: 2 if module.startswith("bertft_core") else 1])


def is_switch(function: ast.FunctionDef | ast.AsyncFunctionDef, index: int) -> bool:
    """Whether a positional parameter is a boolean."""
    parameters = [*function.args.posonlyargs, *function.args.args]
    defaults: list[ast.expr | None] = [None] * (len(parameters) - len(function.args.defaults))
    default = [*defaults, *function.args.defaults][index]
    hint = parameters[index].annotation
    is_default = isinstance(default, ast.Constant) and isinstance(default.value, bool)
    return is_default or (hint is not None and ast.unparse(hint) in ("bool", "bool | None"))


def count(house: House) -> dict[str, str]:
    """The rows of the table."""
    graph = house.imports()
    rooms: dict[str, set[str]] = {room(module): set() for module in graph}
    for module, found in graph.items():
        rooms[room(module)] |= {room(other) for other in found} - {room(module)}
    rooms.pop("bertft_core", None)  # the face of the package
    rooms = {name: found - {"bertft_core"} for name, found in rooms.items()}
    lengths = [(n.end_lineno or n.lineno) - n.lineno + 1 for n in house.functions]
    numbers = [
        sum(a.arg not in ("self", "cls") for a in [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs])
        for f in house.functions
    ]
    inside = {n for f in house.functions for n in ast.walk(f) if isinstance(n, ast.Import | ast.ImportFrom)}
    held = [
        token
        for text in house.texts.values()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and "fmt: skip" in token.string
    ]
    loose = [path for path in house.texts if path.startswith("bertft_core/") and path.count("/") == 1]
    trial = [root for name in TRIAL for root in house.root(name, "")]
    entered, _ = house.reached(trial)
    promotion = house.root("promote", "flows/release")
    _, live = house.reached(promotion)
    values = [
        (module, name)
        for module, name in live
        if OF_PROMOTION.search(house.paths[module]) and house.is_value(module, house.definitions[module, name])
    ]
    private = sum(name.startswith("_") for _, name in house.definitions)
    return {
        "files": f"{len(house.paths):,}",
        "lines": f"{sum(text.count(chr(10)) for text in house.texts.values()):,}",
        "layers (longest chain of modules)": f"{chain(graph)}",
        "rooms": f"{len(rooms)}",
        "floors (longest chain of rooms)": f"{chain(rooms)}",
        "arrows between rooms": f"{sum(map(len, rooms.values()))}",
        "loose files at bertft_core's root": f"{len(loose) - 1}",
        "functions": f"{len(lengths):,}",
        "lines per function, mean": f"{sum(lengths) / len(lengths):.1f}",
        "longest function": f"{max(lengths)}",
        "functions with 8 parameters or more": f"{sum(n >= 8 for n in numbers)}",
        "functions with more than 8": f"{sum(n > 8 for n in numbers)}",
        "booleans passed by position": str(
            sum(
                is_switch(f, index)
                for f in house.functions
                for index in range(len(f.args.posonlyargs) + len(f.args.args))
            )
        ),
        "fmt: skip": f"{len(held)}",
        "imports inside functions": f"{len(inside)}",
        "private definitions": f"{private:,}",
        "public definitions": f"{len(house.definitions) - private:,}",
        "value types of a promotion": f"{len(values)}" if promotion else "-",
        "files entered by a trial": f"{len(entered)}" if len(trial) == len(TRIAL) else "-",
    }


def main(places: list[str]) -> None:
    """Print the table, a column per place."""
    columns = [count(House(read(place))) for place in places]
    head = "".join(f"{Path(p).name or p:>14}" for p in places)
    print(f"{'':<38}{head}")
    for row in columns[0]:
        print(f"{row:<38}" + "".join(f"{column[row]:>14}" for column in columns))


if __name__ == "__main__":
    main(sys.argv[1:] or ["."])
