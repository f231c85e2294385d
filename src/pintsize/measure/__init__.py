"""What a network costs: parameters, MACs, bytes, activation memory; latency and peak memory, measured."""

from .latency import Latency, latency, side_by_side
from .machine import machine
from .memory import PeakMemory, memory_use, peak_memory
from .profile import LayerProfile, Profile, profile

__all__ = [
    "Latency",
    "LayerProfile",
    "PeakMemory",
    "Profile",
    "latency",
    "machine",
    "memory_use",
    "peak_memory",
    "profile",
    "side_by_side",
]
