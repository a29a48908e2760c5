"""Suites: what their files may say, which cells they have, and what a cell depends on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from agentkd.bench.cells import cells_of, digests_of
from agentkd.bench.methods import check_method
from agentkd.bench.suite import find_suite, read_suite, with_methods
from agentkd.cli.first_look import check_planner
from agentkd.cli.main import main
from agentkd.errors import AgentkdError, ConfigError

ROOT = Path(__file__).parents[1]
SUITES = sorted((ROOT / "benchmarks" / "suites").glob("*.toml"))
TASK = '[[tasks]]\nenv = "tests.bench_envs:Walk"\nplanner = "tests.bench_methods:forward"\n'


def suite_file(folder: Path, text: str) -> Path:
    """Write a suite."""
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ("seeds = [1\nepisodes", ["is not TOML", "line 2"]),
        (f"seeds = {'9' * 5000}\n{TASK}", ["too many digits", "smaller"]),
        ("", ["has no tasks; write a table [[tasks]] with env and planner"]),
        ("[[task]]\nenv = 'CartPole-v1'\n", ["unknown key 'task'", "Did you mean 'tasks'?"]),
        ("aboutt = 'x'\n", ["unknown key 'aboutt'", "Did you mean 'about'?"]),
        ("sedes = 3\n", ["unknown key 'sedes'", "Did you mean 'seeds'?"]),
        ("env = 'CartPole-v1'\nplanner = 'x'\n", ["env belongs into a [[tasks]] table"]),
        ("tasks = 3", ["tasks is 3", "[[tasks]]"]),
        (f"seed = 3\n{TASK}", ["unknown key 'seed'", "Did you mean 'seeds'?"]),
        (f'guard = "a:b"\n{TASK}', ["unknown key 'guard'", "[[tasks]] table"]),
        (f"seeds = 0\n{TASK}", ["seeds is 0", "from 1 to"]),
        (f"seeds = [1, 1]\n{TASK}", ["seeds is [1, 1]", "each once"]),
        (f"seeds = []\n{TASK}", ["seeds is []", "list of them"]),
        (f"seeds = true\n{TASK}", ["seeds is True", "whole number"]),
        (f"episodes = 2.5\n{TASK}", ["episodes is 2.5", "whole number"]),
        (f"hz = 0\n{TASK}", ["hz is 0", "ticks per second"]),
        (f"latencies = [-1]\n{TASK}", ["latencies is [-1]", "from 0"]),
        (f'arms = ["runtme"]\n{TASK}', ["arms is ['runtme']", "runtime"]),
        (f'executors = ["mpl:64"]\n{TASK}', ["executors is ['mpl:64']", "mlp"]),
        (f'executors = ["no.akd"]\n{TASK}', ["no file no.akd", "as seen from"]),
        (f'methods = ["dstil"]\n{TASK}', ["methods is ['dstil']", "module:attribute"]),
        (f'methods = ["clone", "clone"]\n{TASK}', ["its own name"]),
        (f'methods = [{{name = "x"}}]\n{TASK}', ["methods is", "method = "]),
        (f'methods = [{{method = "clone", labels = 0}}]\n{TASK}', ["labels is 0"]),
        (f"about = 3\n{TASK}", ["about is 3"]),
        (f"{TASK}sedes = 1\n", ["tasks[1]", "'sedes'", "'seeds'"]),
        (f"{TASK}[[tasks]]\nenv = 'CartPole-v1'\n", ["tasks[2] has no planner"]),
        (f"{TASK}[[tasks]]\nplanner = 'x'\n", ["tasks[2] has no env"]),
        ("[[tasks]]\nenv = 'CartPol-v1'\nplanner = 'x'\n", ["tasks[1]: env", "CartPole-v1"]),
        ("[[tasks]]\nenv = ''\nplanner = 'x'\n", ["tasks[1]: env is ''"]),
        (f"{TASK}guard = 'safe'\n", ["guard is 'safe'", "module:attribute"]),
    ],
)
def test_a_wrong_suite_names_file_key_value_and_remedy(
    text: str, reasons: list[str], tmp_path: Path
) -> None:
    """Whatever is wrong with it."""
    path = suite_file(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        read_suite(path)
    said = str(raised.value)
    assert said.startswith(f"{path}")
    for reason in reasons:
        assert reason in said


def test_a_suite_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By name with the nearest, by file with the folder."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match="Did you mean 'quick'"):
        find_suite("quik")
    with pytest.raises(ConfigError, match="no such file"):
        find_suite("mine.toml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="run from agentkd's repository"):
        find_suite("quick")


def test_cells_are_every_combination_once(tmp_path: Path) -> None:
    """With random actions and the planner that is never late, which nothing multiplies."""
    common = 'seeds = 2\nexecutors = ["mlp:4", "mlp:8"]\nmethods = ["distill", "clone"]\n'
    common += 'arms = ["planner", "executor", "int8", "runtime"]\nlatencies = [0, 3, 5]\n'
    suite = read_suite(suite_file(tmp_path, common + TASK))
    count = Counter(each.arm for each in cells_of(suite))
    # Two seeds; two executors by two methods; three latencies, of which the planner alone has two.
    assert count == {
        "random": 2,
        "planner": 2 * (1 + 2),
        "executor": 2 * 4,
        "int8": 2 * 4,
        "runtime": 2 * 4 * 3,
    }
    twice = read_suite(suite_file(tmp_path, common + TASK + TASK))
    assert len(cells_of(twice)) == sum(count.values())


@pytest.mark.parametrize(
    ("key", "mine", "theirs", "remedy"),
    [
        ("labels", "10", "20", 'name = "distill 2"'),
        ("guard", '"a:b"', '"a:c"', "suite of its own"),
        ("holds", '"a:b"', '"a:c"', "suite of its own"),
        ("roll_forward", '"a:b"', '"a:c"', "suite of its own"),
        ("planner_sees", '"0:1"', '"1:2"', "suite of its own"),
        ("executor_sees", '"0:1"', '"1:2"', "suite of its own"),
        ("hz", "10.0", "20.0", "suite of its own"),
        ("eval_seed", "100", "200", "suite of its own"),
    ],
)
def test_groups_that_tables_would_mix_are_refused(
    key: str, mine: str, theirs: str, remedy: str, tmp_path: Path
) -> None:
    """Also with other seeds: the runs would be taken for one contender's."""
    head = 'arms = ["executor", "runtime"]\nlatencies = [1]\n'
    one, other = f"{TASK}{key} = {mine}\n", f"{TASK}{key} = {theirs}\nseeds = [7]\n"
    with pytest.raises(
        ConfigError, match=rf"tasks\[1\] and tasks\[2\].* differ in {key}: "
    ) as told:
        cells_of(read_suite(suite_file(tmp_path, head + one + other)))
    assert remedy in str(told.value)
    assert mine.strip('"') in str(told.value)
    assert theirs.strip('"') in str(told.value)


