"""The commands and their options.

In: the arguments of the command line. Out: an exit status: 0; 2 after an error that is the user's to mend, told in one
line on stderr; 130 when interrupted.

What a command does is imported when it is called, so that ``smelt --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from smelt import __version__

Command = Callable[..., Any]
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON value on stdout, and nothing else.")
_folder = click.option(
    "--data", type=click.Path(path_type=Path), help="Folder (or NPZ file) to read the data from; also SMELT_DATA."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="smelt")
def cli() -> None:
    """Train small neural networks on ordinary CPUs, and measure them."""


def _running(command: Command) -> Command:
    options = (
        click.option("--out", type=click.Path(path_type=Path), help="Folder for everything that is written."),
        click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Seed, in place of the recipe's."),
        click.option("--epochs", type=click.IntRange(1), help="Epochs, in place of the recipe's."),
        click.option("--precision", type=click.Choice(["f32", "bf16"]), help="In place of the recipe's."),
        click.option("--resume", is_flag=True, help="Continue from the checkpoint in the output folder."),
        click.option("--force", is_flag=True, help="Replace the finished run of another recipe."),
        _json,
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@_folder
@_running
def run(recipe: Path, data: Path | None, **options: Any) -> None:
    """Do what RECIPE, a TOML file, says: data, training, files and a report in one folder."""
    from smelt.cli.recipe import read_recipe
    from smelt.cli.run import run_recipe

    run_recipe(read_recipe(recipe), data, **options)


@cli.command()
@click.option("--model", required=True, help="A network of the zoo.")
@click.option(
    "--data", required=True, help="digits, mnist, fashion_mnist, an NPZ file, or a folder of IDX files or images."
)
@click.option("--batch-size", type=click.IntRange(1), help="Samples per step.")
@click.option("--optimizer", help="adam, adamw, sgd or rmsprop.")
@click.option("--lr", type=float, help="Learning rate.")
@click.option("--weight-decay", type=float, help="L2 penalty.")
@click.option("--loss", help="cross_entropy, mse, ...")
@click.option("--set", "settings", multiple=True, metavar="TABLE.KEY=VALUE", help="Any other key of a recipe.")
@_running
def train(model: str, data: str, settings: tuple[str, ...], **options: Any) -> None:
    """Train a network of the zoo: a recipe given as options."""
    from smelt.cli.recipe import Recipe, check
    from smelt.cli.run import run_recipe
    from smelt.cli.source import data_table

    tables: dict[str, dict[str, Any]] = {"model": {"name": model}, "data": data_table(data)}
    given = (
        ("train", "batch_size", options.pop("batch_size")),
        ("optimizer", "name", options.pop("optimizer")),
        ("optimizer", "lr", options.pop("lr")),
        ("optimizer", "weight_decay", options.pop("weight_decay")),
        ("loss", "name", options.pop("loss")),
    )
    for table, key, value in given:
        if value is not None:
            tables.setdefault(table, {})[key] = value
    for setting in settings:
        table, key, value = _setting(setting)
        tables.setdefault(table, {})[key] = value
    recipe = Recipe("command line", tables)
    check(recipe)
    tables.setdefault("output", {}).setdefault("folder", f"runs/{model}-{tables['data']['name']}")
    run_recipe(recipe, None, **options)


def _setting(text: str) -> tuple[str, str, Any]:
    """Return table, key and value of ``table.key=value``; a value that is not TOML is text."""
    path, equals, value = text.partition("=")
    table, dot, key = path.strip().partition(".")
    if not equals or not dot or not key:
        raise click.UsageError(f"--set {text}: expected table.key=value, such as optimizer.lr=0.01")
    try:
        return table, key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return table, key, value.strip()


@cli.command("eval")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", help="As for train; without it, what the recipe.toml beside the model says.")
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Samples per step.")
@_json
def evaluate(model: Path, data: str | None, batch_size: int, as_json: bool) -> None:
    """Count how many test samples MODEL, a .smelt file, gets right."""
    from smelt.cli.inspect import evaluate_file

    evaluate_file(model, data, batch_size, as_json)


@cli.command("summary")
@click.argument("model")
@click.option("--input", "shape", metavar="SIZES", help="Shape of one sample, such as 1,28,28.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Samples.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Of a network of the zoo: width=0.5.")
@click.option("--folded", is_flag=True, help="Count batch normalization as folded into the layers before it.")
@click.option("--target", metavar="NAME", help="Memory as exported C instead, call by call: c, cortex-m4, ...")
@click.option("--plan", "picture", type=click.Path(path_type=Path), help="With --target: draw the arena over time.")
@_json
def summarize(options: tuple[str, ...], folded: bool, target: str | None, picture: Path | None, **rest: Any) -> None:
    """Print what MODEL, a .smelt file or a network of the zoo, costs: parameters, MACs, FLOPs, memory, per layer."""
    given = dict(_setting(f"model.{option}")[1:] for option in options)
    if target is None:
        from smelt.cli.inspect import summarize_model

        if picture is not None:
            raise click.UsageError("--plan draws the arena of an exported form: expected --target too")
        summarize_model(options=given, folded=folded, **rest)
    else:
        from smelt.cli.plan import plan_memory

        plan_memory(target=target, options=given, picture=picture, **rest)


def _target(command: Command) -> Command:
    """Add what says which step to look at."""
    options = (
        click.argument("target"),
        click.option(
            "--train/--infer",
            "training",
            default=None,
            help="Training step or inference; by default what TARGET is for.",
        ),
        click.option(
            "--batch", type=click.IntRange(1), help="Samples per step; by default the recipe's, 64, or 1 to infer."
        ),
        click.option("--input", "shape", metavar="SIZES", help="Shape of one sample, such as 1,28,28."),
        click.option(
            "--option", "options", multiple=True, metavar="KEY=VALUE", help="Of a network of the zoo: width=0.5."
        ),
        _folder,
    )
    for option in reversed(options):
        command = option(command)
    return command


def _find(target: str, options: tuple[str, ...], **given: Any) -> Any:
    from smelt.cli.target import find_target

    return find_target(target, options=dict(_setting(f"model.{o}")[1:] for o in options), **given)


@cli.command()
@_target
@click.option("--steps", type=click.IntRange(1), default=50, show_default=True, help="Steps to measure.")
@click.option("--threads", type=click.IntRange(1, 64), help="Threads; by default the processors there are.")
@click.option("--trace", type=click.Path(path_type=Path), help="Write a Chrome trace, for Perfetto.")
@click.option("--stacks", type=click.Path(path_type=Path), help="Write collapsed stacks, for flame graphs.")
@click.option("--roofline", type=click.Path(path_type=Path), help="Draw the roofline: PNG, SVG or PDF.")
@click.option("--perf-map", is_flag=True, help="Write /tmp/perf-PID.map, for Linux's perf.")
@_json
def profile(
    steps: int, threads: int | None, perf_map: bool, as_json: bool, target: str, options: tuple[str, ...], **rest: Any
) -> None:
    """Measure where the time of a step of TARGET goes: a recipe, a .smelt file or a network of the zoo."""
    from smelt.cli.profile import profile_target

    files = {kind: rest.pop(kind) for kind in ("trace", "stacks", "roofline")}
    profile_target(_find(target, options, **rest), steps, threads, files, perf_map, as_json)


@cli.command()
@_target
@click.option("--graph", is_flag=True, help="Add the traced graph and the plan of the memory.")
@click.option("--loops", is_flag=True, help="Add the loops of every kernel.")
@_json
def explain(graph: bool, loops: bool, as_json: bool, target: str, options: tuple[str, ...], **rest: Any) -> None:
    """Say what the compiler made of a step of TARGET, and why it did not do more."""
    from smelt.cli.profile import explain_target

    explain_target(_find(target, options, **rest), graph, loops, as_json)


def _exported(command: Command) -> Command:
    """Add what export and validate share: the model, and the options of single forms."""
    options = (
        click.argument("model"),
        click.option("--input", "shape", metavar="SIZES", help="Shape of one sample, such as 1,28,28."),
        click.option(
            "--option", "options", multiple=True, metavar="KEY=VALUE", help="Of a network of the zoo: width=0.5."
        ),
        click.option("--batch", type=click.IntRange(1), help="Samples per run.  [default: 1; free for onnx]"),
        click.option("--opset", type=int, help="onnx: version of the operators: 26, 27 or 28.  [default: 26]"),
        click.option("--target", metavar="NAME", help="object, c: a processor such as cortex-m4; native for objects."),
        _json,
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command("export")
@_exported
@click.option("--to", required=True, metavar="FORM", help="c (C99 source), object (machine code) or onnx.")
@click.option("--out", type=click.Path(path_type=Path), help="File for onnx, else a folder; by default here.")
@click.option("--name", help="c, object: prefix of every name and file.")
@click.option("--arena", type=click.Choice(["caller", "static"]), help="c, object: who keeps the memory.")
@click.option("--self-test", type=click.IntRange(1), metavar="N", help="c, object: record N samples, write a test.")
@click.option("--data", help="What --self-test records, as for validate.")
def export(model: str, options: tuple[str, ...], **given: Any) -> None:
    """Write MODEL for other programs: a .smelt or .onnx file, or a network of the zoo."""
    from smelt.cli.export import export_model

    export_model(model, options=dict(_setting(f"model.{o}")[1:] for o in options), **given)


@cli.command("validate")
@_exported
@click.option("--as", "form_name", required=True, metavar="FORM", help="c, object or onnx.")
@click.option("--data", help="As for train; without it, what the recipe.toml beside MODEL says, or random numbers.")
@click.option("--samples", type=click.IntRange(1), help="Most test samples to run.  [default: 1000; 20 with --target]")
@click.pass_context
def validate(context: click.Context, model: str, options: tuple[str, ...], **given: Any) -> None:
    """Export MODEL, run what came out, and say how far both agree; status 1 when they do not."""
    from smelt.cli.export import validate_model

    context.exit(validate_model(model, options=dict(_setting(f"model.{o}")[1:] for o in options), **given))


@cli.command()
@_json
def doctor(as_json: bool) -> None:
    """Describe this computer as Smelt sees it, and measure what it reaches."""
    from smelt.cli.doctor import examine

    examine(as_json)


@cli.group()
def bench() -> None:
    """Measure Smelt side by side with other libraries that are installed."""


def _models(command: Command) -> Command:
    batch = click.option("--batch", type=click.IntRange(1), help="Samples, in place of each network's own.")
    return click.option("--models", metavar="NAMES", help="Networks of the zoo: mnist_cnn,resnet8.")(batch(command))


def _benchmark(command: Command) -> Command:
    options = (
        click.option("--threads", metavar="NUMBERS", default="1,2", show_default=True, help="Each is tried."),
        click.option("--rounds", type=click.IntRange(1), default=15, show_default=True, help="Turns of each."),
        click.option("--peers", metavar="NAMES", help="Libraries to compare with; by default all."),
        _json,
    )
    for option in reversed(options):
        command = option(command)
    return _models(command)


@bench.command("train")
@_benchmark
@click.option(
    "--precision",
    type=click.Choice(["f32", "bf16"]),
    default="f32",
    show_default=True,
    help="Measure Smelt in this precision too.",
)
@click.option("--slow", is_flag=True, help="Also torch.compile, which takes half a minute to start.")
def bench_train(**options: Any) -> None:
    """Time whole training steps, with Adam, against PyTorch and TensorFlow."""
    from smelt.cli.bench import compare_libraries

    compare_libraries("train", **options)


@bench.command("compile")
@_models
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Processes of each kind.")
@_json
def bench_compile(**options: Any) -> None:
    """Time the first call of a training step, and of inference: with an empty cache, and with a full one."""
    from smelt.cli.bench_own import time_first_calls

    time_first_calls(**options)


@bench.command("timeline")
@click.option("--model", default="mnist_cnn", show_default=True, help="A network of the zoo.")
@click.option("--batch", type=click.IntRange(1), help="Samples, in place of the network's own.")
@click.option("--threads", type=click.IntRange(1, 64), help="Of the stages with more than one.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Turns of each.")
@_json
def bench_timeline(**options: Any) -> None:
    """Time a training step with the compiler's stages switched on one after another."""
    from smelt.cli.bench_own import show_timeline

    show_timeline(**options)


