"""What commands print with: a console for which text is only text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

from rich import console as rich_console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from agentkd.printable import printable


@final
class Console(rich_console.Console):
    """A console without markup that shows control characters as escapes.

    Styles come as `Text` or as arguments, so a name such as "[red]" or one that holds an escape
    sequence is printed as it is spelt.

    Args:
        stderr: Whether it prints to standard error.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

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
