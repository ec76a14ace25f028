"""The rules of the house that can be read off the source (docs: flows -> tasks -> bertft_core)."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("bertft_core", "flows", "tasks")
HEAVY = ("torch", "transformers", "prefect", "mlflow")
FLOWS_OF = {
    "flows": {"flows", "tasks", "bertft_core"},
    "tasks": {"tasks", "bertft_core"},
    "bertft_core": {"bertft_core"},
}
MLFLOW_ROOMS = ("bertft_core/tracking/", "bertft_core/registry/", "bertft_core/serving/model_file.py")
# Every room of bertft_core and the rooms it may enter, at the top of a file or in a function; `base` is open to all.
ROOMS: dict[str, set[str]] = {
    "base": set(),
    "config": set(),
    "data": {"config"},
    "model": {"config", "data"},
    "evaluation": {"config"},
    "training": {"config", "data", "model", "evaluation"},
    "adaptation": {"config", "data", "model", "training"},
    "search": {"config", "training"},
    "serving": {"config", "data", "model", "evaluation"},
    "reporting": {"config", "evaluation", "search"},
    "tracking": {"config"},
    "registry": {"config", "data", "evaluation", "serving", "tracking"},
    "testing": {"data", "evaluation", "model", "training"},
}
ROOMS["recipe"] = set(ROOMS) - {"testing"}


class Import(NamedTuple):
    module: str  # dotted name of what is imported
    is_lazy: bool  # inside a function
    line: int


class Source(NamedTuple):
    path: str
    module: str
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def package(self) -> str:
        return self.module.split(".")[0]

    @property
    def room(self) -> str:
        """The room of a file of bertft_core; "" for the face of the package itself and for other packages."""
        parts = self.module.split(".")
        return parts[1] if self.package == "bertft_core" and len(parts) > 1 else ""

    def tops(self) -> set[str]:
        return {i.module.split(".")[0] for i in self.imports}


def read_imports(tree: ast.Module) -> Iterator[Import]:
    """Every import of a module except those under `if TYPE_CHECKING`."""
    stack: list[tuple[ast.AST, bool]] = [(tree, False)]
    while stack:
        node, is_lazy = stack.pop()
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, is_lazy, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield Import(str(node.module), is_lazy, node.lineno)
            yield from (Import(f"{node.module}.{a.name}", is_lazy, node.lineno) for a in node.names)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        inner = is_lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        stack.extend((child, inner) for child in ast.iter_child_nodes(node))


@cache
def sources() -> tuple[Source, ...]:
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = path.relative_to(ROOT)
            tree = ast.parse(path.read_text(encoding="utf-8"), str(relative))
            module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
            found.append(Source(relative.as_posix(), module, tree, tuple(read_imports(tree))))
    return tuple(found)


def importers_of(library: str) -> set[str]:
    return {s.path for s in sources() if library in s.tops()}


def ours(source: Source) -> set[str]:
    """Modules of ours that a source imports, lazily or not."""
    known = {s.module for s in sources()}
    return {i.module for i in source.imports if i.module in known} - {source.module}


def test_nothing_imports_upward_between_the_packages() -> None:
    found = {s.path: (s.tops() & set(PACKAGES)) - FLOWS_OF[s.package] for s in sources()}
    assert not {path: up for path, up in found.items() if up}


def test_prefect_is_imported_only_by_flows_and_tasks() -> None:
    assert not {p for p in importers_of("prefect") if p.startswith("bertft_core/")}


def test_what_crosses_a_task_border_is_typed() -> None:
    """Values of our own, numbers, paths: never a bare dict, list, tuple, array, frame or tensor (rule 4)."""
    bare = re.compile(r"\b(dict|list|tuple|ndarray|Tensor|DataFrame|Dataset)\b")
    tasks = [
        (source.path, node)
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(d, ast.Call) and called(d) == "task" for d in node.decorator_list)
    ]
    assert len(tasks) >= 7
    faults = [
        f"{path} {node.name}: {ast.unparse(hint)}"
        for path, node in tasks
        for hint in [node.returns, *(a.annotation for a in [*node.args.args, *node.args.kwonlyargs])]
        if hint is None or bare.search(ast.unparse(hint))
    ]
    assert not faults, "\n".join(faults)


def test_mlflow_is_imported_only_by_its_two_rooms_and_the_served_model_file() -> None:
    assert not {p for p in importers_of("mlflow") if not p.startswith(MLFLOW_ROOMS)}


def test_mlflow_is_imported_inside_functions() -> None:
    """The core is of use without it; the served model file is run by MLflow itself."""
    served = "bertft_core/serving/model_file.py"
    eager = {s.path for s in sources() for i in s.imports if i.module.split(".")[0] == "mlflow" and not i.is_lazy}
    assert eager <= {served}


def test_every_file_of_tasks_is_about_prefect() -> None:
    assert {s.path for s in sources() if s.package == "tasks"} - {"tasks/__init__.py"} <= importers_of("prefect")


def test_every_file_of_the_core_is_in_one_room() -> None:
    core = [s for s in sources() if s.package == "bertft_core" and s.path != "bertft_core/__init__.py"]
    assert {s.room for s in core} == set(ROOMS)
    assert not [s.path for s in core if s.path.count("/") == 1]


def test_optuna_is_imported_only_by_the_search_room() -> None:
    assert not {p for p in importers_of("optuna") if not p.startswith("bertft_core/search/")}


def test_flows_import_neither_torch_nor_mlflow() -> None:
    heavy = importers_of("torch") | importers_of("transformers") | importers_of("mlflow")
    assert not {p for p in heavy if p.startswith("flows/")}


@pytest.mark.parametrize("room", ["evaluation", "reporting", "tracking"])
def test_judging_rooms_reach_no_torch(room: str) -> None:
    by_module = {s.module: s for s in sources()}
    seen, todo = set(), [s.module for s in sources() if s.module.startswith(f"bertft_core.{room}")]
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            assert not by_module[module].tops() & {"torch", "transformers"}, module
            todo += ours(by_module[module])


def test_matplotlib_and_cleanlab_are_imported_inside_functions() -> None:
    eager = {
        f"{s.path}:{i.line}"
        for s in sources()
        for i in s.imports
        if i.module.split(".")[0] in {"matplotlib", "cleanlab"} and not i.is_lazy
    }
    assert not eager


def test_core_rooms_import_only_what_lies_below_them() -> None:
    rooms = {s.module: s.room for s in sources() if s.room}
    faults = [
        f"{s.path}:{i.line} ({s.room}) imports {i.module}"
        for s in sources()
        if s.room
        for i in s.imports
        if i.module in rooms and rooms[i.module] not in ROOMS[s.room] | {"base", s.room}
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("laziness", ["eager", "eager and lazy"])
def test_no_import_circles(laziness: str) -> None:
    known = {s.module for s in sources()}
    graph: dict[str, set[str]] = {}
    for source in sources():
        wanted = [i for i in source.imports if i.module in known and i.module != source.module]
        graph[source.module] = {i.module for i in wanted if not i.is_lazy or laziness != "eager"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as fault:
        pytest.fail(" -> ".join(fault.args[1]))


def test_no_pickle_module_is_imported() -> None:
    for library in ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"):
        assert not importers_of(library), library


def called(call: ast.Call) -> str:
    return ast.unparse(call.func)


@cache
def calls() -> tuple[tuple[str, ast.Call], ...]:
    return tuple((f"{s.path}:{n.lineno}", n) for s in sources() for n in ast.walk(s.tree) if isinstance(n, ast.Call))


def keywords(call: ast.Call) -> dict[str, str]:
    return {k.arg: ast.unparse(k.value) for k in call.keywords if k.arg}


def test_no_call_trusts_remote_code() -> None:
    assert not [at for at, c in calls() if keywords(c).get("trust_remote_code", "False") != "False"]


def test_every_load_of_a_folder_says_that_its_code_is_not_run() -> None:
    """transformers asks on the terminal where it is not told."""
    loads = [(at, c) for at, c in calls() if called(c).endswith((".from_pretrained", ".from_config"))]
    assert len(loads) >= 5
    assert not [at for at, c in loads if "trust_remote_code" not in keywords(c)]


def test_numpy_files_are_read_and_written_without_pickle() -> None:
    names = {"np.load", "np.save", "numpy.load", "numpy.save"}
    assert not [at for at, c in calls() if called(c) in names and keywords(c).get("allow_pickle") != "False"]


def test_torch_load_reads_weights_only() -> None:
    assert not [at for at, c in calls() if called(c) == "torch.load" and keywords(c).get("weights_only") != "True"]


def test_yaml_is_read_by_safe_load() -> None:
    unsafe = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}
    assert not [at for at, c in calls() if called(c) in unsafe]


def test_no_code_is_made_from_text() -> None:
    assert not [
        at for at, c in calls() if called(c) in {"eval", "exec", "os.system"} or keywords(c).get("shell") == "True"
    ]


def test_print_stays_in_the_front_door() -> None:
    loud = [at for at, c in calls() if called(c) == "print" and "file" not in keywords(c)]
    assert not [at for at in loud if not at.startswith("flows/")]


def test_no_bare_except() -> None:
    bare = [
        f"{s.path}:{n.lineno}"
        for s in sources()
        for n in ast.walk(s.tree)
        if isinstance(n, ast.ExceptHandler) and n.type is None
    ]
    assert not bare


def test_no_global_seed_is_set() -> None:
    seeds = {"random.seed", "np.random.seed", "numpy.random.seed"}
    assert not [at for at, c in calls() if called(c) in seeds]


def test_functions_stay_within_eighty_lines() -> None:
    """Linear code that says one thing stays in one piece: five private helpers with one caller each read worse."""
    long = {
        f"{s.path}:{n.lineno} {n.name}": n.end_lineno - n.lineno + 1
        for s in sources()
        for n in ast.walk(s.tree)
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.end_lineno is not None
        if n.end_lineno - n.lineno + 1 > 80
    }
    assert not long


# Booleans that calls may still pass by position: they shrink, none is added.
POSITIONAL_BOOLEANS = {"bertft_core/data/tokens/encoding.py n_special(is_pair)"}


@cache
def functions() -> tuple[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef], ...]:
    """Every function, with the path of its file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return tuple((s.path, n) for s in sources() for n in ast.walk(s.tree) if isinstance(n, kinds))


