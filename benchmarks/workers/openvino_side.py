"""OpenVINO's side: inference alone, in float32, on a net converted from PyTorch's.

It folds batch norm into the convolutions and chooses its own layout.
"""

from __future__ import annotations

from typing import Any

import openvino
import safetensors.torch
import torch

from benchmarks.inputs import classes_of, digest, image_batch
from benchmarks.workers.protocol import Problem, serve
from benchmarks.workers.torch_models import get_model


class OpenVINO:
    """OpenVINO on ``threads`` threads, told to finish each batch as soon as it can."""

    def __init__(self, threads: int) -> None:
        self.core = openvino.Core()
        self.core.set_property(
            "CPU",
            {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"},
        )

    def versions(self) -> dict[str, str]:
        """Return OpenVINO's version."""
        return {"openvino": openvino.__version__}

    def variants(self, kind: str) -> list[str]:
        """Return the one way there is, for inference."""
        return ["float32"] if kind == "inference" else []

    def load(self, variant: str) -> None:
        """Everything is imported already."""

    def build(self, kind: str, options: dict[str, Any], variant: str, weights: str | None) -> Problem:
        """Compile a net with the weights that ours has written, for images of one shape."""
        net = get_model(options["model"]).eval()
        net.load_state_dict(safetensors.torch.load_file(weights))
        images, _ = image_batch(options["batch"], options["size"], classes_of(options["model"]))
        converted = openvino.convert_model(net, example_input=torch.from_numpy(images), input=[images.shape])
        request = self.core.compile_model(converted, "CPU").create_infer_request()

        def step() -> Any:
            return request.infer([images])[0]

        return Problem(step, lambda: {"logits": digest(step())})


if __name__ == "__main__":
    serve(OpenVINO)
