"""What the library shows, what it imports, and what it never does."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import agentkd
from agentkd.deploy.bundle import write_bundle
from agentkd.executors.architecture import initial
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "agentkd"
SOURCES = sorted(LIBRARY.rglob("*.py"))
HEAVY = ("gymnasium", "sb3_contrib", "stable_baselines3", "torch")

PACKAGES = ["agentkd"] + [
    each.name for each in pkgutil.iter_modules([str(LIBRARY)], "agentkd.") if each.ispkg
]


def _shown(module: ModuleType) -> set[str]:
    """The public names that are the library's own; modules come by being imported."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and getattr(value, "__module__", "agentkd").startswith("agentkd")
        and name not in ("annotations", "lazily", "TYPE_CHECKING")
    }


@pytest.mark.parametrize("name", PACKAGES)
def test_all_says_what_a_package_shows(name: str) -> None:
    """Each name in `__all__` is there, once, and no other name is public."""
    module = importlib.import_module(name)
    stated = getattr(module, "__all__", [])
    assert len(stated) == len(set(stated))
    assert [each for each in stated if not hasattr(module, each)] == []
    # Once imported, a package of the same name would hide what is meant.
    hidden = [each for each in stated if isinstance(getattr(module, each), ModuleType)]
    assert hidden == []
    assert _shown(module) - set(stated) == set()


def test_the_library_shows_what_an_embedder_needs() -> None:
    """Who owns the loop needs one import."""
    assert {"Agent", "Runtime"} <= set(agentkd.__all__)


@pytest.mark.parametrize(
    "modules",
    [
        "agentkd",
        "agentkd.runtime, agentkd.deploy.bundle, agentkd.executors.native",
        "agentkd.executors.architecture, agentkd.executors.executor, agentkd.refs",
        "agentkd.device, agentkd.fleet.device, agentkd.transport.mqtt, agentkd.transport.memory",
    ],
)
def test_what_acts_in_time_imports_no_training_code(modules: str) -> None:
    """A robot's loop starts without torch, Gymnasium or Stable-Baselines3."""
    code = f"import sys, {modules}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


RUN = "agentkd.read_bundle({file!r}).executor.act(np.zeros(3))"
NATIVE = "agentkd.load({file!r}).act(np.zeros(3))"
AGENT = "agentkd.Agent(agentkd.read_bundle({file!r}).executor).act(np.zeros(3))"
# A tool for people, a second ZIP reader, the rest of the network: none of it acts.
SLOW = {"asyncio", "difflib", "email", "http", "importlib.metadata", "ssl", "zipfile"}
LATER = {"logging", "tempfile"}
# The generators are a tenth of a start, and only a build runs a compiler.
BUILDING = {"numpy.random", "subprocess"}
PORTS = {"agentkd.runtime.ports", "agentkd.runtime.planner", "agentkd.runtime.workers.host"}


@pytest.mark.parametrize(
    ("code", "absent"),
    [(RUN, SLOW | LATER | BUILDING), (NATIVE, SLOW | BUILDING), (AGENT, SLOW | BUILDING | PORTS)],
    ids=["bundle", "native", "agent"],
)
def test_a_device_loads_numpy_and_safetensors_and_no_more(
    code: str, absent: set[str], tmp_path: Path
) -> None:
    """A bundle is read and acts with two packages, and without the slow modules."""
    part = Part("", "box", (3,), "float32")
    executor = initial("mlp:4", Spec(ObsSpec((part,)), DiscreteSpec(2)))
    file = str(tmp_path / "executor.akd")
    write_bundle(file, executor)
    # Whatever is there before the first line is the interpreter's own.
    lines = [
        "import sys; before = set(sys.modules)",
        "import numpy as np, agentkd",
        code.format(file=file),
        "print(*sorted(set(sys.modules) - before))",
    ]
    # The first one builds the kernel.
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(lines)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    loaded = set(done.stdout.split())
    assert loaded & absent == set()
    packages = {each.partition(".")[0] for each in loaded} - sys.stdlib_module_names
    # Cython makes a module of its own inside NumPy.
    named = {e for e in packages if not e.startswith(("_", "cython_runtime"))}
    assert named == {"agentkd", "numpy", "safetensors"}


def _flag(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "allow_pickle"


def _leaves_without_flag(node: ast.AST) -> bool:
    """Whether it is `if not allow_pickle: raise`, perhaps with another reason to."""
    if not isinstance(node, ast.If) or not isinstance(node.body[-1], ast.Raise):
        return False
    test = node.test
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        reasons = test.values
    else:
        reasons = [test]
    return any(
        isinstance(each, ast.UnaryOp) and isinstance(each.op, ast.Not) and _flag(each.operand)
        for each in reasons
    )


def _unasked(node: ast.AST) -> Iterator[ast.AST]:
    """What can run although `allow_pickle` is not given.

    A function that says in its name that it unpickles may; calling it counts.
    """
    if isinstance(node, ast.FunctionDef) and "unpickle" in node.name:
        return
    yield node
    for _, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        if isinstance(node, ast.If) and _flag(node.test) and value is node.body:
            continue
        for child in children:
            if isinstance(child, ast.AST):
                yield from _unasked(child)
                if _leaves_without_flag(child):
                    break


def _option(call: ast.Call, name: str) -> object:
    for keyword in call.keywords:
        if keyword.arg == name:
            value = keyword.value
            return value.value if isinstance(value, ast.Constant) else "computed"
    return None


_READERS = {"_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
_PICKLE = {"Unpickler", "_Unpickler", "_load", "_loads", "load", "loads"}


def unpickles(source: str) -> list[int]:
    """The lines of a module that read a pickle without being asked to by the flag."""
    return [
        node.lineno
        for node in _unasked(ast.parse(source))
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Attribute, ast.Call)) and _reads(node)
    ]


