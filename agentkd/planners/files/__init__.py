"""Policy files of other libraries, as planners; nothing in them is unpickled."""
