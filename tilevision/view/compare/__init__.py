"""Two results in one picture: differences by colour, a divider to drag, blinking."""
