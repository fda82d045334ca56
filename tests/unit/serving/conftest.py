"""The models of `sam2edge triton` in this process, with a stand-in for the module that Triton gives them."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sam2edge import Bundle
from sam2edge.serving.repository import Settings, write_repository
from tests.unit.serving import fake_triton

SETTINGS = Settings(streams=2, idle=60, max_objects=3, threads=1)

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def repository(nano: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "repository"
    write_repository(nano, folder, SETTINGS)
    return folder


@pytest.fixture(scope="module")
def open_model(repository: Path) -> Iterator[Open]:
    """Return a function that starts a model as Triton does, with changed settings; all are closed at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", fake_triton)
        from sam2edge.serving import triton

        opened = []

        def open_one(name: str = "sam2_video", gpu: str = "", **changes: Any) -> Any:
            parameters = dataclasses.replace(SETTINGS, **changes).parameters()
            config = {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}
            model = {"sam2_video": triton.VideoModel, "sam2_image": triton.ImageModel}[name]()
            model.initialize(
                {
                    "model_config": json.dumps(config),
                    "model_repository": str(repository / name),
                    "model_version": "1",
                    "model_instance_kind": "GPU" if gpu else "CPU",
                    "model_instance_device_id": gpu or "0",
                }
            )
            opened.append(model)
            return model

        yield open_one
        for model in opened:
            model.finalize()


def send(model: Any, *requests: fake_triton.Request) -> None:
    """Give requests to a model, one after the other, as Triton does with max_batch_size 0."""
    for request in requests:
        for response in model.execute([request]) or ():
            request.send(response, fake_triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        request.release()


def ask(model: Any, *stream: int | str, **request: Any) -> dict[str, Any]:
    """Send a request and wait for its answer."""
    made = fake_triton.Request(*stream, **request)
    send(model, made)
    return made.answer()
