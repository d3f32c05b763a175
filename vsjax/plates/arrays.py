"""The arrays of a plate through TensorStore, always seen as T, C, Z, Y, X."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from vsjax.errors import UserError
from vsjax.plates.array_metadata import check_sizes, parse_array
from vsjax.plates.ngff import AXES
from vsjax.plates.pixels import Pixels
from vsjax.plates.storage import Store, resolve

_DRIVER = {2: "zarr", 3: "zarr3"}
_CHUNK_LIMIT = {"t": 1, "c": 1, "z": 16, "y": 256, "x": 256}


def read(future: ts.Future, where: str) -> np.ndarray:
    """Wait for a TensorStore read. A truncated chunk becomes a UserError that names `where` and the chunk's file."""
    return resolve(future, where)


def open_array(
    store: Store, path: str, zarr_format: int, axes: str, where: str, *, may_be_empty: bool = False
) -> Pixels:
    """Open the array at `path`, whose stored axes are `axes`, as a 5-D array [T, C, Z, Y, X] (origin 0, labelled).

    Reading and writing. Zarr 2 has no checksums: a byte that has changed in a chunk may read as other pixels. Raises
    UserError, naming `where` (the document that lists the array), if it is missing, claims to be larger than any
    microscope's, or does not fit its axes. Of labels, all `may_be_empty`.
    """
    address, name = store.address(path), "zarr.json" if zarr_format == 3 else ".zarray"
    document = store.read_json(f"{path}/{name}" if path else name)
    if document is None:
        raise UserError(f"{where}: names the array {address}, which does not exist; copy the plate again")
    files = parse_array(document, zarr_format, address)
    check_sizes(files, axes, address, where)
    spec = {
        "driver": _DRIVER[zarr_format],
        "kvstore": store.array_kvstore(path),
        "recheck_cached_metadata": "open",
        "recheck_cached_data": "open",
    }
    writable = {"write": True} if spec["kvstore"]["driver"] != "http" else {}
    try:
        array = ts.open(spec, open=True, read=True, context=store.context, **writable).result()
    except Exception as error:  # TensorStore has no exception type of its own
        reason = " ".join(str(error).split()).split(" [tensorstore_spec=")[0]
        raise UserError(
            f"{where}: names the array {address}, which cannot be opened ({reason}); copy the plate again"
        ) from error
    folder = store.local_path and store.local_path / path
    return Pixels(canonical(array, axes), files, folder, may_be_empty)


def canonical(array: ts.TensorStore, axes: str) -> ts.TensorStore:
    """The view [T, C, Z, Y, X] of an array with the stored axes `axes`; an axis that is not stored has length 1."""
    ordered = array.transpose([axes.index(axis) for axis in AXES if axis in axes])
    expanded = ordered[tuple(slice(None) if axis in axes else ts.newaxis for axis in AXES)]
    return expanded[ts.d[:].label[tuple(AXES)]]


def create_array(
    store: Store,
    path: str,
    zarr_format: int,
    axes: str,
    shape: Sequence[int],
    dtype: np.dtype,
    chunks: Sequence[int] | None,
    shards: Sequence[int] | None,
) -> ts.TensorStore:
    """Create the array at `path`, or open it where it exists already, as [T, C, Z, Y, X].

    Args:
        store: the plate's store.
        path: the array's path in it.
        zarr_format: 2 or 3.
        axes: the axes to store, in the order of "tczyx".
        shape: canonical (T, C, Z, Y, X).
        dtype: of the pixels.
        chunks: canonical chunk shape; by default planes of at most 256 x 256, 16 slices deep.
        shards: canonical shard shape (zarr 3 only), a multiple of the chunks; none by default.

    Raises UserError for shapes that do not fit together.
    """
    where = store.address(path)
    chunks = default_chunks(shape) if chunks is None else tuple(chunks)
    for name, size in (("shape", shape), ("chunks", chunks), *((("shards", shards),) if shards is not None else ())):
        if len(size) != len(AXES) or any(int(n) < 1 for n in size):
            raise UserError(f"{where}: {name}: {tuple(size)} is not five positive numbers (T, C, Z, Y, X)")
    stored = [AXES.index(axis) for axis in axes]
    pick = lambda size: [int(size[i]) for i in stored]  # noqa: E731
    if zarr_format == 2:
        if shards is not None:
            raise UserError(f"{where}: shards: zarr 2 (OME-NGFF 0.4) has none; write OME-NGFF 0.5")
        metadata = _metadata2(pick(shape), pick(chunks), dtype)
    else:
        if shards is not None and any(s % c for s, c in zip(shards, chunks, strict=True)):
            raise UserError(f"{where}: shards: {tuple(shards)} is not a multiple of the chunks {tuple(chunks)}")
        metadata = _metadata3(pick(shape), pick(chunks), pick(shards) if shards is not None else None, dtype, axes)
    spec = {"driver": _DRIVER[zarr_format], "kvstore": store.array_kvstore(path), "metadata": metadata}
    spec |= {"recheck_cached_metadata": "open", "recheck_cached_data": "open"}
    future = ts.open(spec, create=True, open=True, read=True, write=True, context=store.context)
    return canonical(resolve(future, where, action="created"), axes)


def default_chunks(shape: Sequence[int]) -> tuple[int, ...]:
    """The chunk shape for an image [T, C, Z, Y, X] that is read in crops: some 2 to 4 MB of float32."""
    return tuple(min(int(n), _CHUNK_LIMIT[axis]) for n, axis in zip(shape, AXES, strict=True))


def _metadata2(shape: list[int], chunks: list[int], dtype: np.dtype) -> dict[str, Any]:
    return {
        "shape": shape,
        "chunks": chunks,
        "dtype": dtype.newbyteorder("<").str,
        "fill_value": 0,
        "order": "C",
        "dimension_separator": "/",
        "compressor": {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 1},
    }


def _metadata3(
    shape: list[int], chunks: list[int], shards: list[int] | None, dtype: np.dtype, axes: str
) -> dict[str, Any]:
    codecs: list[dict[str, Any]] = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 1, "shuffle": "shuffle"}},
        {"name": "crc32c"},  # of what lies on disk: a byte that has changed there is noticed
    ]
    if shards is not None:
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        sharding = {"chunk_shape": chunks, "codecs": codecs, "index_codecs": index, "index_location": "end"}
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    return {
        "shape": shape,
        "data_type": dtype.name,
        "fill_value": 0,
        "dimension_names": list(axes),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shards or chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": codecs,
    }
