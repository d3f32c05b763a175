"""Where a plate lies: one TensorStore key-value store per plate, for local paths, gs://, s3:// and http(s)://.

All that vsjax reads or writes of a plate goes through `Store`; paths are checked, so nothing outside it is touched.
"""

import copy
import functools
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import tensorstore as ts

from vsjax.disk import has_file, refusal_in, refusal_message
from vsjax.errors import UserError, WriteError
from vsjax.schema import parse_object, to_json

CACHE_BYTES = 512 << 20  # decoded chunks shared by every array of the process
TIMEOUT = "VSJAX_TIMEOUT_S"  # the environment's variable: seconds that a server may let wait
LARGEST_DOCUMENT = 256 << 20  # bytes: that of a plate of a million wells has some 80 MB
LOCK = ".__lock"  # ends TensorStore's name for a file that it is about to write, left where it was killed meanwhile
_UPDATE_ATTEMPTS = 100
_ZARR = ("zarr.json", ".zgroup", ".zattrs", ".zarray")  # documents at the top of a hierarchy
_RETRIES = 4  # of a request that a server did not answer
_REMEDY = "restore it or write the plate again"


@functools.cache
def shared_context() -> ts.Context:
    """The process's one TensorStore context: a shared cache of decoded chunks and a bound on copying threads."""
    return ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}, **_limits()})


def _limits() -> dict[str, Any]:
    retries = {f"{server}_request_retries": {"max_retries": _RETRIES} for server in ("http", "s3", "gcs")}
    return {"data_copy_concurrency": {"limit": max(2, os.cpu_count() or 2)}, **retries}


