"""``smelt explain``: the same for a recipe, a file and a network of the zoo."""

from __future__ import annotations

import json
from pathlib import Path

from .small import Smelt


def test_a_recipe_a_model_and_what_is_wrong(smelt_command: Smelt, recipe: Path) -> None:
    done = smelt_command("explain", recipe)
    assert done.status == 0 and done.out.startswith(f"training step of {recipe}, batch 20, ")
    for part in ("train_step: ", "shared as", "1 Linear + Adam: matmul", "barriers:", "not fused:", "memory: "):
        assert part in done.out
    assert "graph train_step(" not in done.out and not Path("runs").exists()
    value = json.loads(smelt_command("explain", "lenet5", "--json").out)
    assert value["target"] == "inference of lenet5, batch 1, random numbers"
    assert sum(k["macs"] for k in value["kernels"]) == 416_520
    more = smelt_command("explain", "lenet_300_100", "--train", "--batch", 2, "--graph", "--loops").out
    assert "graph train_step(" in more and "kernel k" in more
    assert "expected one of" in smelt_command("explain", "nope").error
