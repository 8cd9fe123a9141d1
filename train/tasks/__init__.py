"""Tasks: what is trained, on what."""

from train.tasks.base import StepOutput, Task

__all__ = ["StepOutput", "Task"]