def timeout_s() -> float:
    """How long a server may let wait: 30 s, or what `VSJAX_TIMEOUT_S` says."""
    text = os.environ.get(TIMEOUT, "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UserError(f"{TIMEOUT}={text}: is not a number of seconds; write such as {TIMEOUT}=30")
    return seconds


@functools.cache
def passing_context() -> ts.Context:
    """One that keeps nothing of what was read: for those who see each of a million arrays once, whose metadata would
    fill the memory long before the cache's own account of its bytes says so."""
    return ts.Context(_limits())


def kvstore_spec(url: str | Path) -> dict[str, Any]:
    """TensorStore's key-value store specification for `url`, with a path that ends in "/".

    A path without a scheme is local. `AWS_ENDPOINT_URL` and `AWS_REGION` are honoured for s3://, as other tools do.
    Raises UserError for another scheme, a missing bucket or a name that is not UTF-8.
    """
    text = str(url)
    if not text:
        raise UserError("the path of a plate is empty; give a folder or a URL")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{text}: is not UTF-8, which TensorStore's names are; rename it") from error
    scheme, separator, _ = text.partition("://")
    if not separator:
        return {"driver": "file", "path": _folder(os.path.abspath(text))}
    parts = urlsplit(text)
    path = _folder(unquote(parts.path).lstrip("/"))
    if scheme == "file":
        return {"driver": "file", "path": _folder(os.path.abspath(unquote(parts.path)))}
    if scheme in ("http", "https"):
        query = {"query": parts.query} if parts.query else {}
        base = f"{scheme}://{parts.netloc}" + (f"?{query['query']}" if query else "")
        return {"driver": "http", "base_url": base, "path": "/" + path}
    if scheme in ("gs", "s3") and not parts.netloc:
        raise UserError(f"{text}: the bucket is missing; write {scheme}://BUCKET/PATH")
    if scheme == "gs":
        return {"driver": "gcs", "bucket": parts.netloc, "path": path}
    if scheme == "s3":
        spec = {"driver": "s3", "bucket": parts.netloc, "path": path}
        if "AWS_ENDPOINT_URL" in os.environ:
            spec["endpoint"] = os.environ["AWS_ENDPOINT_URL"]
            spec["aws_region"] = os.environ.get("AWS_REGION", "us-east-1")
        return spec
    raise UserError(
        f"{text}: the scheme {scheme}:// is not known; use a local path, file://, gs://, s3:// or http(s)://"
    )


def _folder(path: str) -> str:
    return path if path == "" or path.endswith("/") else path + "/"


def check_relative(path: str, where: str) -> str:
    """Return `path` when it stays below the folder that it is relative to; UserError that names `where` otherwise."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(c in path for c in "\\\0") or not path.isprintable():
        raise UserError(
            f"{where}: the path {path!r} does not lie inside the plate; "
            "write a relative path of plain names, such as A/1 (nothing was read or written there)"
        )
    return path


class Store:
    """The files below one URL: JSON documents by key, and TensorStore specifications for the arrays.

    Attributes:
        url: the address as the user gave it, without a trailing slash; used in messages.
        local_path: the folder on this machine, None for the others.
        cached: whether chunks and metadata of arrays are kept for the next read.
    """

    def __init__(self, url: str | Path, cached: bool = True) -> None:
        self.cached = cached
        self.url = str(url).rstrip("/") or "/"
        self.spec = kvstore_spec(url)
        self.local_path = Path(self.spec["path"]) if self.spec["driver"] == "file" else None
        if self.local_path is None:
            _limit_waiting(math.ceil(timeout_s()))

    @property
    def context(self) -> ts.Context:
        """The TensorStore context to open arrays with."""
        return shared_context() if self.cached else passing_context()

    @functools.cached_property
    def _kvstore(self) -> ts.KvStore:
        return resolve(ts.KvStore.open(self.spec, context=shared_context()), self.url)

    def address(self, key: str) -> str:
        """`key` as the user would write it."""
        return f"{self.url}/{key}" if key else self.url

    def array_kvstore(self, path: str) -> dict[str, Any]:
        """The key-value store specification of the array at `path` ("" for the store itself)."""
        return {**self.spec, "path": self.spec["path"] + _folder(path)}

    def read_async(self, key: str) -> ts.Future:
        """Start to read `key`; hand the future to `parse_json`. UserError where a local one is no ordinary file."""
        if self.local_path is not None:
            has_file(self.spec["path"] + key, self.address(key), LARGEST_DOCUMENT)
        return self._kvstore.read(key)

    def _wait(self, future: ts.Future, key: str, action: str = "read") -> Any:
        """Wait for a document, of a server not longer than it may take."""
        return resolve(future, self.address(key), action, None if self.local_path else timeout_s())

    def parse_json(self, key: str, future: ts.Future) -> dict[str, Any] | None:
        """The JSON object that `read_async(key)` brings, None where there is none; UserError where it is not one."""
        content = self._content(key, future)
        return None if content is None else parse_object(content, self.address(key), _REMEDY)

    def _content(self, key: str, future: ts.Future) -> bytes | None:
        try:
            value = self._wait(future, key)
        except UserError as error:
            # A bucket that does not let its objects be listed answers "forbidden" for one that is not there.
            if self.local_path is None and "PERMISSION_DENIED" in str(error):
                return None
            raise
        return None if value.state == "missing" else value.value

    def read_json(self, key: str) -> dict[str, Any] | None:
        """The JSON object at `key`, None where there is none; UserError where it is malformed or cannot be read."""
        return self.parse_json(key, self.read_async(key))

    def write_json(self, key: str, document: dict[str, Any]) -> None:
        """Write the JSON object at `key`, atomically."""
        self.wait([self.write_json_async(key, document)])

    def write_json_async(self, key: str, document: dict[str, Any]) -> tuple[str, ts.Future]:
        """Start an atomic write; hand a list of what this returns to `wait`."""
        self._check_writable()
        return key, self._kvstore.write(key, to_json(document, indent=2))

    def wait(self, writes: list[tuple[str, ts.Future]]) -> None:
        """Wait for the writes that `write_json_async` began."""
        for key, future in writes:
            self._wait(future, key, "written")

    def update_json(self, key: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Replace the JSON object at `key` by `change(object)` ({} where there is none) and return the new one.

        Safe with other writers, in this process and others: the write is conditional on nothing having changed since
        the read, and is tried again otherwise. Nothing is written when `change` changes nothing.
        """
        self._check_writable()
        where = self.address(key)
        for _ in range(_UPDATE_ATTEMPTS):
            old = self._wait(self.read_async(key), key)
            document = {} if old.state == "missing" else parse_object(old.value, where, _REMEDY)
            new = change(copy.deepcopy(document))
            if old.state != "missing" and new == document:
                return new
            written = self._kvstore.write(key, to_json(new, indent=2), if_equal=old.stamp.generation)
            if self._wait(written, key, "written").generation:  # empty where the document has changed meanwhile
                return new
        raise UserError(f"{where}: other programs keep changing this file; stop them and try again")

    def exists(self) -> bool:
        """Whether a local path is there; for remote stores, which cannot tell, whether it is a zarr hierarchy."""
        if self.local_path is not None:
            return os.path.lexists(self.local_path)
        return self.is_zarr()

    def is_zarr(self) -> bool:
        """Whether the top of the store carries zarr metadata, of either format."""
        futures = [(key, self.read_async(key)) for key in _ZARR]
        return any(self._content(key, future) is not None for key, future in futures)

    def walk(self) -> Iterator[tuple[str, bool]]:
        """Every key in the store, folder by folder, and whether an ordinary file is there; empty folders have none."""
        if self.local_path is None:
            yield from ((key.decode(), True) for key in resolve(self._kvstore.list(), self.url))
        else:
            yield from _walk(self.spec["path"], "")

    def delete(self) -> None:
        """Delete everything in the store. The caller has made sure that it may: see `deletion`."""
        self._check_writable()
        if self.local_path is None:
            resolve(self._kvstore.delete_range(ts.KvStore.KeyRange()), self.url, action="deleted")
            return
        try:
            shutil.rmtree(self.local_path)  # does not follow links
        except OSError as error:
            raise UserError(f"{self.url}: cannot be deleted: {error}; remove it by hand") from error

    def delete_key(self, key: str) -> None:
        """Delete what is at `key`; nothing happens where there is nothing."""
        self._check_writable()
        resolve(self._kvstore.write(key, None), self.address(key), action="deleted")

    def delete_folder(self, key: str) -> None:
        """Delete all that lies below `key`; nothing happens where there is nothing."""
        self._check_writable()
        below = ts.KvStore.KeyRange(f"{key}/", f"{key}0")  # "0" is the character after "/"
        resolve(self._kvstore.delete_range(below), self.address(key), action="deleted")

    def _check_writable(self) -> None:
        if self.spec["driver"] == "http":
            raise UserError(f"{self.url}: http(s):// can only be read; write to a local path, gs:// or s3://")


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, bool]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}", entry.is_file(follow_symlinks=False)


