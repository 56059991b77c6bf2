"""Inference in OpenVINO: a job in, the forms of an inference request out."""

from __future__ import annotations

import numpy as np

from smelt.measure.bench.contender import Job
from smelt.measure.bench.fold import fold
from smelt.measure.bench.networks import make
from smelt.measure.bench.worker import Ready, timed
from smelt.onnx.writer.export import to_bytes


def prepare(job: Job) -> Ready:
    """Build the forms; float32 is asked for, because OpenVINO would take bfloat16 where the processor has it."""
    import openvino as ov

    network = make(job.network)
    (x, _), *_ = network.batches(job.batch, 1)
    core = ov.Core()
    model = core.read_model(to_bytes(fold(network.model), network.shape, batch=job.batch))
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": job.threads}
    request = core.compile_model(model, "CPU", hints).create_infer_request()

    def shared(i: int) -> np.ndarray:
        return request.infer(x, share_inputs=True, share_outputs=True)[0]

    def tensors(i: int) -> np.ndarray:
        request.set_input_tensor(ov.Tensor(x, shared_memory=True))
        request.infer()
        return request.get_output_tensor().data

    forms = {"arrays shared": timed(shared), "tensors set": timed(tensors)}
    return Ready(forms, shared(0).copy())
