"""Live views in a notebook. They load widgets, so import this only when used."""

from __future__ import annotations

from tilevision.display import loading

with loading():
    from tilevision.view.live import LiveView, watch
    from tilevision.view.panel.panel import Panel, explore
    from tilevision.view.recorded import replay

__all__ = ["LiveView", "Panel", "explore", "replay", "watch"]
