"""Inference in ONNX Runtime: a job in, the session's forms of a call out."""

from __future__ import annotations

import numpy as np

from smelt.measure.bench.contender import Job
from smelt.measure.bench.fold import fold
from smelt.measure.bench.networks import make
from smelt.measure.bench.worker import Ready, timed
from smelt.onnx.writer.export import to_bytes


def prepare(job: Job) -> Ready:
    """Build the forms: ``run``, and a binding to an output array that is used again by every call."""
    import onnxruntime as ort

    network = make(job.network)
    (x, _), *_ = network.batches(job.batch, 1)
    options = ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    data = to_bytes(fold(network.model), network.shape, batch=job.batch)
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"input": x})
    y = np.empty_like(outputs)
    bound = session.io_binding()
    bound.bind_output("output", "cpu", 0, np.float32, list(y.shape), y.ctypes.data)

    def binding(i: int) -> np.ndarray:
        bound.bind_cpu_input("input", x)
        session.run_with_iobinding(bound)
        return y

    forms = {"run": timed(lambda i: session.run(None, {"input": x})[0]), "output bound": timed(binding)}
    return Ready(forms, outputs)
