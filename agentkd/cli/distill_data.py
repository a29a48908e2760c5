"""`agentkd distill --data`: from labels that lie there to an executor file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.cli import distill_file
from agentkd.cli.distill_report import write
from agentkd.cli.distill_view import DistillView, Goals
from agentkd.cli.first_look import out_folder
from agentkd.cli.planner_choice import access, reference
from agentkd.deploy.bundle import write_bundle
from agentkd.errors import AgentkdError, ConfigError
from agentkd.executors.architecture import initial
from agentkd.interrupt import ctrl_c
from agentkd.measure.evaluate import Evaluation, evaluate, evaluate_random
from agentkd.report.provenance import origin
from agentkd.report.write import prepare_out

if TYPE_CHECKING:
    from agentkd.cli.distill import Options
    from agentkd.distillation.dataset import About, Dataset
    from agentkd.spec import Spec


def run_data(options: Options, data: str) -> int:
    """Distil from a dataset, measure where the environment can be made, report."""
    from agentkd.cli.distill import distiller_options, mean, need_steps, tensorboard
    from agentkd.distillation.loop import Budget
    from agentkd.distillation.offline import distill_dataset, open_dataset
    from agentkd.planners import load_planner

    if options.labels is not None:
        raise ConfigError("--labels is for a planner: the dataset has its own.")
    spec, missing = _spec_of(options.env)
    dataset = open_dataset(data, options.env, spec)
    about = dataset.about
    env = options.env
    if not env:
        env, missing = _named(about.env)
        spec, missing = _spec_of(env) if env else (None, missing)
    if spec is not None:
        check(spec, about, env)
    name = env or Path(data).name
    out = out_folder("distill", name, options.out)
    learning = distiller_options(options)
    seconds = options.seconds
    if seconds is None and options.steps is None:
        seconds = 60.0
    budget = Budget(seconds, steps=options.steps)
    sketch = initial(options.executor, about.spec, squashed=dataset.kind != "gaussian")
    planner = (
        load_planner(reference(options), spec or about.spec, **access(options))
        if options.planner
        else None
    )
    lives = replace(options, env=env)
    contract = distill_file.contract(lives, spec or about.spec)
    prepare_out(out, overwrite=options.overwrite, resume=options.resume)

    from agentkd.planners import Planner

    shown = planner or Planner(
        sketch, about.spec, about.planner or "?", about.parameters, about.digest
    )
    view = DistillView(name, shown, sketch)
    view.say(f"{dataset.labels:,} labels of {dataset.episodes:,} episodes in {data}")
    if missing:
        view.say(f"Nothing can be measured: {missing}")
    bests, floor = _references(options, env, about, planner, spec, view)
    goals = Goals(mean(bests.returns), mean(floor.returns))
    file = out / "executor.akd"
    with ctrl_c(patience=2):
        with view.live(goals, tensorboard(out / "tensorboard")) as watch:
            result = distill_dataset(
                dataset,
                options.executor,
                budget=budget,
                seed=options.seed,
                options=learning,
                watch=watch,
                checkpoint=out / "checkpoint",
                resume=options.resume,
                kept_bytes=options.kept_bytes,
            )
        need_steps(result)
        result = replace(result, planner=replace(result.planner, name=shown.name))
        provenance = _provenance(options, dataset, env or about.env, result)
        write_bundle(file, result.executor, provenance, contract=contract, labels=result.kept)
    executor = Evaluation((), ())
    if spec is not None:
        view.say(f"Measuring the executor over {options.episodes} episodes …")
        try:
            executor = _measure(options, env, result.executor.policy, spec)
            facts = provenance | distill_file.measured(bests, floor, executor, options)
            distill_file.write_proven(file, result.executor, facts, contract, lives, result.kept)
        except KeyboardInterrupt:
            result = replace(result, interrupted=True)
    # A Minari dataset's reference is the dataset: no planner goes by that name.
    known = () if "minari" in about.more else about.refs
    told = replace(options, env=name, planner=options.planner or known)
    return write(told, out, result, bests, floor, executor, view)


def _named(env: str) -> tuple[str, str]:
    """The environment that a dataset names, or "" and why it is not made."""
    from agentkd.environments import named_by_file

    try:
        return named_by_file(env), ""
    except AgentkdError as error:
        return "", str(error)


def _spec_of(env: str) -> tuple[Spec | None, str]:
    """The environment's spec, or why there is none."""
    from agentkd.environments import look_at

    if not env:
        return None, ""
    try:
        return look_at(env)[0], ""
    except AgentkdError as error:
        return None, str(error)


def check(spec: Spec, about: About, env: str) -> None:
    """Make sure that a dataset is of an environment.

    Raises:
        ConfigError: If it is not.
    """
    if spec.obs.size != about.spec.obs.size or spec.action != about.spec.action:
        raise ConfigError(
            f"The dataset is of {about.spec.obs.size} numbers and {about.spec.action}; "
            f"{env} has {spec.obs.size} and {spec.action}. Name the environment that "
            "it was recorded in."
        )


def _measure(options: Options, env: str, policy: Any, spec: Spec) -> Evaluation:
    return evaluate(env, policy, episodes=options.episodes, seed=options.eval_seed, spec=spec)


def _references(
    options: Options, env: str, about: About, planner: Any, spec: Spec | None, view: DistillView
) -> tuple[Evaluation, Evaluation]:
    """What planner and random actions get: measured now, or as the dataset says.

    The dataset's own figures serve where they are of the same seeds.
    """
    nothing = Evaluation((), ())
    count = options.episodes
    same = about.eval_seed == options.eval_seed and len(about.random_returns) >= count
    if same and planner is None:
        returns = about.planner_returns[:count], about.random_returns[:count]
        best, floor = (Evaluation(each, ()) for each in returns)
        return best, floor
    if spec is None:
        return Evaluation(about.planner_returns, ()), nothing
    view.say("Measuring random actions" + (" and the planner …" if planner else " …"))
    floor = evaluate_random(env, episodes=count, seed=options.eval_seed)
    if planner is not None:
        return _measure(options, env, planner.policy, spec), floor
    if about.planner_returns:
        view.say("The planner's return is that of its recorded episodes.")
    return Evaluation(about.planner_returns, ()), floor


def _provenance(options: Options, dataset: Dataset, env: str, result: Any) -> dict[str, Any]:
    about = dataset.about
    return {
        "env": env,
        "planner": {"refs": list(about.refs), "name": about.planner},
        "planner_digest": about.digest,
        "data": options.data,
        "labels": result.labels,
        "seed": options.seed,
        "command": ["agentkd", *sys.argv[1:]],
        "versions": origin()["versions"],
    }