def test_groups_that_tables_tell_apart_may_differ(tmp_path: Path) -> None:
    """By the method's name, the executor or the planner's latency; and same cells are one."""
    more = 'methods = [{name = "more", method = "distill", labels = 20}]\n'
    text = f"labels = 10\n{TASK}{TASK}{more}{TASK}executors = 'mlp:8'\nlabels = 30\n"
    cells = [each for each in cells_of(read_suite(suite_file(tmp_path, text))) if each.acts]
    assert sorted(each.labels for each in cells) == [10] * 3 + [20] * 3 + [30] * 3


def test_each_seed_lives_episodes_of_its_own(tmp_path: Path) -> None:
    """Those of seed s begin at eval_seed + s * episodes, whatever other seeds there are."""
    text = f"episodes = 7\neval_seed = 100\nseeds = [0, 3]\n{TASK}"
    cells = cells_of(read_suite(suite_file(tmp_path, text)))
    assert {(each.seed, each.first_seed) for each in cells} == {(0, 100), (3, 121)}


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    """It is not made by each of the methods."""
    file = ROOT / "policies" / "lunarlander" / "executor.akd"
    text = f'seeds = 1\nmethods = ["distill", "clone"]\nexecutors = ["{file}"]\n{TASK}'
    cells = [c for c in cells_of(read_suite(suite_file(tmp_path, text))) if c.acts]
    assert [(each.method, each.reference, each.labels) for each in cells] == [("file", "", 0)]


def test_a_key_holds_everything_that_a_cell_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of the suite, options of the method, and the files behind references."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = tmp_path / "own_method.py"
    own.write_text("def method(task, **how): ...\n")
    method = '{name = "own", method = "own_method:method", width = 3}'
    text = f"seeds = 1\nepisodes = 5\nlabels = 10\nmethods = [{method}]\n{TASK}"

    def keys(told: str) -> tuple[str, str]:
        cells = cells_of(read_suite(suite_file(tmp_path, told)))
        digests = digests_of(cells)
        (acting,) = (each for each in cells if each.acts)
        return acting.key(digests), acting.recipe(digests)

    first = keys(text)
    assert keys(text) == first
    # How it is measured changes the cell, and not its executor.
    longer = keys(text.replace("episodes = 5", "episodes = 6"))
    assert longer[0] != first[0]
    assert longer[1] == first[1]
    for other in (text.replace("width = 3", "width = 4"), text.replace("= 10", "= 11")):
        assert all(x != y for x, y in zip(keys(other), first, strict=True))
    own.write_text("def method(task, **how): return 1\n")
    assert all(x != y for x, y in zip(keys(text), first, strict=True))


