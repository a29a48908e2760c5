"""Reports: one value, shown in a terminal and written as HTML, Markdown, CSV, JSON."""
