"""File formats, one file or two each: what they hold becomes pixels by the window."""