def _limit_waiting(seconds: int) -> None:
    """Tell TensorStore's curl, which reads this when it first asks a server, how long to wait for an answer."""
    for name in ("CONNECT_TIMEOUT_SECONDS", "LOW_SPEED_TIME_SECONDS"):
        os.environ.setdefault(f"TENSORSTORE_CURL_{name}", str(seconds))
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")


def resolve(future: ts.Future, where: str, action: str = "read", seconds: float | None = None) -> Any:
    """Wait for TensorStore, not longer than `seconds`; what it cannot do becomes a UserError that names `where` and
    TensorStore's reason, a WriteError where the disk is full or may not be written to."""
    try:
        return future.result(timeout=seconds)
    except Exception as error:  # TensorStore raises ValueError, OSError, NotImplementedError ... for the same causes
        reason = " ".join(str(error).split()).split(" [tensorstore_spec=")[0].split(" [source locations=")[0]
        if isinstance(error, TimeoutError) or "CURL error Timeout" in reason:
            raise UserError(
                f"{where}: the server has not answered for {timeout_s():g} s; check the address, or let it take "
                f"longer: {TIMEOUT}=120"
            ) from error
        if action != "read" and (number := refusal_in(reason)) is not None:
            raise WriteError(refusal_message(where, number)) from error
        raise UserError(
            f"{where}: cannot be {action}: {reason}; check that the file is complete and accessible"
        ) from error


def local_output(path: str | Path, flag: str = "--output") -> Path:
    """The absolute path of what only a file system can hold: a run, a report, a picture.

    Raises:
        UserError: it is a URL, below a file, in a plate or one, a broken link, or no name that the file system takes.
    """
    if not str(path) or "://" in str(path):
        raise UserError(f"{flag} {str(path)!r}: must be a path of this machine's file system; choose another {flag}")
    output = Path(path).absolute()
    try:
        if output.is_symlink() and not output.exists():
            raise UserError(f"{output}: is a broken link; choose another {flag}")
        for folder in (output, *output.parents):
            if folder != output and os.path.lexists(folder) and not folder.is_dir():
                raise UserError(f"{output}: {folder} is no folder; choose another {flag}")
            if any(os.path.lexists(folder / name) for name in _ZARR):
                raise UserError(f"{output}: lies in {folder}, which is a zarr hierarchy; choose another {flag}")
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{output}: cannot be written ({error.strerror}); choose another {flag}") from error
    return output


def check_apart(source: str | Path, output: str | Path, flag: str = "--output") -> None:
    """UserError where the output is the input, lies in it or around it: nothing may damage what is read from.

    Local paths count by where they lead, through links, "..", and whatever names of one folder the file system has.

    Args:
        source: what is read, a plate's URL or a path.
        output: what is written.
        flag: that names the output, for the message.
    """
    try:
        inside = _lies_in(source, output) or _lies_in(output, source)
    except OSError as error:  # a name that is too long, a loop of links
        raise UserError(f"{output}: cannot be written ({error.strerror}); choose another {flag}") from error
    if inside:
        raise UserError(f"{output}: {flag} and the input ({source}) lie in one another; choose another {flag}")


def _lies_in(inner: str | Path, outer: str | Path) -> bool:
    """Whether one address is the other or lies below it."""
    specs = [kvstore_spec(url) for url in (inner, outer)]
    paths = [PurePosixPath("/", os.path.normpath("/" + spec.pop("path"))) for spec in specs]
    if specs[0] != specs[1]:
        return False
    if specs[0]["driver"] == "file":
        paths = [Path(os.path.realpath(path)) for path in paths]
        if paths[1].exists():
            above = (path for path in (paths[0], *paths[0].parents) if path.exists())
            return any(path.samefile(paths[1]) for path in above)
    return paths[0].is_relative_to(paths[1])
