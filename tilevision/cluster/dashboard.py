"""Dask's dashboard, built when somebody first asks for it.

Building it imports Bokeh, which costs a scheduler more time than all the rest of its start; most
runs are over before anybody looks. So the scheduler serves its address from the start, and the
first request for any of its pages builds them all.
"""

from __future__ import annotations

from typing import Any

__all__ = ["build_on_request"]

# What monitoring asks for every few seconds; distributed answers these without Bokeh.
_WITHOUT_BOKEH = ("/health", "/metrics", "/prometheus")


def build_on_request(scheduler: Any) -> None:
    """Have the first request build the dashboard.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        Started with ``dashboard=False`` and a ``dashboard_address``.
    """
    application = scheduler.http_application
    find = application.find_handler

    def find_handler(request: Any, **kwargs: Any) -> Any:
        if not request.path.startswith(_WITHOUT_BOKEH):
            # First: what goes wrong in building it shall not be tried again at every request.
            application.find_handler = find
            from distributed.dashboard.scheduler import connect

            connect(application, scheduler.http_server, scheduler, prefix="/")
        return find(request, **kwargs)

    application.find_handler = find_handler
