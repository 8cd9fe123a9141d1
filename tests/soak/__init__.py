"""A soak: one training with everything on, under random faults, held against one that nothing has troubled.

`python -m tests.soak --minutes 60 --seed 0` (`make soak`) writes docs/soak.md. `plan` draws the faults, `place` is
where it happens, `training` starts and ends the training, `faults` strike it (`victim`), `watcher` watches it,
`sampling` looks at its processes; `verdicts` (with `copies`) judge what is left, and `report` says it all.
"""
