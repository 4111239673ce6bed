"""The command line: ``hardfast train | generate | eval | report | bench | info``."""

# Only what `hardfast --help` needs is imported here; torch and matplotlib take seconds and wait for their command.
from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import select
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import tyro

from hardfast.interruption import exit_status

__all__ = ["main"]

_COMMANDS = {
    "train": "Train every method of a recipe, print the results and write the report.",
    "generate": "Generate images on which the teacher and the student of a recipe disagree.",
    "eval": "Evaluate a run of HARD on other sets, such as CIFAR-10-C, and write evaluation.html.",
    "report": "Write report.html of a run, finished or not, and print its results.",
    "bench": "Time the ops and training steps beside everything that does the same.",
    "info": "Show versions, compiled libraries and what each op runs on.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None for those of the process.

    Returns:
        Exit status: 0 done, 1 failed, 2 wrong arguments, 130 interrupted by Ctrl-C, 141 nobody reads what is printed,
        143 interrupted by SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        return 141
    return status


def _run(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except SystemExit as stop:  # tyro's way to end after --help and after wrong arguments
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt as stop:
        print("\ninterrupted", file=sys.stderr)
        return exit_status(stop)


def _reader_has_left() -> bool:
    """Whether it is the standard output that is broken; if so, what waits to be printed goes nowhere."""
    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _dispatch(arguments: list[str]) -> int:
    command = arguments[0] if arguments else None
    if command == "train":
        return _train(arguments[1:])
    if command == "generate":
        return _generate(arguments[1:])
    if command == "eval":
        return _call(_evaluate, "hardfast eval", arguments[1:])
    if command == "report":
        return _call(_report, "hardfast report", arguments[1:])
    if command == "bench":
        return _call(_benchmark(), "hardfast bench", arguments[1:])
    if command == "info":
        return _call(_info, "hardfast info", arguments[1:])
    if command == "--version":
        import hardfast

        print(hardfast.__version__)
        return 0
    if command in ("-h", "--help", None):
        _print_help("hardfast COMMAND [OPTIONS]", "Learned augmentors for robust distillation.", "commands", _COMMANDS)
        print("Each command has its own --help. `hardfast --version` prints the version.")
        return 0 if command else 2
    _fail(f"unknown command {command!r}; choose one of: {', '.join(_COMMANDS)}", status=2)


def _print_help(usage: str, about: str, heading: str, entries: Mapping[str, str]) -> None:
    width = max(map(len, entries), default=0)
    lines = [f"  {name:{width}}  {text}" for name, text in entries.items()]
    print("\n".join([f"usage: {usage}", "", about, "", f"{heading}:", *lines, ""]))


def _fail(message: object, status: int = 1) -> NoReturn:
    print(f"hardfast: {message}", file=sys.stderr)
    raise SystemExit(status)


def _call(function: Callable[..., int], prog: str, arguments: list[str], options: Sequence[str] = ()) -> int:
    """Parse the arguments of a function and call it; unknown ones are answered with the valid ones."""
    names = options or [_flag(name, parameter.annotation) for name, parameter in _parameters(function)]
    about = (inspect.getdoc(function) or "").partition("\n\nArgs:")[0]
    try:
        parsed, unknown = tyro.cli(
            _deferred(function), prog=prog, description=about, args=arguments, return_unknown_args=True
        )
    except ValueError as error:
        _fail(f"{prog.removeprefix('hardfast ')}: {error}", status=2)
    if unknown:
        what = "option" if unknown[0].startswith("-") else "argument"
        _fail(f"unknown {what} {unknown[0]!r} of `{prog}`; it takes: {', '.join([*names, '--help'])}", status=2)
    return parsed()


def _parameters(function: Callable[..., int]) -> list[tuple[str, inspect.Parameter]]:
    return list(inspect.signature(function, eval_str=True).parameters.items())


def _flag(name: str, annotation: Any) -> str:
    return name.upper() if "Positional" in str(annotation) else "--" + name.replace("_", "-")


def _deferred(function: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """Return the function with the same signature that only remembers its arguments, so that all are checked first."""

    def remember(*args: Any, **kwargs: Any) -> Callable[[], int]:
        return lambda: function(*args, **kwargs)

    remember.__doc__ = function.__doc__
    remember.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    remember.__annotations__ = {name: parameter.annotation for name, parameter in _parameters(function)}
    return remember


def _train(arguments: list[str]) -> int:
    from hardfast.recipes import RECIPES

    name = _recipe_name("train", RECIPES, arguments)
    if name is None:
        return 0 if arguments else 2
    default = RECIPES[name]

    def train(
        recipe: Any = default,
        out: Path | None = None,
        resume: str = "auto",
        checkpoint_every: str = "60s",
        keep_checkpoints: int = 2,
    ) -> int:
        from hardfast import train_command

        try:
            return train_command.run(recipe, out, resume, checkpoint_every, keep_checkpoints)
        except train_command.TrainingError as error:
            _fail(error)

    train.__doc__ = (
        f"{inspect.getdoc(type(default)) or ''}\n\nArgs:\n    recipe: the recipe.\n"
        "    out: directory of the run; runs/RECIPE/TIME if not given.\n"
        "    resume: auto continues the run in --out or, without it, the last unfinished one of the recipe with the "
        "same settings, and begins one where there is none; never begins one; a directory is the run to continue.\n"
        "    checkpoint_every: time, such as 60s or 10min, or student steps between checkpoints.\n"
        "    keep_checkpoints: of each training, the last ones."
    )
    train.__annotations__["recipe"] = Annotated[type(default), tyro.conf.arg(name="")]
    options = [*_options(default), "--out", "--resume", "--checkpoint-every", "--keep-checkpoints"]
    return _call(train, f"hardfast train {name}", arguments[1:], options)


def _recipe_name(command: str, recipes: Mapping[str, Any], arguments: list[str]) -> str | None:
    """Return the recipe that a command is for; None after its help."""
    name = arguments[0] if arguments else None
    if name in ("-h", "--help", None):
        about = {key: (inspect.getdoc(type(recipe)) or "").partition("\n")[0] for key, recipe in recipes.items()}
        _print_help(f"hardfast {command} RECIPE [OPTIONS]", _COMMANDS[command], "recipes", about)
        print(f"`hardfast {command} RECIPE --help` lists the options of a recipe.")
        return None
    if name not in recipes:
        _fail(f"unknown recipe {name!r}; choose one of: {', '.join(recipes)}", status=2)
    return name


def _generate(arguments: list[str]) -> int:
    from hardfast import generate_command
    from hardfast.recipes import RECIPES

    able = {key: recipe for key, recipe in RECIPES.items() if isinstance(recipe, generate_command.GeneratingRecipe)}
    if arguments and arguments[0] in RECIPES and arguments[0] not in able:
        _fail(f"{arguments[0]} has no generator; recipes that have one: {', '.join(able) or 'none'}", status=2)
    name = _recipe_name("generate", able, arguments)
    if name is None:
        return 0 if arguments else 2
    default = able[name]

    def generate(
        recipe: Any = default,
        *,
        count: int,
        out: Path | None = None,
        format: Literal["folder", "webdataset"] = "folder",
        cache: Path = Path("runs", "cache"),
    ) -> int:
        try:
            return generate_command.run(recipe, count, out, format, cache)
        except generate_command.GenerationError as error:
            _fail(error)

    generate.__doc__ = (
        f"{_COMMANDS['generate']}\n\nArgs:\n    recipe: the recipe.\n"
        "    count: candidates to make; those that are not finite, or that the teacher does not recognise, are "
        "dropped.\n"
        "    out: directory of the images, also of an earlier run, which is continued; generated/RECIPE if not given.\n"
        "    format: PNG files in a folder for each class, or shards of webdataset.\n"
        "    cache: directory of trained models, which are made if they are not there."
    )
    generate.__annotations__["recipe"] = Annotated[type(default), tyro.conf.arg(name="")]
    options = [*_options(default), "--count", "--out", "--format", "--cache"]
    return _call(generate, f"hardfast generate {name}", arguments[1:], options)


def _options(config: Any, prefix: str = "--") -> Iterator[str]:
    """Return the option of every field, as tyro names it: nested ones with dots."""
    for item in dataclasses.fields(config):
        option = prefix + item.name.replace("_", "-")
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from _options(value, f"{option}.")
        else:
            yield option


def _evaluate(
    run: tyro.conf.Positional[Path],
    sets: tuple[str, ...] = ("all",),
    root: tuple[Path, ...] = (),
    methods: tuple[str, ...] = (),
    weights: Literal["last", "best", "ema"] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 256,
) -> int:
    """Evaluate a run of HARD on other sets, print tables and write evaluation.json and evaluation.html.

    A further call adds its sets and methods, and replaces what was measured of them before.

    Args:
        run: directory of the run, such as runs/hard-mnist-mlp/20260101-120000.
        sets: test (the recipe's own), cifar10.1, cifar10.2, cifar10-c, imagenet-v2, imagenet-a, imagenet-r,
            imagenet-sketch, imagenet-c, imagenet-stylized, mnist-c; all for those that fit the recipe and are found.
        root: folders of the sets, or that hold them; the folders of the recipe's own data are looked into after them.
        methods: methods to evaluate; all of the run if not given.
        weights: of the students, those that the training tested if not given: their moving average, ema, in recipes
            that keep one, else the last; the teacher has those with which it taught.
        device: auto for a GPU where there is one.
        batch_size: images that go through the networks at a time.
    """
    from hardfast import eval_command

    try:
        return eval_command.run(run, sets, root, methods, weights, device, batch_size)
    except eval_command.EvaluationError as error:
        _fail(error)


def _report(run: tyro.conf.Positional[Path]) -> int:
    """Write report.html of a run, finished or not, and print its results.

    Args:
        run: directory of the run, such as runs/hard-digits/20260101-120000.
    """
    from hardfast import report_command
    from hardfast.report import BrokenRunError

    try:
        report_command.run(run)
    except (BrokenRunError, OSError) as error:
        _fail(error)
    return 0


def _benchmark() -> Callable[..., int]:
    try:
        from hardfast.bench.command import run
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("hardfast.bench"):
            raise
        _fail("the benchmark is not installed: install hardfast again, or run `python -m bench` in its source")
    return run


def _info(json: bool = False) -> int:
    """Show versions, compiled libraries and what each op runs on.

    Args:
        json: print JSON.
    """
    try:
        facts = _facts()
    except (ImportError, ValueError) as error:  # HARDFAST_REQUIRE asks for what is not there, or for nonsense
        _fail(error)
    print(_to_json(facts) if json else "\n".join(_outline(facts)))
    return 0


def _facts() -> dict[str, Any]:
    import torch

    import hardfast
    from hardfast.ops._library import load_errors

    facts: dict[str, Any] = {
        "hardfast": hardfast.__version__,
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none that PyTorch can use",
        "threads": torch.get_num_threads(),
        "libraries": {name: "loaded" if error is None else error for name, error in load_errors.items()},
    }
    try:
        native = importlib.import_module("hardfast._native")
        facts["libraries"]["_native"] = "loaded"
        facts["build"] = native.build_info()
        facts["cpu instruction set"] = native.cpu_isa()
    except ImportError as error:
        facts["libraries"]["_native"] = str(error)
    return facts | {"ops": hardfast.backends()}


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str)


def _outline(facts: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Return one aligned line per fact, nested ones indented below their heading."""
    width = max((len(str(key)) for key, value in facts.items() if not isinstance(value, Mapping)), default=0)
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}"
            yield from _outline(value, indent + "  ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            yield f"{indent}{key!s:{width}}  {text}"


if __name__ == "__main__":
    sys.exit(main())
