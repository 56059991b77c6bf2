"""Measuring networks and machines: a model in, counts per layer out; this computer in, figures with units out."""

from smelt.measure.explain import Explanation, explain
from smelt.measure.machine import Machine, inspect_machine
from smelt.measure.profile import profile, profile_training
from smelt.measure.summary import Row, Summary, summary
from smelt.measure.times import Profile
from smelt.measure.tune import Tuned, tune

__all__ = [
    "Explanation",
    "Machine",
    "Profile",
    "Row",
    "Summary",
    "Tuned",
    "explain",
    "inspect_machine",
    "profile",
    "profile_training",
    "summary",
    "tune",
]
