"""A small synthesiser of instruments, voices, rooms and clips, for the toy collections."""

from understudy.datasets.synth.clip import VERSION, ClipPlan, generator, plan, render
from understudy.datasets.synth.signal import RATE_HZ

__all__ = ["RATE_HZ", "VERSION", "ClipPlan", "generator", "plan", "render"]