def test_no_function_has_more_than_eight_parameters() -> None:
    found = {
        f"{path} {f.name}"
        for path, f in functions()
        if sum(a.arg not in ("self", "cls") for a in [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]) > 8
    }
    assert not found, "one value type for those that travel together"


def test_booleans_are_passed_by_keyword() -> None:
    found = set()
    for path, f in functions():
        parameters = [*f.args.posonlyargs, *f.args.args]
        defaults = [None] * (len(parameters) - len(f.args.defaults)) + f.args.defaults
        for parameter, default in zip(parameters, defaults, strict=True):
            hint = ast.unparse(parameter.annotation) if parameter.annotation else ""
            is_switch = isinstance(default, ast.Constant) and isinstance(default.value, bool)
            if hint in ("bool", "bool | None") or is_switch:
                found.add(f"{path} {f.name}({parameter.arg})")
    assert not found - POSITIONAL_BOOLEANS, "put `*` before them: a bare True at a call says nothing"


def comments(path: Path) -> Iterator[str]:
    with tokenize.open(path) as handle:
        yield from (t.string for t in tokenize.generate_tokens(handle.readline) if t.type == tokenize.COMMENT)


def test_the_formatter_is_held_off_seldom_and_with_a_reason() -> None:
    folders = (*PACKAGES, "tests", "benchmarks")
    held = [c for folder in folders for path in (ROOT / folder).rglob("*.py") for c in comments(path) if "fmt:" in c]
    assert len(held) <= 10
    assert not [c for c in held if len(re.sub(r"fmt: *\w+", "", c).split()) < 4], "the reason stands on the line"


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]


