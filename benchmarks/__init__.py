"""What expkit costs, measured beside what it is compared with: `python -m benchmarks` writes docs/benchmarks.md.

A figure never stands alone: competitors take turns in every round, so that whatever else the machine does hits them
alike, and differences are taken round by round before their median is.
"""
