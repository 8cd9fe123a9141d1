"""Batch-size profiles, and sweeps through submitit: drivers on top of `train`."""