def test_no_tracked_file_outside_docs_is_binary_or_large() -> None:
    contents = {name: (ROOT / name).read_bytes() for name in tracked() if not name.startswith("docs/")}
    assert not [name for name, content in contents.items() if b"\0" in content or len(content) > 500_000]


def test_the_top_level_holds_what_the_readme_names() -> None:
    house = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The house")[2].partition("\n## ")[0]
    named = {line.split()[0].rstrip("/") for line in house.splitlines() if line[:1].strip(" `")}
    tops = {name.partition("/")[0] for name in tracked()}
    assert not tops - named - {".gitignore", "LICENSE", "README.md"}


def test_no_machine_path_is_in_the_source() -> None:
    found = []
    for path in [*ROOT.glob("*.*"), *(p for d in (*PACKAGES, "examples", "tests") for p in (ROOT / d).rglob("*"))]:
        if path.suffix in {".py", ".yaml", ".toml", ".md"}:
            text = path.read_text(encoding="utf-8")
            found += [
                f"{path.relative_to(ROOT)}: {m}" for m in re.findall(r"/(?:(?:home|Users)/\w+|root|work)/\w+", text)
            ]
    assert not found


def test_every_place_of_a_fingerprint_holds_code() -> None:
    """A renamed file would stop every run; which places these are: test_fingerprints.py."""
    from bertft_core.base.hashes import code_files
    from bertft_core.recipe.runs import RUN_CODE
    from bertft_core.registry.decision import GATE_CODE

    assert all(code_files(place) for place in (*RUN_CODE, *GATE_CODE))


