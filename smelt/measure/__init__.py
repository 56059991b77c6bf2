"""Measuring networks and machines: a model in, counts per layer out; this computer in, figures with units out."""

from smelt.measure.machine import Machine, inspect_machine
from smelt.measure.profile import Profile, profile
from smelt.measure.summary import Row, Summary, summary

__all__ = ["Machine", "Profile", "Row", "Summary", "inspect_machine", "profile", "summary"]
