"""The scheduler's decisions: pure, state and clock in, actions out."""

from tilevision.schedule.policy import Policy, Quota, Retry
from tilevision.schedule.scheduler import Scheduler

__all__ = ["Policy", "Quota", "Retry", "Scheduler"]
