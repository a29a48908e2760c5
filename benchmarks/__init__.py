"""What was measured, and how: studies beside the library and outside its wheel."""
