"""A training step in TensorFlow: a job in, the same step in all forms Keras has for it out.

``train_on_batch``, ``fit`` on arrays, ``fit`` on a ``tf.data`` pipeline of ready batches, and the same with several
steps in one execution, with XLA and without. The time from step to step inside of ``fit`` counts, not the time it takes
to start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from smelt.measure.bench.contender import Job
from smelt.measure.bench.networks import Network, make
from smelt.measure.bench.to_keras import channels_last, to_keras
from smelt.measure.bench.worker import WARM, Burst, Ready, timed
from smelt.measure.summary import summary

MANY, FEW, SHORT = 32, 4, 1e8  # steps of one execution, where several are: many below so many MACs of a forward pass


def prepare(job: Job) -> Ready:
    """Build the forms."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(job.threads)
    tf.config.threading.set_inter_op_parallelism_threads(job.threads)
    network = make(job.network)
    batches = [(channels_last(x), channels_last(y)) for x, y in network.batches(job.batch)]
    model = _compiled(network, False, 1)
    outputs = np.asarray(model(batches[0][0][:8], training=False))
    call = _on_batch(model, batches)
    losses = [call(i) for i in range(3)]
    forms = {
        "train_on_batch": timed(call),
        "fit on arrays": _fit(model, batches, 1, _arrays),
        "fit on tf.data": _fit(model, batches, 1, _pipeline),
    }
    together = MANY if summary(network.model, network.shape, job.batch).macs < SHORT else FEW
    for suffix, jit in (("", False), (", XLA", True)):
        several = _compiled(network, jit, together)
        forms[f"fit on tf.data, {together} steps at once{suffix}"] = _fit(several, batches, together, _pipeline)
    parameters = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    return Ready(forms, outputs, parameters, [] if network.drops else losses)


def _compiled(network: Network, jit: bool, steps: int) -> Any:
    import keras

    model = to_keras(network.model, network.shape)
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=1e-3, epsilon=1e-8),
        loss="mean_squared_error"
        if network.learns_its_input
        else keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit,
        steps_per_execution=steps,
    )
    return model


def _on_batch(model: Any, batches: list[tuple[np.ndarray, np.ndarray]]) -> Callable[[int], float]:
    def call(i: int) -> float:
        model.reset_metrics()  # else the loss is the mean of all steps so far
        return float(model.train_on_batch(*batches[i % len(batches)]))

    return call


def _arrays(batches: list[tuple[np.ndarray, np.ndarray]], steps: int) -> dict[str, Any]:
    some = [batches[i % len(batches)] for i in range(steps)]
    x, y = (np.concatenate(part) for part in zip(*some, strict=True))
    return {"x": x, "y": y, "batch_size": len(batches[0][0]), "shuffle": False}


def _pipeline(batches: list[tuple[np.ndarray, np.ndarray]], steps: int) -> dict[str, Any]:
    import tensorflow as tf

    x, y = (np.stack(part) for part in zip(*batches, strict=True))
    data = tf.data.Dataset.from_tensor_slices((x, y)).repeat().prefetch(tf.data.AUTOTUNE)
    return {"x": data, "steps_per_epoch": steps}


def _fit(
    model: Any,
    batches: list[tuple[np.ndarray, np.ndarray]],
    together: int,
    data: Callable[[list[tuple[np.ndarray, np.ndarray]], int], dict[str, Any]],
) -> Burst:
    """Return a burst of ``fit``; what is called step ends with the callback after it."""
    import keras

    ends: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            ends.append(time.perf_counter())

    def burst(calls: int) -> list[float]:
        warm = 1 if together > 1 else WARM
        executions = max(-(-calls // together), 1) + warm
        ends.clear()
        model.fit(**data(batches, executions * together), epochs=1, verbose=0, callbacks=[Clock()])
        return [float(t) * 1e3 / together for t in np.diff(ends)[warm - 1 :]]

    return burst
