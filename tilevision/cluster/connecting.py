"""A cluster that is known by its scheduler's address."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import distributed
from distributed import Client, Security, rpc
from distributed.comm import get_address_host_port
from distributed.versions import VersionMismatchWarning

from tilevision.cluster.handle import Cluster
from tilevision.errors import ClusterError

__all__ = ["connected"]

CONNECT_SECONDS = 10.0


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Use the cluster whose scheduler is at `address`, within the block.

    Parameters
    ----------
    address : str
        ``"tcp://10.0.0.1:8786"``.

    Raises
    ------
    ClusterError
        If no scheduler answers there.
    """
    client = _client(address)
    try:
        yield Cluster(client)
    finally:
        client.close(timeout=CONNECT_SECONDS)


def _client(address: str) -> Client:
    try:
        # A client that was given nonsense cannot be closed again, and one that is led to another
        # kind of server waits for ever: look first.
        get_address_host_port(address)
        kind = asyncio.run(asyncio.wait_for(_kind(address), CONNECT_SECONDS))
        if kind == "Scheduler":
            with warnings.catch_warnings():
                # The caller compares versions itself, and says what they mean.
                warnings.simplefilter("ignore", VersionMismatchWarning)
                return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except ClusterError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:200] or f"no answer in {CONNECT_SECONDS:g} s"
        raise ClusterError(
            f"No Dask scheduler answers at {address or 'an empty address'} ({words}); check the "
            "address, and that the scheduler runs and can be reached from here."
        ) from error
    raise ClusterError(
        f"There is a Dask {kind.lower()} at {address}; give the scheduler's address."
    )


async def _kind(address: str) -> str:
    """Return what kind of Dask server is at an address; refuse one that no `Client` can ask."""
    arguments = Security().get_connection_args("client")
    async with rpc(address, timeout=CONNECT_SECONDS, connection_args=arguments) as there:
        kind = str((await there.identity())["type"])
        if kind == "Scheduler":
            try:
                await there.identity(n_workers=1)
            except TypeError as error:
                version = (await there.versions())["packages"]["distributed"]
                raise ClusterError(
                    f"The scheduler at {address} has distributed {version}, too far from the "
                    f"{distributed.__version__} here; install the same."
                ) from error
        return kind
