"""Inference in LiteRT with XNNPACK: a job in, the interpreter's call out.

Its other interface, ``CompiledModel``, was slower by 1 to 3 µs a call for each of the zoo's networks.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from smelt.measure.bench.contender import Job
from smelt.measure.bench.networks import make
from smelt.measure.bench.to_keras import channels_last
from smelt.measure.bench.worker import Ready, timed


def prepare(job: Job) -> Ready:
    """Build the call; its images are channels last already."""
    from ai_edge_litert import interpreter as litert

    network = make(job.network)
    (first, _), *_ = network.batches(job.batch, 1)
    x = channels_last(first)
    interpreter = litert.Interpreter(model_content=_converted(job), num_threads=job.threads)
    interpreter.allocate_tensors()
    entry, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def call(i: int) -> np.ndarray:
        interpreter.set_tensor(entry, x)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return Ready({"interpreter": timed(call)}, call(0))


def _converted(job: Job) -> bytes:
    """Return the TFLite file of the network, made by TensorFlow in another process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        command = [sys.executable, "-m", "smelt.measure.bench.to_tflite", job.network, str(job.batch), str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"TensorFlow's converter: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
        return path.read_bytes()
