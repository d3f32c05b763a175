"""A side of a comparison whose times, memory and turns are known."""

import time
from pathlib import Path

import numpy as np

from scripts.benchmarking.side import Work, serve


def prepare(request):
    def run():
        with Path(request["log"]).open("a") as log:
            log.write(request["name"])
        block = np.ones(request["bytes"], np.uint8)
        time.sleep(request["seconds"])
        return request.get("counts") and float(block[0]) * request["counts"]

    return Work(run, {"settings": request["name"], "told": request.get("settings")}, lambda: {"finished": True})


if __name__ == "__main__":
    serve(prepare)
