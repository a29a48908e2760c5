"""What commands print with: a console for text only, and a live view of progress."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, final

from rich import console as rich_console
from rich.console import ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.status import Status
from rich.table import Table
from rich.text import Text

from agentkd.printable import printable

Look = TypeVar("Look")
Facts = tuple[float, Mapping[str, str]]
"""The share that is done, 0 to 1, and what to show by name, most important first."""

_PANEL_EVERY = 0.125
_LINE_EVERY = 5.0
_IN_A_LINE = 4
"""Facts that a line shows."""


@final
class Console(rich_console.Console):
    """A console without markup that shows control characters as escapes.

    Styles come as `Text` or as arguments, so a name such as "[red]" or one that holds an escape
    sequence is printed as it is spelt.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a text of a string, in its printed width."""
        return super().render_str(printable(text, lines=True), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render, with control characters shown; everything printed passes here."""
        for segment in super().render(renderable, options):
            shown = printable(segment.text, lines=True)
            if segment.control or shown == segment.text:
                yield segment
            else:
                yield Segment(shown, segment.style)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """Show a spinner with a text, which is not markup either."""
        return _Status(_text(status), console=self, **options)


@final
class _Status(Status):
    def update(self, status: RenderableType | None = None, **options: Any) -> None:
        super().update(None if status is None else _text(status), **options)


def _text(shown: RenderableType) -> RenderableType:
    return Text(shown) if isinstance(shown, str) else shown


def figure(value: float, digits: int = 1) -> str:
    """Return a number with so many digits after the point, – for NaN."""
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"


@final
class View:
    """What a command shows while it works: a live panel on a terminal, lines elsewhere."""

    def __init__(self, *heading: str | tuple[str, str]) -> None:
        self.console = Console()
        self.console.print(Text.assemble(*heading))

    def say(self, text: str) -> None:
        """Print a line about what comes next."""
        self.console.print(Text(text, "dim"))

    def warn(self, text: str) -> None:
        """Print a line that the user should read before going on."""
        self.console.print(Text(text, "yellow"))

    @contextlib.contextmanager
    def follow(self, name: str, tell: Callable[[Look], Facts]) -> Iterator[Callable[[Look], None]]:
        """Give what takes each look at something that goes on, and shows some of them.

        `tell` makes facts of those.
        """
        live = self.console.is_interactive
        every = _PANEL_EVERY if live else _LINE_EVERY
        screen = Live(console=self.console, refresh_per_second=8, transient=True)
        begin = shown = time.monotonic()
        before: float | None = None

        def show(look: Look) -> None:
            nonlocal shown, before
            now = time.monotonic()
            if now - shown < every:
                return
            shown = now
            done, facts = tell(look)
            before = done if before is None else before
            if live:
                left = (now - begin) * (1 - done) / max(done - before, 1e-9)
                told = f", {left:.0f} s left" if before < done < 1 else ""
                screen.update(_panel(name, done, f"{done:.0%}{told}", facts))
            else:
                few = list(facts.items())[:_IN_A_LINE]
                words = "  ".join(f"{fact} {value}" for fact, value in few)
                line = Text(f"{name} {done:4.0%}  {words}")
                self.console.print(line, soft_wrap=True)

        with screen if live else contextlib.nullcontext():
            yield show


def _panel(name: str, done: float, foot: str, facts: Mapping[str, str]) -> Panel:
    grid = Table.grid(padding=(0, 3))
    cells = [Text(each) for pair in facts.items() for each in pair]
    for at in range(0, len(cells), 4):
        grid.add_row(*cells[at : at + 4])
    bar = ProgressBar(total=1.0, completed=done, width=60)
    body = Group(grid, bar, Text(foot, "dim"))
    return Panel(body, title=Text(name), title_align="left")
