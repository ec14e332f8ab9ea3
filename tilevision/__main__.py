"""``python -m tilevision`` is the ``tilevision`` command."""

from tilevision.cli import main

main(prog_name="python -m tilevision")
