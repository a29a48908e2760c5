"""What `agentkd eval` shows while it works."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from agentkd.cli.terminal import Console
from agentkd.measure.evaluate import Watch

_LINE_EVERY = 5.0


@final
class EvalView:
    """Shows a comparison: a bar on a terminal, lines elsewhere."""

    def __init__(self, env: str, episodes: int, seed: int) -> None:
        """Say what is measured."""
        self.console = Console()
        self.console.print(
            Text.assemble(
                (env, "bold"), f"   {episodes} episodes each, seeds {seed} to {seed + episodes - 1}"
            )
        )

    def say(self, text: str) -> None:
        """Write a line."""
        self.console.print(text, style="dim")

    @contextlib.contextmanager
    def watch(self, name: str) -> Iterator[Watch]:
        """Show a policy's episodes as they end."""
        if not self.console.is_interactive:
            yield self._lines(name)
            return
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[score]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        with bar:
            task = bar.add_task(name, total=None, score="")

            def show(done: int, of: int, mean: float) -> None:
                score = f"return {mean:,.1f}"
                bar.update(task, completed=done, total=of, score=score)

            yield show

    def _lines(self, name: str) -> Watch:
        printed = time.monotonic()

        def line(done: int, of: int, mean: float) -> None:
            nonlocal printed
            if time.monotonic() - printed < _LINE_EVERY:
                return
            printed = time.monotonic()
            text = f"{name}: {done} of {of} episodes, return {mean:,.1f}"
            self.console.print(Text(text))

        return line