def test_what_a_cell_does_not_name_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Least of all the whole working directory, which "" would be as a path."""
    monkeypatch.chdir(tmp_path)
    read = []

    def files(paths: list[Path]) -> str:
        read.extend(paths)
        return ""

    monkeypatch.setattr("agentkd.bench.cells._of_files", files)
    (tmp_path / "large.bin").write_bytes(b"0")
    assert "" not in digests_of(cells_of(read_suite(suite_file(tmp_path, TASK))))
    assert {each.name for each in read} == {"bench_envs.py", "bench_methods.py", "methods.py"}


@pytest.mark.parametrize("key", ["planner_sees", "executor_sees"])
def test_a_key_holds_the_modules_of_views(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an executor learns from depends on them, also with a past."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = tmp_path / "own_view.py"
    own.write_text('VIEW = "0:1"\n')
    text = f'seeds = 1\n{TASK}{key} = "own_view:VIEW, stack:2"\n'

    def keys() -> tuple[str, str]:
        cells = cells_of(read_suite(suite_file(tmp_path, text)))
        digests = digests_of(cells)
        (acting,) = (each for each in cells if each.acts)
        return acting.key(digests), acting.recipe(digests)

    first = keys()
    assert keys() == first
    own.write_text('VIEW = "1:2"\n')
    assert all(x != y for x, y in zip(keys(), first, strict=True))


def test_methods_of_the_command_line_come_besides(tmp_path: Path) -> None:
    """By name or reference, each once; anything else is refused."""
    suite = read_suite(suite_file(tmp_path, TASK))
    more = with_methods(suite, ("clone", "distill", "tests.bench_methods:fresh"))
    names = [each.name for each in more.groups[0].methods]
    assert names == ["distill", "clone", "tests.bench_methods:fresh"]
    with pytest.raises(ConfigError, match="--method 'clon'"):
        with_methods(suite, ("clon",))


def test_a_function_that_is_no_method_is_told_before_anything_runs() -> None:
    """By the arguments that it has, and those that it is given."""
    check_method("tests.bench_methods:fresh", {"scale": 2.0})
    with pytest.raises(ConfigError, match="labels: 'int'"):
        check_method("tests.bench_methods:unlike", {})
    with pytest.raises(ConfigError, match="scal"):
        check_method("tests.bench_methods:fresh", {"scal": 2.0})
    with pytest.raises(ConfigError, match="is a PosixPath"):
        check_method("tests.programs:ROOT", {})


@pytest.mark.parametrize("path", SUITES, ids=[each.stem for each in SUITES])
def test_shipped_suites_can_be_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they name is there, and each is on its page."""
    monkeypatch.chdir(ROOT)
    suite = read_suite(path)
    for group in suite.groups:
        for planner in group.planner:
            check_planner(planner)
        for method in group.methods:
            check_method(method.reference, method.options)
    assert suite.about.endswith(".")
    assert cells_of(suite)
    page = (ROOT / "docs" / "reference" / "bench.md").read_text(encoding="utf-8")
    assert f"| `{path.stem}` |" in page


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["quick", "--jobs", "0"], "--jobs is 0"),
        (["quick", "--only", "nobody"], "--only nobody"),
        (["quick", "--method", "tests.bench_methods:gone"], "'gone'"),
        (["quick", "--out", "tests"], "did not write"),
        (["quick", "--overwrite", "--resume"], "exclude each other"),
    ],
)
def test_wrong_options_end_in_status_2(
    words: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anything is measured, with the value."""
    monkeypatch.chdir(ROOT)
    assert main(["bench", *words]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_a_planner_that_is_not_there_is_told_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the suite's file and the table."""
    path = suite_file(tmp_path, TASK.replace("tests.bench_methods:forward", "no/planner.zip"))
    assert main(["bench", str(path), "--out", str(tmp_path / "out")]) == 2
    said = "".join(capsys.readouterr().err.split())
    assert f"{path}:tasks[1]:Noplanner'no/planner.zip'" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        *((key, "tests.bench_methods:forwrd") for key in ("guard", "holds", "roll_forward")),
        ("roll_forward", "Pendulm-v1"),
        ("roll_forward", "tests.bench_envs:Wlak-v0"),
    ],
)
def test_a_reference_that_leads_nowhere_is_told_first(
    key: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before cells that take hours fail by it, and with the table and what is missing."""
    path = suite_file(tmp_path, f'{TASK}\n{key} = "{name}"\n')
    assert main(["bench", str(path), "--out", str(tmp_path / "out")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "tasks[1]" in said
    assert name.rpartition(":")[2] in said
    assert not (tmp_path / "out").exists()


def test_every_key_is_on_the_page(tmp_path: Path) -> None:
    """docs/reference/bench.md tells each key of a suite and each column of a row."""
    from agentkd.bench.rows import COLUMNS
    from agentkd.bench.suite import _READERS

    page = (ROOT / "docs" / "reference" / "bench.md").read_text(encoding="utf-8")
    for name in (*_READERS, *COLUMNS):
        assert f"`{name}`" in page, name


def test_errors_are_ours(tmp_path: Path) -> None:
    """A suite that is no file, or no text."""
    with pytest.raises(AgentkdError):
        read_suite(tmp_path)
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_suite(path)
