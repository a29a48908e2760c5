"""Cells that are measured on the machines of a Ray cluster."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

from agentkd.bench.cells import Cell
from agentkd.bench.orders import Done, Order, done_of, words_of
from agentkd.bench.work import LARGEST, measure, told
from agentkd.errors import ConfigError
from agentkd.files import read_file, write_atomic

_AHEAD = 2
"""Cells that are handed over for each processor, so that none waits for the next."""
_LOOK = 1.0
"""Seconds after which the cluster is asked again."""
_LOST = 3
"""How often Ray itself measures a cell again whose worker was lost."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@final
class Cluster:
    """The processors of a Ray cluster, each of which measures a cell at a time.

    Executor files travel with the cells, so the machines need no folder in common. Each needs
    agentkd, and the modules and files that the suite names, at the same paths.
    """

    def __init__(self, address: str) -> None:
        """Connect.

        Raises:
            ConfigError: If there is no cluster.
            ModuleNotFoundError: If Ray is not installed.
        """
        import ray

        self._ray: Any = ray
        threads, local = dict.fromkeys(_THREADS, "1"), address == "local"
        try:
            # The processes of a cluster that is started here inherit this. A runtime environment
            # would start a second worker for each processor.
            with _environment(threads if local else {}):
                ray.init(
                    address=address,
                    runtime_env=None if local else {"env_vars": threads},
                    log_to_driver=False,
                    configure_logging=False,
                    include_dashboard=False if local else None,
                )
        except Exception as error:
            why = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"--ray {address}: no cluster answers there ({why}). "
                "Start one with: ray start --head; or give local, for one of this machine."
            ) from error
        self._processors = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._measure = self._ray.remote(num_cpus=1, max_retries=_LOST)(_measured)
        self._going: dict[Any, Order] = {}

    @property
    def room(self) -> int:
        """How many more cells may begin."""
        return _AHEAD * self._processors - len(self._going)

    def begin(self, order: Order) -> None:
        """Hand a cell over, with its executor if that is there."""
        path = Path(order.file) if order.file else None
        known = read_file(path, LARGEST) if path is not None and path.exists() else None
        where = {"path": sys.path, "folder": str(Path.cwd())}
        letter = json.dumps({"key": order.key, "cell": asdict(order.cell), "where": where})
        self._going[self._measure.remote(letter.encode(), known)] = order

    def ended(self) -> Sequence[Done]:
        """Wait a moment, and return the cells that have ended since."""
        if not self._going:
            return []
        ready, _ = self._ray.wait(list(self._going), timeout=_LOOK)
        return [self._received(each, self._going.pop(each)) for each in ready]

    def _received(self, answer: Any, order: Order) -> Done:
        """Keep the executor that was made, and say what became of the cell."""
        try:
            words, made = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            return Done(order.key, error=told(error), lost=True)
        if made is not None and order.file:
            write_atomic(order.file, made)
        return done_of(words)

    def close(self) -> None:
        """Cancel what is under way, and leave the cluster."""
        for each in self._going:
            with contextlib.suppress(Exception):
                self._ray.cancel(each, force=True)
        self._ray.shutdown()


def _measured(letter: bytes, known: bytes | None) -> tuple[bytes, bytes | None]:
    """Measure a cell on a machine of the cluster; give its words and the executor it made."""
    order = json.loads(letter)
    # What the driver imports, this process imports too.
    sys.path += [each for each in order["where"]["path"] if each not in sys.path]
    with contextlib.suppress(OSError):
        os.chdir(order["where"]["folder"])
    made: list[bytes] = []
    try:
        done = Done(order["key"], measure(Cell(**order["cell"]), known, made.append))
    except (Exception, SystemExit) as error:
        done = Done(order["key"], error=told(error))
    return words_of(done), made[0] if made else None


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """Give processes that are started meanwhile further environment variables."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
