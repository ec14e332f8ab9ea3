"""The panel's controls: settings, run buttons, filters, lists, and what they do."""
