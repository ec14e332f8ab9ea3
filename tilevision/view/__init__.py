"""The live view of a run in a notebook; loads matplotlib and widgets, so it is loaded on use."""

from __future__ import annotations

from tilevision.view.live import LiveView, watch
from tilevision.view.panel.exploring import explore
from tilevision.view.panel.panel import Panel
from tilevision.view.recorded import replay

__all__ = ["LiveView", "Panel", "explore", "replay", "watch"]
