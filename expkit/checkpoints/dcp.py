"""The tensors of a sharded checkpoint in a folder: torch.distributed.checkpoint, with digests and without pickles.

It writes a file `__{rank}_0.distcp` for each rank, and `.metadata`, which says where in them each tensor is. The latter
is a pickle, and is read with nothing allowed but the classes that it consists of.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import pickle
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_saver import save as save_collectively

from expkit.checkpoint_folder import FileNote
from expkit.checkpoints.output import Output
from expkit.errors import describe
from expkit.opening import read_whole

__all__ = ["read_metadata", "read_tensors", "tensors_error", "write_tensors"]


def write_tensors(
    folder: Path, tensors: Mapping[str, torch.Tensor], group: Any, cancelled: Callable[[], bool]
) -> dict[str, FileNote]:
    """Write `tensors` into `folder`: called by all ranks of `group`, of which each writes its shards, durably.

    Returns:
        size and digest of each file that this rank has written, as it should be on the disk.

    Raises:
        OSError: it was cancelled (ECANCELED), or the disk of one of the ranks is full or broken.
        RuntimeError: something else failed on one of the ranks.
    """
    writer = _Writer(folder, cancelled)
    try:
        save_collectively(dict(tensors), storage_writer=writer, process_group=group)
    except CheckpointException as failed:
        rank, (error, _) = min(failed.failures.items())
        if isinstance(error, OSError):
            raise OSError(error.errno or errno.EIO, f"{error.strerror or error} (rank {rank})") from None
        raise RuntimeError(f"rank {rank}: {describe(error)}") from error
    return {name: stream.note() for name, stream in writer.files.streams.items()}


def read_tensors(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fill `tensors` with what `folder` has under their names: of a DTensor this rank's part. Asks no other rank.

    Raises:
        Exception: nearly anything, if the folder has not been verified.
    """
    if not tensors:
        return
    reader = FileSystemReader(folder)
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    metadata = read_metadata(folder)
    planner.set_up_planner(dict(tensors), metadata, is_coordinator=True)
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    reader.read_data(planner.create_local_plan(), planner).wait()


def read_metadata(folder: Path) -> Metadata:
    """Return what `.metadata` in `folder` says, without executing anything in it.

    Raises:
        pickle.UnpicklingError: it holds something else than descriptions of tensors.
    """
    metadata = _Unpickler(io.BytesIO(read_whole(folder / ".metadata"))).load()
    files = {info.relative_path for info in metadata.storage_data.values()}
    if not isinstance(metadata, Metadata) or any(Path(name).name != name for name in files):
        raise pickle.UnpicklingError("it points out of its folder")
    return metadata


def tensors_error(folder: Path, expected: Mapping[str, torch.Tensor]) -> str | None:
    """Return what is wrong with the table of tensors in `folder`, which must have those in `expected` whole."""
    try:
        found = read_metadata(folder).state_dict_metadata
        whole = {name: _is_whole(found[name], tensor) for name, tensor in expected.items()}
    except pickle.UnpicklingError as error:
        return f"its .metadata is refused: {error}"
    except Exception as error:  # noqa: BLE001 - damaged bytes make a pickle raise nearly anything
        return f"its .metadata is damaged ({type(error).__name__}: {error})"
    wrong = next((name for name, is_whole in whole.items() if not is_whole), None)
    return None if wrong is None else f"its shards do not make up the whole of {wrong}"


def _is_whole(found: Any, tensor: torch.Tensor) -> bool:
    if not isinstance(found, TensorStorageMetadata):
        return False
    size = sum(chunk.sizes.numel() for chunk in found.chunks)
    return (found.size, found.properties.dtype, size) == (tensor.size(), tensor.dtype, tensor.numel())


class _Stream(Output):
    """A file of shards that keeps the digest of what should be in it."""

    def __init__(self, file: BinaryIO, cancelled: Callable[[], bool]) -> None:
        super().__init__(file, cancelled)
        self._digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return super().write(memoryview(data).cast("B"))

    def note(self) -> FileNote:
        return {"bytes": self.size, "sha256": self._digest.hexdigest()}

    def tell(self) -> int:
        return self.size

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


class _Files(FileSystem):
    """Opens files for DCP."""

    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self.streams: dict[str, _Stream] = {}
        self._cancelled = cancelled

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        with super().create_stream(path, mode) as file:
            stream = self.streams[Path(path).name] = _Stream(cast("BinaryIO", file), self._cancelled)
            yield cast("io.IOBase", stream)

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.streams[Path(new_path).name] = self.streams.pop(Path(path).name)


class _Writer(FileSystemWriter):
    """Writes shards, and says what the disk has said."""

    def __init__(self, folder: Path, cancelled: Callable[[], bool]) -> None:
        super().__init__(folder)
        self.fs = self.files = _Files(cancelled)

    def write_data(self, plan: Any, planner: Any) -> Any:
        try:
            return super().write_data(plan, planner)
        except (OSError, RuntimeError) as failure:  # torch hides a full disk behind "unexpected pos"
            error = None
            for stream in self.files.streams.values():  # which let go of their errors: see `expkit.checkpoints.storage`
                error, stream.error = error or stream.error, None
            if error is None or error is failure:
                raise
            raise error from None

    def storage_meta(self) -> StorageMeta:
        return StorageMeta(save_id=self.save_id)  # without the temporary name of the folder


class _Unpickler(pickle._Unpickler):
    """Reads descriptions of tensors, and refuses all else.

    It is Python's own in Python: of the one in C, six bytes that name a high place in its memo take 64 GB. Nor are
    there arrays of bytes, which take at once whatever length they claim.
    """

    dispatch: ClassVar = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }

    def find_class(self, module: str, name: str) -> Any:
        if name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} in it may run code")


_ALLOWED = {
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "ChunkStorageMetadata"),
        *("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
}