def _reads(node: ast.Import | ast.ImportFrom | ast.Attribute | ast.Call) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "pickle" or node.module in _READERS
    if isinstance(node, ast.Import):
        return any(
            each.name in _READERS or (each.name == "pickle" and each.asname) for each in node.names
        )
    if isinstance(node, ast.Attribute):
        return ast.unparse(node.value) == "pickle" and node.attr in _PICKLE
    if not isinstance(node.func, ast.Attribute):
        return "unpickle" in ast.unparse(node.func)
    match ast.unparse(node.func.value), node.func.attr:
        case "torch", "load":
            return _option(node, "weights_only") is not True
        case (("np" | "numpy"), "load"):
            return _option(node, "allow_pickle") not in (None, False)
        case _, "recv":
            # Without an argument it is a pipe's, which unpickles; a socket's has one.
            return not node.args
    return False


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b'')",
        "from pickle import loads",
        "import pickle as p",
        "import cloudpickle",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "connection.recv()",
        "if allow_pickle:\n    pass\nelse:\n    pickle.load(f)",
        "if not allow_pickle:\n    pickle.load(f)",
        "if not allow_pickle:\n    warn()\npickle.load(f)",
        "if not allow_pickle and old:\n    raise E\npickle.load(f)",
        "model = unpickle(path)",
    ],
)
def test_unpickling_is_noticed(source: str) -> None:
    """The search for pickles finds each way to read one."""
    assert unpickles(source)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\ntry: ...\nexcept pickle.UnpicklingError: ...",
        "if allow_pickle:\n    import pickle\n    pickle.loads(raw)",
        "if not allow_pickle or gone:\n    raise E\npickle.load(f)",
        "def _unpickled(raw):\n    return pickle.loads(raw)",
        "if allow_pickle:\n    _unpickled(raw)",
        "import torch\ntorch.load('x', weights_only=True)",
        "np.load('x', allow_pickle=False)",
        "socket.recv(4096)",
    ],
)
def test_safe_reading_is_not_taken_for_unpickling(source: str) -> None:
    """The search for pickles lets safe readers be."""
    assert unpickles(source) == []


@pytest.mark.parametrize("path", SOURCES, ids=[str(each.relative_to(ROOT)) for each in SOURCES])
def test_no_pickle_is_read_unasked(path: Path) -> None:
    """Only the reader that runs nothing has an unpickler; the rest is flagged."""
    found = unpickles(path.read_text(encoding="utf-8"))
    if path == LIBRARY / "planners" / "sb3" / "safe_pickle.py":
        assert len(found) == 1
        assert "def find_class" in path.read_text(encoding="utf-8")
    else:
        assert found == []


def _modules() -> dict[str, Path]:
    names = {
        ".".join(each.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): each
        for each in SOURCES
    }
    assert len(names) == len(SOURCES)
    return names


def _imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The library's modules that one imports: at the top, inside functions, and for types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                inner = f"{node.module}.{each.name}"
                found.add(inner if inner in known else node.module)
    return (found & set(known)) - {name}


def test_no_import_goes_in_a_circle() -> None:
    """Local imports and those for types count as well."""
    known = _modules()
    sorter = TopologicalSorter({name: _imports(name, path, known) for name, path in known.items()})
    sorter.prepare()


def test_no_file_is_longer_than_a_reader_takes_in() -> None:
    """450 lines at most."""
    long = {str(each): len(each.read_text().splitlines()) for each in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > 450} == {}


BANNED = {"epoch", "epochs", "frozen", "learner", "learners", "student", "students", "teacher"}
"""Other words for episode, executor, distiller and planner."""


def test_names_use_one_word_for_one_thing() -> None:
    """No module, class, function or argument is named by a synonym."""
    found = set()
    for path in SOURCES:
        names = {path.stem}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
        for name in names:
            words = set(re.findall(r"[a-z]+", re.sub(r"([A-Z])", r" \1", name).lower()))
            if words & BANNED:
                found.add(f"{path.relative_to(ROOT)}: {name}")
    # PPO's passes over its rollouts are epochs in its own words.
    assert {each for each in found if not each.endswith(" n_epochs")} == set()


def test_processes_are_spawned_in_one_place() -> None:
    """`Popen` is called once; compilers and emulators are run to their end instead."""
    calls = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Popen")
    ]
    assert len(calls) == 1, calls
