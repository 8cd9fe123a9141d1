"""Batch-size profiles and cluster sweeps: drivers on top of `train`. What is here so far: nothing but the place."""
