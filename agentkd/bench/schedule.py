"""The order in which cells are measured: those that make an executor before those that use it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agentkd.bench.cells import Cell
from agentkd.bench.orders import Done, Order
from agentkd.bench.pool import Backend
from agentkd.bench.rows import Ledger, Row, row_of
from agentkd.interrupt import held

_TRIES = 2
"""How often a cell is measured whose process was lost."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The cells of a suite by their keys, in order, and the recipe of each one's executor."""

    cells: Mapping[str, Cell]
    recipes: Mapping[str, str]

    def missing(self, rows: Mapping[str, Row]) -> list[str]:
        """Return the keys of cells without a row, or with an error's."""
        return [key for key in self.cells if key not in rows or rows[key].error]


def plan_of(cells: Sequence[Cell], digests: Mapping[str, str]) -> Plan:
    """Name cells by the hashes of their inputs."""
    by_key = {cell.key(digests): cell for cell in cells}
    return Plan(by_key, {key: cell.recipe(digests) for key, cell in by_key.items()})


def measure_all(
    plan: Plan, ledger: Ledger, executors: Path, backend: Backend, show: Callable[[Row], None]
) -> None:
    """Measure the cells that are missing, and append a row for each.

    A cell that raises has a row with its error, and the others go on. A cell whose process was lost
    is tried once more.

    Raises:
        WriteError: If the disk refuses.
        KeyboardInterrupt: After Ctrl-C; what is finished has its row.
    """
    _Schedule(plan, ledger, executors, backend, show).run()


class _Schedule:
    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        executors: Path,
        backend: Backend,
        show: Callable[[Row], None],
    ) -> None:
        self._plan, self._ledger, self._backend, self._show = plan, ledger, backend, show
        self._executors = executors
        self._tries: dict[str, int] = {}
        self._going: dict[str, str] = {}
        """The recipe that a cell under way makes; "" if it makes none."""
        self._waiting = self._sorted(plan.missing(ledger.rows))

    def _sorted(self, keys: Sequence[str]) -> deque[str]:
        """Put the cells that make executors first: others wait for them."""
        seen: set[str] = set()
        first: list[str] = []
        rest: list[str] = []
        for key in keys:
            recipe = self._plan.recipes[key]
            makes = bool(recipe) and recipe not in seen and not self._file(recipe).exists()
            seen.add(recipe)
            (first if makes else rest).append(key)
        return deque([*first, *rest])

    def _file(self, recipe: str) -> Path:
        return self._executors / f"{recipe}.akd"

    def run(self) -> None:
        while self._waiting or self._going:
            while self._backend.room > 0 and (key := self._next()) is not None:
                self._begin(key)
            for done in self._backend.ended():
                self._end(done)

    def _next(self) -> str | None:
        """Take the first cell whose executor is not being made."""
        making = set(self._going.values()) - {""}
        for key in self._waiting:
            if self._plan.recipes[key] not in making:
                self._waiting.remove(key)
                return key
        return None

    def _begin(self, key: str) -> None:
        recipe = self._plan.recipes[key]
        file = str(self._file(recipe).absolute()) if recipe else ""
        makes = recipe if recipe and not self._file(recipe).exists() else ""
        self._going[key] = makes
        self._tries[key] = self._tries.get(key, 0) + 1
        self._backend.begin(Order(key, self._plan.cells[key], file))

    def _end(self, done: Done) -> None:
        recipe = self._going.pop(done.key)
        if done.lost and self._tries[done.key] < _TRIES:
            self._waiting.appendleft(done.key)
            return
        self._keep(done)
        if recipe and not self._file(recipe).exists():
            self._give_up(recipe, done)

    def _give_up(self, recipe: str, done: Done) -> None:
        """Give the cells whose executor could not be made the same error."""
        error = f"Its executor was not made: {done.error}"
        for key in [each for each in self._waiting if self._plan.recipes[each] == recipe]:
            self._waiting.remove(key)
            self._keep(replace(done, key=key, error=error))

    def _keep(self, done: Done) -> None:
        row = row_of(self._plan.cells[done.key], done)
        with held():
            self._ledger.append(row)
        self._show(row)
