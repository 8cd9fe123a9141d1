"""What the machine does while a run goes on: its GPUs, CPU and memory, sampled beside training."""

from expkit.machine.gpu_sampler import GPUSampler
from expkit.machine.peak import PeakMemory

__all__ = ["GPUSampler", "PeakMemory"]
