"""What leaves the workstation: executor files."""
