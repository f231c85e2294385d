"""What a network costs: parameters, MACs, bytes, activation memory; latency, measured."""

from .latency import Latency, latency, side_by_side
from .machine import machine
from .profiling import LayerProfile, Profile, profile

__all__ = [
    "Latency",
    "LayerProfile",
    "Profile",
    "latency",
    "machine",
    "profile",
    "side_by_side",
]
