"""The parts of the batch-size profile: measuring, watching, choosing, reporting. `sweeps.batch_size` is the whole."""
