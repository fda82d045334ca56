"""A server for the tests of a file, with the bundled model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sam2edge import Bundle
from sam2edge.serving.repository import Settings, write_repository
from tests.serving.server import Server

SETTINGS = Settings(streams=3, idle=3, max_objects=3, threads=1)


@pytest.fixture(scope="module")
def server(nano: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("triton")
    write_repository(nano, folder / "repository", SETTINGS)
    server = Server(folder / "repository", folder, "--model-control-mode=explicit", "--load-model=*")
    try:
        server.wait()
        yield server
    finally:
        server.stop()
