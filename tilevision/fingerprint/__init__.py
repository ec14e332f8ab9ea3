"""The identity of functions, values and files: the same in every process and kernel.

A function is what its answers depend on: its code as compiled, its defaults, what it
encloses, and the globals it names, followed into the user's own functions, classes and
modules. Libraries count by name and version. File names, line numbers, the function's
name, comments, docstrings and annotations do not count.

- A lambda and a decorated function are what they are: code, and what they enclose.
- A name that is neither a global nor built in counts by its name only, as does a global
  that tells where a module lies (``__file__``).
- A global that the function itself assigns or fills (a model made at the first call, a cache, a
  counter) counts as it was before the first call: see `tilevision.fingerprint.values`.
- A function imported while another one runs is not seen, so importing the user's own
  modules there is refused.
- What a function reads from disk or network is not seen. Whoever does so passes
  ``tv.model(f, fingerprint=…)``.
- Anything whose state cannot be read (sessions, locks, open files) is a `ModelError`.
"""

from tilevision.fingerprint.provenance import installed, version
from tilevision.fingerprint.values import Leftovers
from tilevision.fingerprint.walk import (
    Walk,
    fingerprint_file,
    fingerprint_function,
    fingerprint_value,
)

__all__ = [
    "Leftovers",
    "Walk",
    "fingerprint_file",
    "fingerprint_function",
    "fingerprint_value",
    "installed",
    "version",
]