@bench.command("scale")
@click.option("--model", default="mnist_cnn", show_default=True, help="A network of the zoo.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Turns of each.")
@_json
def bench_scale(**options: Any) -> None:
    """Measure what kernels reach of the processor's peak, and what threads and larger batches gain."""
    from smelt.cli.bench_own import show_scaling

    show_scaling(**options)


@bench.command("c")
@click.option("--models", metavar="NAMES", help="Networks of the zoo: ds_cnn,resnet8; by default all.")
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True, help="Turns of each.")
@_json
def bench_c(**options: Any) -> None:
    """Time exported C and objects against the compiled model and naive loops; needs a C compiler."""
    from smelt.cli.bench_own import show_exported

    show_exported(**options)


@bench.command("infer")
@_benchmark
def bench_infer(**options: Any) -> None:
    """Time inference, array in and array out, against ONNX Runtime, OpenVINO and LiteRT."""
    from smelt.cli.bench import compare_libraries

    compare_libraries("infer", **options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    Examples
    --------
    >>> main(["summary", "lenet5", "--input", "1,28"])
    2
    """
    from smelt.cli.output import BROKEN_PIPE, FAILED, INTERRUPTED, complain, one_line, user_errors

    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        with cli.make_context("smelt", given or ["--help"]) as context:
            cli.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        complain(" ".join(error.format_message().split()))
        return FAILED
    except KeyboardInterrupt as stop:
        print(f"smelt: interrupted{stop.args[0] if stop.args else ''}", file=sys.stderr, flush=True)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing may fail again at exit
        return BROKEN_PIPE
    except user_errors() as error:
        complain(one_line(error))
        return FAILED
