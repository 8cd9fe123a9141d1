"""One process or many: `Dist` is what ranks say to each other, `Control` is what they must do together.

With one process every call is the identity and costs nothing. With more, tensors go through the default process
group, and decisions through a gloo group, so that they never wait for a GPU. `Place` says where a process stands before
there is a group, `expkit.dist.group.join` makes the group, and its `Watch` says which rank is gone or hangs.
"""

from __future__ import annotations

from expkit.dist.control import Control
from expkit.dist.place import Place, is_main_process
from expkit.dist.ranks import Dist

__all__ = ["Control", "Dist", "Place", "is_main_process"]
