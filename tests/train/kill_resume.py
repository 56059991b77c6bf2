"""Kill a training run with ``kill -9`` at random moments, resume it until it is done, compare with an undisturbed run.

    python tests/train/kill_resume.py 20

runs it 20 times, each with a kill or two; the test suite does it with fewer. Each run is a process of its own; all
must end with the same bytes: weights, optimizer, random state, history, log and model file.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

EPOCHS, BATCH, SAMPLES = 6, 16, 200
STEPS = EPOCHS * -(-SAMPLES // BATCH)


def child(folder: Path) -> None:
    """Train to the end, from wherever the folder says, and write down what came out."""
    import smelt
    from smelt import data, nn, optim, train
    from train.making import dropout_cnn, everything, images

    smelt.seed(3)
    trainer = smelt.Trainer(dropout_cnn(), nn.CrossEntropyLoss(), optim.Adam(lr=3e-3), optim.CosineAnnealing(t_max=20))
    watched = images(SAMPLES)
    print("ready", flush=True)
    trainer.fit(
        watched,
        epochs=EPOCHS,
        batch_size=BATCH,
        validation=images(60, 1),
        seed=5,
        augment=data.augment.RandomCrop(1),
        checkpoint=folder / "checkpoints",
        checkpoint_every=4,
        resume=True,
        callbacks=[
            train.EarlyStopping(patience=None),
            train.CSVLog(folder / "log.csv"),
            Pace(),
        ],
        progress=False,
    )
    smelt.save(trainer.model, folder / "model.smelt")
    digests = {k: hashlib.sha256(v).hexdigest() for k, v in everything(trainer).items()}
    digests["model file"] = hashlib.sha256((folder / "model.smelt").read_bytes()).hexdigest()
    rows = [r.split(",") for r in (folder / "log.csv").read_text().splitlines()]
    kept = [i for i, name in enumerate(rows[0]) if "seconds" not in name]
    digests["log"] = repr([[row[i] for i in kept] for row in rows])
    (folder / "result.json").write_text(json.dumps(digests))


def Pace() -> object:
    """Return a callback that says which step is done, and makes it last about two milliseconds, to be hit."""
    from smelt import train

    class Slow(train.Callback):
        def on_step_end(self, trainer: object, step: int, loss: float) -> None:
            print(step, flush=True)
            time.sleep(0.002)

    return Slow()


def start(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, __file__, "--child", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
    return process


def finish(folder: Path) -> dict[str, str]:
    """Run to the end; return what came out."""
    process = start(folder)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and not errors, errors
    return json.loads((folder / "result.json").read_text())


def kill(folder: Path, rng: random.Random) -> bool:
    """Kill a run a moment after a random step; return whether it was still running."""
    process = start(folder)
    after = rng.randrange(STEPS)
    assert process.stdout
    for line in process.stdout if after else []:
        if int(line) >= after:
            break
    time.sleep(rng.uniform(0, 0.004 if after else 0.2))
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return running


def trial(root: Path, name: str, rng: random.Random, expected: dict[str, str]) -> int:
    """Kill one run once or twice; return how often it was hit before it was done."""
    folder = root / name
    folder.mkdir()
    kills = sum(kill(folder, rng) for _ in range(rng.randint(1, 2)))
    got = finish(folder)
    assert got == expected, {k: (got.get(k), v) for k, v in expected.items() if got.get(k) != v}
    names = sorted(os.listdir(folder / "checkpoints"))
    assert len(names) == 2 and all(n.endswith(".checkpoint") for n in names), names
    return kills


def main(trials: int, seed: int = 0) -> int:
    """Return the number of kills that were survived."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "undisturbed").mkdir()
        expected = finish(root / "undisturbed")
        return sum(trial(root, f"{i}", rng, expected) for i in range(trials))


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        child(Path(sys.argv[2]))
    else:
        wanted = int(sys.argv[1])
        print(f"{wanted} runs, {main(wanted)} kills: all ended with the bytes of the undisturbed run")
