"""A network of the zoo as a TFLite file: its name, a batch and a path on the command line in; the file out.

``python -m smelt.measure.bench.to_tflite NETWORK BATCH PATH``: a process of its own, because TensorFlow leaves threads.
"""

from __future__ import annotations

import sys
from pathlib import Path

from smelt.measure.bench.fold import fold
from smelt.measure.bench.networks import make
from smelt.measure.bench.to_keras import to_keras


def write(network: str, batch: int, path: Path) -> None:
    """Convert with TensorFlow's converter; float32, a fixed batch, channels last, batch normalization folded."""
    import tensorflow as tf

    made = make(network)
    model = to_keras(fold(made.model), made.shape, batch)
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
