"""Sweeps: many runs of one command line, each a job. Their folder, how each job stands, what may be done to them."""
