"""The identities of tilevision's own classes and functions: fixed, wherever their files lie.

A user's function that names `tv.Findings` is stored under an identity in which that class takes
part. If the identity held the file or the release number, moving a file or releasing a version
would run every stored tile again, though no answer changed. So it holds the public name, spelled
as it was when the first identities were stored.
"""

from __future__ import annotations

__all__ = ["IDENTITY_VERSION", "own_identity"]

# Stands for the release number in every identity. Changing it re-runs all tiles of all functions
# that name something of tilevision: change it only where their answers change.
IDENTITY_VERSION = "0.1.0"

# Modules that public names were recorded under, where they lie elsewhere today.
_RECORDED_MODULES = {
    f"tilevision.analysis.{name}": f"tilevision.{name}"
    for name in ("account", "digest", "heatmap", "units")
} | {
    f"tilevision.catalogue.{name}": f"tilevision.modelspec.{name}"
    for name in ("registry", "resolve")
}


def own_identity(module: str, name: str) -> tuple[str, str]:
    """Return the module and name that stand for something of tilevision in identities."""
    return _RECORDED_MODULES.get(module, module), name
