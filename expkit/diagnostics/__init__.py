"""Diagnostics: what looks at a model's weights while it trains.

Importing this package imports neither torch nor sklearn.
"""

from __future__ import annotations

from expkit.diagnostics.base import Diagnostic
from expkit.diagnostics.suite import DiagnosticSuite

__all__ = ["Diagnostic", "DiagnosticSuite"]
