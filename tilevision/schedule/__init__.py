"""The scheduler's decisions: pure, state and clock in, actions out."""

from tilevision.schedule.policy import Policy, Quota, Retry

__all__ = ["Policy", "Quota", "Retry"]
