"""A plate in a bucket: written, prepared and read through s3:// by the code that serves local paths."""

import hashlib
import http.server
import threading

import numpy as np
import pytest

from vsjax.errors import UserError
from vsjax.intensity.statistics import write_statistics
from vsjax.plates.arrays import read
from vsjax.plates.reader import open_plate
from vsjax.plates.writer import create_plate


class _Bucket(http.server.BaseHTTPRequestHandler):
    """The part of the S3 protocol that matters here: objects with an ETag, and conditional reads and writes."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]

    def log_message(self, *_):
        pass

    def _answer(self, status, body=b"", etag=None):
        self.send_response(status)
        if etag:
            self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _etag(self):
        body = self.objects.get(self.path)
        return None if body is None else f'"{hashlib.md5(body).hexdigest()}"'

    def do_GET(self):
        etag = self._etag()
        if etag is None:
            self._answer(403 if self.server.forbids else 404)
        elif self.headers.get("If-None-Match") == etag:
            self._answer(304, etag=etag)
        else:
            self._answer(200, self.objects[self.path], etag)

    do_HEAD = do_GET

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("If-Match", self._etag()) != self._etag():
            self._answer(412)
        else:
            self.objects[self.path] = body
            self._answer(200, etag=self._etag())


@pytest.fixture
def bucket(monkeypatch):
    """A bucket "lab" on this machine; `bucket.objects` are its contents."""
    handler = type("Bucket", (_Bucket,), {"objects": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.objects, server.forbids = handler.objects, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    yield server
    server.shutdown()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_in_a_bucket(tmp_path, bucket, version):
    array = np.random.default_rng(0).integers(0, 999, (1, 2, 3, 16, 16)).astype("u2")
    for url in ("s3://lab/a/p.zarr", tmp_path / "p.zarr"):
        writer = create_plate(url, ngff_version=version, position_names=["A/1/0"])
        position = writer.create_position(
            "A/1/0", shape=array.shape, dtype="u2", channel_names=["a", "b"], pixel_size_um=(1, 0.5, 0.5)
        )
        position.array().write(array).result()
        write_statistics(open_plate(url), grid=4)
    local = {str(p.relative_to(tmp_path)): p.read_bytes() for p in (tmp_path / "p.zarr").rglob("*") if p.is_file()}
    assert {key.removeprefix("/lab/a/"): body for key, body in bucket.objects.items()} == local

    plate = open_plate("s3://lab/a/p.zarr")
    np.testing.assert_array_equal(read(plate["A/1/0"].array().read(), "x"), array)
    assert plate["A/1/0"].statistics("b", "fov")["max"] == array[:, 1, :, ::4, ::4].max()
    with pytest.raises(UserError, match=r"s3://lab/a/p\.zarr: exists already"):
        create_plate("s3://lab/a/p.zarr")
    with pytest.raises(UserError, match=r"s3://lab/a/q\.zarr: does not exist"):
        open_plate("s3://lab/a/q.zarr")


def test_a_bucket_that_must_not_be_listed(bucket):
    """Such a bucket answers "forbidden" for what is not there."""
    writer = create_plate("s3://lab/p.zarr", ngff_version="0.4")
    writer.create_position("A/1/0", shape=(1, 1, 1, 4, 4), dtype="u1", channel_names=["a"], pixel_size_um=(1, 1, 1))
    bucket.forbids = True
    position = open_plate("s3://lab/p.zarr")["A/1/0"]
    assert position.shape == (1, 1, 1, 4, 4)
    assert position.label_names() == ()
    with pytest.raises(UserError, match="does not exist or may not be read"):
        open_plate("s3://lab/q.zarr")
