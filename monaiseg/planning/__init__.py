"""Planning: settings for a data task, a machine and a number of minutes, with reasons."""

from monaiseg.planning.estimates import Estimate, estimate_training, minutes_on_cpu
from monaiseg.planning.limits import Limits
from monaiseg.planning.measurements import Measurements
from monaiseg.planning.planner import Plan, plan
from monaiseg.planning.reasons import Choice

__all__ = [
    "Choice",
    "Estimate",
    "Limits",
    "Measurements",
    "Plan",
    "estimate_training",
    "minutes_on_cpu",
    "plan",
]