def test_no_module_is_named_after_a_library() -> None:
    libraries = {"tokenize", "datasets", "evaluate", "logging", "types", "mlflow", "optuna", "torch", "prefect"}
    assert not {s.path for s in sources() if s.module.split(".")[-1] in libraries}


def test_no_folder_of_tests_is_named_like_a_package_of_ours() -> None:
    folders = {p.name for p in (ROOT / "tests").rglob("*") if p.is_dir()}
    assert not folders & {"tasks", "flows"}
    assert not list((ROOT / "tests").rglob("__init__.py"))


def run_python(code: str, folder: Path) -> str:
    """Run code with our packages importable, in an empty folder; -P keeps that folder off sys.path."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("BERTFT", "PREFECT", "MLFLOW"))}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import json, sys\nfrom flows.cli import main\nsys.argv = ['bertft', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    )
    assert json.loads(run_python(code, tmp_path).splitlines()[-1]) == []
    assert not list(tmp_path.iterdir())


def test_importing_every_core_module_writes_nothing_and_configures_nothing(tmp_path: Path) -> None:
    """model_file.py is left out: MLflow runs it rather than imports it, and it names the model when read."""
    names = [
        s.module for s in sources() if s.package == "bertft_core" and s.path != "bertft_core/serving/model_file.py"
    ]
    code = (
        "import builtins, importlib, json, logging, os, random, sys\n"
        "import numpy, pandas, pyarrow, torch, transformers, optuna, scipy, sklearn, pydantic, yaml\n"
        "import transformers.models.auto.modeling_auto\n"
        "handlers, level, state = list(logging.root.handlers), logging.root.level, random.getstate()\n"
        "made, real = [], os.mkdir\n"
        "os.mkdir = lambda *a, **k: (made.append(str(a[0])), real(*a, **k))[1]\n"
        "seed, environment = torch.initial_seed(), dict(os.environ)\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "made = [m for m in made if 'torchinductor' not in m]  # torch makes one when its optimizers load\n"
        "assert not made, made\n"
        "assert handlers == logging.root.handlers and level == logging.root.level\n"
        "assert random.getstate() == state and torch.initial_seed() == seed\n"
        "changed = [k for k in os.environ if os.environ[k] != environment.get(k) and 'INDUCTOR' not in k]\n"
        "assert not changed, changed\n"
        "print(json.dumps([n for n in ('prefect', 'mlflow') if n in sys.modules]))"
    )
    assert json.loads(run_python(code, tmp_path).splitlines()[-1]) == []
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and "bertft" in p.name]
    assert not (tmp_path / ".bertft").exists()


def test_ci_runs_every_folder_of_tests() -> None:
    named = set(re.findall(r"\btests/(\w+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8")))
    assert {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("test_*.py")} <= named
