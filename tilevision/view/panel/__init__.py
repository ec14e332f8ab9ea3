"""The controls of the panel: forms, buttons, lists and what they do."""
